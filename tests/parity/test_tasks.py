"""Image-to-image and inpainting, step by step as diffusers makes them."""

import dataclasses
import zlib

import numpy
import pytest

import comparison
import task_reference
from runtime_trace import TraceFailed, trace
from sampler_cases import ENTERED_CASES
from task_cases import INPAINT, TASK_CASES, TaskCase


def both(case, runtime_binary, folders, pipelines, scratch, change=None):
    """What diffusers makes of a case, and we; `change` is what our request says otherwise."""
    seed = zlib.crc32(case.name.encode())
    sent = task_reference.pictures(case, seed)
    expected = task_reference.run(pipelines(case.pipeline), case, sent, seed)
    request = dataclasses.replace(case, **(change or {})).request()
    ours = trace(runtime_binary, folders[case.pipeline], request, expected.draws | sent.tensors(), scratch, "task")
    return expected, ours


@pytest.mark.parametrize("case", TASK_CASES + ENTERED_CASES, ids=lambda case: case.name)
def test_the_runtime_agrees_with_diffusers(case, runtime_binary, folders, pipelines, agree, tmp_path):
    agree(case, folders[case.pipeline], *both(case, runtime_binary, folders, pipelines, tmp_path))


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (TaskCase("asked", strength=0.5), {"prompt": "another"}),
        (TaskCase("asked", task=INPAINT, mask_blur=9), {"mask_blur": 1}),
        (TaskCase("asked", task=INPAINT, pipeline="inpainting", mask_blur=9), {"mask_blur": 1}),
    ],
    ids=["prompt", "blur", "blur, 9 channels"],
)
def test_a_slightly_different_request_does_not_agree(case, change, runtime_binary, folders, pipelines, tmp_path):
    expected, ours = both(case, runtime_binary, folders, pipelines, tmp_path, change)
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


def test_given_latents_stand_for_the_image(runtime_binary, folders, tmp_path):
    case = TaskCase("given", strength=0.5)
    sent = task_reference.pictures(case, seed=1).tensors()
    latents = numpy.random.default_rng(2).standard_normal((1, 4, 8, 16), dtype=numpy.float32)
    request = case.request() | {"seed": 3}
    first, again, without = (
        trace(runtime_binary, folders["base"], request, tensors, tmp_path, "given")["step_latents"]
        for tensors in [
            sent | {"image_latents": latents},
            {"image": 1 - sent["image"], "image_latents": latents},
            sent,
        ]
    )
    assert numpy.array_equal(first, again)
    assert not numpy.array_equal(first, without)


IMAGE = {"image": numpy.ones((64, 64, 3), numpy.float32)}
WHITE = IMAGE | {"mask_image": numpy.ones((64, 64), numpy.float32)}
BLACK = IMAGE | {"mask_image": numpy.zeros((8, 8), numpy.float32)}
LATENTS = {"image_latents": numpy.zeros((1, 4, 8, 8), numpy.float32)}


@pytest.mark.parametrize(
    ("task", "pipeline", "tensors", "change", "words"),
    [
        ("image_to_image", "base", {}, {}, "needs image"),
        ("inpaint", "base", IMAGE, {}, "needs mask_image"),
        ("inpaint", "base", BLACK, {}, "black everywhere"),
        ("image_to_image", "base", IMAGE, {"strength": 0}, "strength 0"),
        ("image_to_image", "base", IMAGE, {"strength": 2}, "strength 2"),
        ("image_to_image", "base", IMAGE, {"strength": 0.1}, "at least 10 steps"),
        ("image_to_image", "base", WHITE, {}, "does not use mask_image"),
        ("image_to_image", "inpainting", IMAGE, {}, "needs an image and a mask"),
        ("text_to_image", "inpainting", {}, {}, "needs an image and a mask"),
        ("text_to_image", "base", {}, {"strength": 0.5}, "does not use strength"),
        ("inpaint", "base", WHITE | LATENTS, {}, "image_latents"),
    ],
)
def test_what_cannot_be_is_refused_with_words(task, pipeline, tensors, change, words, runtime_binary, folders, tmp_path):
    request = {"task": task, "prompt": "a", "num_inference_steps": 6} | change
    with pytest.raises(TraceFailed, match=words):
        trace(runtime_binary, folders[pipeline], request, tensors, tmp_path, "refused")
