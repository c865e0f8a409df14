"""Prompts that are compared: one line a case, as in `cases`."""

import dataclasses

from cases import EULER, EULER_ANCESTRAL, LONG, Case
from family_cases import FamilyCase
from flow_cases import FlowCase
from task_cases import IMAGE_TO_IMAGE


@dataclasses.dataclass(frozen=True)
class WeightedCase(Case):
    """A case whose prompts are in AUTOMATIC1111's syntax."""

    def request(self):
        return super().request() | {"prompt_syntax": "weighted"}


# A comma near the end of the first chunk, so that the words behind it move on.
COMMAS = "a small yellow star on a black background, " * 9
NO_COMMAS = "a painting of a quiet harbour in the morning light with boats and gulls " * 6

WEIGHTED_CASES = [
    WeightedCase("no brackets"),
    WeightedCase("round brackets", prompt="a (large) red circle, ((soft light))", negative_prompt="blurry (ugly)"),
    WeightedCase("square brackets", prompt="a [large] red circle, [[soft light]]", negative_prompt="[blurry]"),
    WeightedCase("numbers", prompt="a (large:1.5) red (circle:0.3) on a (blue : 2.25 ) background", negative_prompt="(ugly:1.4)"),
    WeightedCase("negative and zero weights", prompt="a (large:-0.5) red circle on a (blue:0) background"),
    WeightedCase("nested", prompt="((a large (red:1.3)) circle:1.2) on [a (blue:1.5)] background"),
    WeightedCase("escapes", prompt=r"a \(large\) \[red\] (circle \\ \):1.4)"),
    WeightedCase("unbalanced", prompt="a) large] (red circle [on a blue", negative_prompt="blurry:1.2) (ugly"),
    WeightedCase("inside of words", prompt="water(mark:1.3)ed, a(b)c"),
    WeightedCase("broken in two", prompt="a (red:1.3) circle BREAK a blue background", negative_prompt="blurry BREAK ugly"),
    WeightedCase("broken inside brackets", prompt="(a red circle BREAK a blue background:1.3)", negative_prompt="x BREAK"),
    WeightedCase("commas move words on", prompt=COMMAS, negative_prompt=COMMAS),
    WeightedCase("long without commas", prompt=NO_COMMAS, negative_prompt="(ugly:1.2) " + NO_COMMAS, sampler=EULER),
    WeightedCase("long and weighted", prompt=f"({COMMAS}:1.2) [{COMMAS}]", negative_prompt=LONG, sampler=EULER_ANCESTRAL),
    WeightedCase("more chunks than the negative prompt", prompt=COMMAS + COMMAS, negative_prompt="(blurry:1.3)"),
    WeightedCase("fewer chunks than the negative prompt", prompt="(a red circle:1.3)", negative_prompt="a BREAK b BREAK c"),
    WeightedCase("clip skip 1", prompt="a (red:1.3) circle", negative_prompt="(blurry:1.3)", clip_skip=1),
    WeightedCase("clip skip 2, two chunks", prompt="a (red:1.3) circle BREAK b", clip_skip=2, sampler=EULER),
    WeightedCase("no guidance", prompt="a (red:1.3) circle BREAK b", guidance_scale=1.0),
    WeightedCase("two images, rescaled", prompt="a (red:1.3) circle", samples=2, guidance_rescale=0.5),
    WeightedCase("deep, weighted", pipeline="deep", prompt="a (large:1.3) red circle BREAK [b]", negative_prompt="(ugly)"),
]


@dataclasses.dataclass(frozen=True)
class WeightedFamilyCase(FamilyCase):
    """The same for a family of its own."""

    pipeline: str = "sdxl"

    def request(self):
        return super().request() | {"prompt_syntax": "weighted"}


def weighted_refiner(name, **said):
    return WeightedFamilyCase(name, pipeline="sdxl-refiner", task=IMAGE_TO_IMAGE, strength=0.6, **said)


