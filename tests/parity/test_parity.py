"""Same weights, same draws, same request: the runtime and diffusers agree at every step."""

import dataclasses
import zlib

import numpy
import pytest

import comparison
import reference
from cases import CASES, DEMO_CASES, Case
from runtime_trace import TraceFailed, trace
from sampler_cases import SAMPLER_CASES


def file_name(case: Case):
    return "".join(character if character.isalnum() else "-" for character in case.name)


@pytest.mark.parametrize("case", CASES + SAMPLER_CASES + DEMO_CASES, ids=lambda case: case.name)
def test_the_runtime_agrees_with_diffusers(case, runtime_binary, folders, pipelines, agree, tmp_path):
    # A seed of its own for each case, the same in every run.
    expected = reference.run(pipelines(case.pipeline), case, seed=zlib.crc32(case.name.encode()))
    ours = trace(runtime_binary, folders[case.pipeline], case.request(), expected.draws, tmp_path, file_name(case))
    agree(case, folders[case.pipeline], expected, ours)


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 5.05},
        {"clip_skip": 1},
        {"prompt": "a large red circle on a blue backgrounds"},
        {"sampler_options": {"steps_offset": 0}},
        {"negative_prompt": "blurry"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_slightly_different_request_does_not_agree(change, runtime_binary, folders, pipelines, tmp_path):
    asked, other = Case("asked"), dataclasses.replace(Case("other"), **change)
    expected = reference.run(pipelines("base"), asked, seed=5)
    ours = trace(runtime_binary, folders["base"], other.request(), expected.draws, tmp_path, "other")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


def test_without_tensors_the_seed_decides(runtime_binary, folders, tmp_path):
    request = Case("seeded", eta=0.7, samples=2).request()
    made = {
        name: trace(runtime_binary, folders["base"], request | {"seed": seed}, {}, tmp_path, name)["step_latents"]
        for name, seed in [("first", 11), ("again", 11), ("other", 12)]
    }
    assert numpy.array_equal(made["first"], made["again"])
    assert not numpy.array_equal(made["first"], made["other"])
    assert not numpy.array_equal(made["first"][:, 0], made["first"][:, 1]), "two images of one request are alike"


def test_an_image_does_not_depend_on_its_siblings(runtime_binary, folders, tmp_path):
    draws = numpy.random.default_rng(3).standard_normal((2, 4, 8, 16), dtype=numpy.float32)
    both = trace(
        runtime_binary, folders["base"], Case("both", samples=2).request(), {"latents_init": draws}, tmp_path, "both"
    )
    alone = trace(
        runtime_binary, folders["base"], Case("alone").request(), {"latents_init": draws[1:]}, tmp_path, "alone"
    )
    assert numpy.array_equal(both["step_latents"][:, 1:], alone["step_latents"])
    assert numpy.array_equal(both["image"][1:], alone["image"])


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"latents_init": numpy.zeros((1, 4, 16, 8), numpy.float32)}, "latents_init"),
        ({"latents_init": numpy.zeros((2, 4, 8, 16), numpy.float32)}, "latents_init"),
        ({"noise.0": numpy.zeros((1, 4, 16, 8), numpy.float32)}, "noise.0"),
    ],
    ids=["height and width swapped", "one image too many", "noise of another shape"],
)
def test_tensors_of_another_shape_are_refused_by_name(tensors, named, runtime_binary, folders, tmp_path):
    with pytest.raises(TraceFailed, match=named.replace(".", r"\.")):
        trace(runtime_binary, folders["base"], Case("refused", eta=1.0).request(), tensors, tmp_path, "refused")
