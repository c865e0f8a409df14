"""Textual inversion as diffusers has it: `load_textual_inversion` on one side, the files on the other."""

import dataclasses
import zlib

import pytest
import torch
from safetensors.torch import save_file

import comparison
import family_pipelines
import family_reference
import flow_pipelines
import flow_reference
import tiny_networks
import reference
from family_cases import FamilyCase
from flow_cases import FlowCase
from prompt_cases import EMBEDDING_CASES, EmbeddingCase
from runtime_trace import TraceFailed, trace
from weighted_reference import weighted_prompts


def vectors(seed, *shape):
    return 0.7 * torch.randn(*shape, tiny_networks.TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Each file with the word that diffusers is told; None where the file says it."""
    folder = tmp_path_factory.mktemp("embeddings")
    made = {
        folder / "cat-toy.safetensors": ({"<cat-toy>": vectors(1)}, None),
        folder / "learned_embeds.safetensors": ({"<harbour>": vectors(2, 3)}, None),
        folder / "NeonStyle.safetensors": ({"emb_params": vectors(3, 2)}, "NeonStyle"),
    }
    for file, (tensors, _) in made.items():
        save_file(tensors, file)
    return {file: word for file, (_, word) in made.items()}


@pytest.fixture(scope="session")
def pipelines_with_embeddings(folders, files):
    """Pipelines of their own, as loading changes them."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = reference.load(folders[name])
            for file, word in files.items():
                loaded[name].load_textual_inversion(str(file), token=word, local_files_only=True)
        return loaded[name]

    return get


@pytest.mark.parametrize("case", EMBEDDING_CASES, ids=lambda case: case.name)
def test_embeddings_take_the_place_of_their_words(case, runtime_binary, folders, files, pipelines_with_embeddings, agree, tmp_path):
    pipeline, seed = pipelines_with_embeddings(case.pipeline), zlib.crc32(case.name.encode())
    if case.prompt_syntax == "weighted":
        with weighted_prompts(pipeline, case) as embeddings:
            expected = reference.run(pipeline, case, seed, embeddings=embeddings)
    else:
        expected = reference.run(pipeline, case, seed)
    request = case.request() | {"embeddings": [str(file) for file in files]}
    ours = trace(runtime_binary, folders[case.pipeline], request, expected.draws, tmp_path, "embedding")
    agree(case, folders[case.pipeline], expected, ours)


# What files for several text encoders call them, and how wide each one's tokens are.
XL_WIDTHS = {"clip_l": tiny_networks.TEXT_WIDTH, "clip_g": family_pipelines.SECOND_WIDTH}
SD3_WIDTHS = dict(zip(["clip_l", "clip_g"], flow_pipelines.CLIP_WIDTHS))
FLUX_WIDTHS = {"clip_l": flow_pipelines.CLIP_WIDTHS[0]}
WORD, VECTORS = "<both>", 2
NAMED = "a castle, <both>, film grain"
SEVERAL_ENCODERS = [
    (FamilyCase("sdxl", pipeline="sdxl", prompt=NAMED, negative_prompt="<both>_1 ugly"), XL_WIDTHS),
    (FamilyCase("sdxl, for one prompt alone", pipeline="sdxl", prompt_2=NAMED, negative_prompt=""), XL_WIDTHS),
    # Its T5 knows no such words.
    (FlowCase("sd3", prompt=NAMED, prompt_3="an old sailor", negative_prompt="ugly", negative_prompt_3="text"), SD3_WIDTHS),
    (FlowCase("flux", pipeline="flux-dev", prompt=NAMED), FLUX_WIDTHS),
]


def taught(pipeline, tensors):
    """A pipeline that knows the word, as `load_textual_inversion` teaches it."""
    for number, name in enumerate(tensors):
        end = "_2" if number else ""
        tokenizer, encoder = getattr(pipeline, f"tokenizer{end}"), getattr(pipeline, f"text_encoder{end}")
        tokenizer.add_tokens([WORD] + [f"{WORD}_{at}" for at in range(1, VECTORS)])
        with torch.no_grad():
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False).weight[-VECTORS:] = tensors[name]
    return pipeline


@pytest.mark.parametrize(("case", "widths"), SEVERAL_ENCODERS, ids=lambda value: getattr(value, "name", ""))
def test_each_text_encoder_takes_its_own_vectors(case, widths, runtime_binary, family_folders, flow_folders, agree, tmp_path):
    generator = torch.Generator().manual_seed(6)
    tensors = {name: 0.7 * torch.randn(VECTORS, width, generator=generator) for name, width in widths.items()}
    save_file(tensors, tmp_path / f"{WORD}.safetensors")
    folders, of_family = (flow_folders, flow_reference) if isinstance(case, FlowCase) else (family_folders, family_reference)
    pipeline = taught(of_family.load(folders[case.pipeline]), tensors)
    said = case
    if not hasattr(pipeline, "maybe_convert_prompt"):
        # What the other pipelines do before they read a prompt.
        said = dataclasses.replace(case, prompt=case.prompt.replace(WORD, f"{WORD} {WORD}_1"))
    expected = of_family.run(pipeline, said, seed=7)
    request = case.request() | {"embeddings": [str(tmp_path / f"{WORD}.safetensors")]}
    ours = trace(runtime_binary, folders[case.pipeline], request, expected.draws, tmp_path, "embedding")
    agree(case, folders[case.pipeline], expected, ours)
    without = trace(runtime_binary, folders[case.pipeline], case.request(), expected.draws, tmp_path, "without")
    assert comparison.measure(expected, without["step_latents"], without["image"]).complaints(), "the embedding changes nothing"


def test_without_its_embedding_a_word_is_only_text(runtime_binary, folders, pipelines_with_embeddings, tmp_path):
    case = EmbeddingCase("asked", prompt="a <harbour> castle")
    expected = reference.run(pipelines_with_embeddings("base"), case, seed=5)
    ours = trace(runtime_binary, folders["base"], case.request(), expected.draws, tmp_path, "without")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"<wide>": torch.zeros(2, 768)}, f"768 features; this model's text encoder has {tiny_networks.TEXT_WIDTH}"),
        ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "single text encoder"),
        ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280), "t5xxl": torch.zeros(2, 4096)}, "vectors for T5.*without `t5xxl`"),
        ({"lora.up": torch.zeros(4, 4), "lora.down": torch.zeros(4, 4)}, "2 tensors"),
    ],
    ids=["of another width", "of another family", "of T5", "a LoRA"],
)
def test_what_is_no_embedding_for_this_model_is_refused(tensors, named, runtime_binary, folders, tmp_path):
    save_file(tensors, tmp_path / "other.safetensors")
    request = EmbeddingCase("refused").request() | {"embeddings": [str(tmp_path / "other.safetensors")]}
    with pytest.raises(TraceFailed, match=named):
        trace(runtime_binary, folders["base"], request, {}, tmp_path, "refused")
