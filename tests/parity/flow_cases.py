"""What is compared of the families of flow matching: one line a case, as in cases.py."""

import dataclasses

from cases import AWKWARD, LONG, Case
from task_cases import IMAGE_TO_IMAGE, INPAINT

EULER, HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
# The default numbers of T5's tokens cost more than they show; some cases keep them.
SHORT = 24


@dataclasses.dataclass(frozen=True)
class FlowCase(Case):
    """A case in the fields of these pipelines; with a strength it begins with an image, of which it may draw a part anew."""

    pipeline: str = "sd3"
    num_inference_steps: int = 4
    prompt_2: str | None = None
    prompt_3: str | None = None
    negative_prompt_2: str | None = None
    negative_prompt_3: str | None = None
    max_sequence_length: int | None = SHORT
    true_cfg_scale: float | None = None
    strength: float | None = None
    has_mask: bool = False

    @property
    def task(self):
        if self.strength is None:
            return "text_to_image"
        return INPAINT if self.has_mask else IMAGE_TO_IMAGE

    def request(self):
        said = super().request() | {"task": self.task}
        del said["has_mask"]
        return said


def flux(name, pipeline="flux-dev", **said):
    return FlowCase(f"{pipeline}: {name}", pipeline=pipeline, **{"guidance_scale": 3.5} | said)


def sd3(name, pipeline="sd3", **said):
    return FlowCase(f"{pipeline}: {name}", pipeline=pipeline, **said)


FLOW_CASES = [
    sd3("as the folder says"),
    sd3("default guidance and tokens", guidance_scale=None, max_sequence_length=None, num_inference_steps=2),
    sd3("heun", sampler=HEUN),
    sd3("one step", num_inference_steps=1),
    sd3("shifted by size", sampler=EULER, sampler_options={"use_dynamic_shifting": True}),
    sd3("karras", sampler_options={"use_karras_sigmas": True}),
    sd3("two images, negative prompt", samples=2, negative_prompt="blurry, low quality"),
    sd3("a prompt for each encoder", prompt_2="a small yellow star", prompt_3="an old sailor", negative_prompt="ugly", negative_prompt_3="text"),
    sd3("empty second prompts are the first", prompt_2="", prompt_3="", negative_prompt="ugly", negative_prompt_2=""),
    sd3("clip skip", clip_skip=1, negative_prompt="ugly"),
    sd3("no guidance, portrait", guidance_scale=1.0, width=64, height=128),
    sd3("awkward text", prompt=AWKWARD, negative_prompt="</s> and <|endoftext|> <extra_id_0>x"),
    sd3("long text is cut", prompt=LONG),
    sd3("image, strength 0.6", strength=0.6, num_inference_steps=5),
    sd3("image, a step that strength leaves a part of", strength=0.29, num_inference_steps=10, samples=2),
    sd3("image, heun", strength=0.5, sampler=HEUN),
    sd3("inpaint, strength 0.6", strength=0.6, has_mask=True, num_inference_steps=5),
    sd3("inpaint, strength 1, two images", strength=1.0, has_mask=True, samples=2, negative_prompt="ugly"),
    sd3("as the folder says", "sd3-without-t5", negative_prompt="ugly", max_sequence_length=None),
    sd3("short zeros", "sd3-without-t5"),
    sd3("as the folder says", "sd35-medium"),
    sd3("two images, portrait", "sd35-medium", samples=2, width=64, height=128, negative_prompt="ugly"),
    sd3("image", "sd35-medium", strength=0.7),
    sd3("as the folder says", "sd35-large", negative_prompt="ugly"),
    sd3("few steps without guidance", "sd35-large", guidance_scale=0.0, num_inference_steps=3),
    flux("as the folder says"),
    flux("default guidance and tokens", guidance_scale=None, max_sequence_length=None, num_inference_steps=2),
    flux("guidance 1 is still an input", guidance_scale=1.0),
    flux("true guidance", true_cfg_scale=3.0, negative_prompt="ugly", negative_prompt_2="blurry"),
    flux("true guidance without a negative prompt is none", true_cfg_scale=3.0),
    flux("two prompts, two images, portrait", prompt_2="a small yellow star", samples=2, width=64, height=128),
    flux("awkward text", prompt=AWKWARD),
    flux("no shift", sampler=EULER, sampler_options={"use_dynamic_shifting": False, "shift": 2.0}),
    flux("shifted linearly", sampler_options={"time_shift_type": "linear"}),
    flux("image", strength=0.6, num_inference_steps=5),
    flux("inpaint", strength=0.85, has_mask=True, num_inference_steps=5),
    flux("as the folder says", "flux-schnell"),
    flux("guidance is ignored", "flux-schnell", guidance_scale=9.0),
    flux("true guidance", "flux-schnell", true_cfg_scale=2.0, negative_prompt="ugly"),
    flux("image", "flux-schnell", strength=0.95, samples=2),
]
