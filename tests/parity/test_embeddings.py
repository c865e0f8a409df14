"""Textual inversion as diffusers has it: `load_textual_inversion` on one side, the files on the other."""

import zlib

import pytest
import torch
from safetensors.torch import save_file

import comparison
import make_pipelines
import reference
from prompt_cases import EMBEDDING_CASES, EmbeddingCase
from runtime_trace import TraceFailed, trace
from weighted_reference import weighted_prompts


def vectors(seed, *shape):
    return 0.7 * torch.randn(*shape, make_pipelines.TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))


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


def test_without_its_embedding_a_word_is_only_text(runtime_binary, folders, pipelines_with_embeddings, tmp_path):
    case = EmbeddingCase("asked", prompt="a <harbour> castle")
    expected = reference.run(pipelines_with_embeddings("base"), case, seed=5)
    ours = trace(runtime_binary, folders["base"], case.request(), expected.draws, tmp_path, "without")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"<wide>": torch.zeros(2, 768)}, f"768 features; this model's text encoder has {make_pipelines.TEXT_WIDTH}"),
        ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "single text encoder"),
        ({"lora.up": torch.zeros(4, 4), "lora.down": torch.zeros(4, 4)}, "2 tensors"),
    ],
    ids=["of another width", "of another family", "a LoRA"],
)
def test_what_is_no_embedding_for_this_model_is_refused(tensors, named, runtime_binary, folders, tmp_path):
    save_file(tensors, tmp_path / "other.safetensors")
    request = EmbeddingCase("refused").request() | {"embeddings": [str(tmp_path / "other.safetensors")]}
    with pytest.raises(TraceFailed, match=named):
        trace(runtime_binary, folders["base"], request, {}, tmp_path, "refused")