WEIGHTED_FAMILY_CASES = [
    WeightedFamilyCase("sd21", pipeline="sd21", prompt="a (red:1.3) circle, [soft] light", negative_prompt="(ugly)"),
    WeightedFamilyCase("no brackets", negative_prompt="blurry"),
    WeightedFamilyCase("brackets", prompt="a (large:1.4) red circle, [soft] light", negative_prompt="(ugly:1.2), blurry"),
    WeightedFamilyCase("second prompts", prompt="a (red:1.3) circle", prompt_2="a [castle] on a ((hill))", negative_prompt="(ugly:1.4)", negative_prompt_2="a [horse]"),
    WeightedFamilyCase("the second prompt is longer", prompt="a (red:1.3) circle", prompt_2="a castle BREAK (a hill:0.7) BREAK fog", negative_prompt="ugly"),
    WeightedFamilyCase("the second prompt is shorter", prompt=COMMAS + COMMAS, prompt_2="a (castle:1.2)", negative_prompt="ugly BREAK (blurry:1.3)", negative_prompt_2="x"),
    WeightedFamilyCase("zeros for no negative prompt", prompt="a (red:1.3) circle BREAK [b]"),
    WeightedFamilyCase("more chunks in the negative prompt", prompt="(a circle)", negative_prompt=NO_COMMAS, sampler=EULER_ANCESTRAL),
    WeightedFamilyCase("clip skip 1, two images", prompt="a (red:1.3) circle BREAK b", negative_prompt="(ugly)", clip_skip=1, samples=2),
    WeightedFamilyCase("no guidance", prompt="a (red:1.3) circle BREAK b", guidance_scale=1.0),
    weighted_refiner("refiner", prompt="a (red:1.3) circle", negative_prompt="[ugly]"),
    weighted_refiner("refiner, two chunks, no negative prompt", prompt="a (red:1.3) circle BREAK [b]"),
]


@dataclasses.dataclass(frozen=True)
class WeightedFlowCase(FlowCase):
    """The same for one of flow matching."""

    def request(self):
        return super().request() | {"prompt_syntax": "weighted"}


WEIGHTED_FLOW_CASES = [
    WeightedFlowCase("sd3, one prompt", prompt="a (red:1.4) circle, [soft] light", negative_prompt="(ugly:1.2)"),
    WeightedFlowCase("sd3, one for each", prompt="a (red:1.3) circle", prompt_2="a [castle]", prompt_3="an ((old)) sailor BREAK fog", negative_prompt="(ugly)", negative_prompt_3="[text]"),
    WeightedFlowCase("sd3, only the first chunk counts", prompt="a (red:1.3) circle BREAK b", negative_prompt=NO_COMMAS, clip_skip=1),
    WeightedFlowCase("sd35-medium", pipeline="sd35-medium", prompt="a (red:1.3) circle", negative_prompt="ugly"),
    WeightedFlowCase("flux", pipeline="flux-dev", prompt="a (red:1.3) circle BREAK b", prompt_2="a [castle]", guidance_scale=3.5),
]


@dataclasses.dataclass(frozen=True)
class EmbeddingCase(Case):
    """A case whose prompts may name the embeddings of `test_embeddings`."""

    prompt_syntax: str = "plain"

    def request(self):
        return super().request() | {"prompt_syntax": self.prompt_syntax}


EMBEDDING_CASES = [
    EmbeddingCase("one vector", prompt="a photo of <cat-toy> on a hill"),
    EmbeddingCase("several vectors", prompt="a <harbour>, oil painting"),
    EmbeddingCase("named by its file", prompt="a castle in NeonStyle, film grain"),
    EmbeddingCase("inside of words and twice", prompt="old<harbour>s NeonStyleNeonStyle"),
    EmbeddingCase("in the negative prompt", negative_prompt="<cat-toy>, blurry NeonStyle", sampler=EULER),
    EmbeddingCase("all of them, clip skip", prompt="<harbour> <cat-toy> NeonStyle", clip_skip=1),
    EmbeddingCase("one vector of several", prompt="a <harbour>_2 castle"),
    EmbeddingCase("another case is another word", prompt="a castle in neonstyle, <CAT-TOY>"),
    EmbeddingCase("cut off with the prompt", prompt="a castle " * 37 + "<harbour>"),
    EmbeddingCase("weighted embedding", prompt_syntax="weighted", prompt="a ([large] <harbour>:1.4) castle, NeonStyle"),
    EmbeddingCase(
        "embedding that moves to the next chunk",
        prompt_syntax="weighted",
        prompt="a castle " * 37 + "(<harbour>:1.2)",
        negative_prompt="<cat-toy> BREAK (blurry:1.2)",
    ),
    EmbeddingCase("half precision files, embedding", pipeline="half", prompt="a <harbour> castle"),
]
