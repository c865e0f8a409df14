"""The judge against rendered truth: it passes what is right and fails what is wrong.

    python -m pytest -q test_judge.py
"""

import random
from dataclasses import replace

import numpy
import pytest
from PIL import Image, ImageFilter

from grammar import COLOURS, SHAPES, SIZES, Scene, all_triples, canonical_prompt, held_out_triples, parse_prompt
from grammar import training_scene
from judge import judge, read
from render import render

SIZED = [Scene(c, s, b, size) for c, s, b in all_triples() for size in SIZES]


def test_every_rendered_combination_is_read_exactly():
    rng = random.Random(1)
    for scene in SIZED:
        assert judge(render(scene, rng), scene).everything, scene


def test_every_other_colour_shape_background_and_size_is_refused():
    rng = random.Random(2)
    for scene in rng.sample(SIZED, 60):
        image = render(scene, rng)
        for colour in set(COLOURS) - {scene.colour}:
            assert not judge(image, replace(scene, colour=colour)).colour
        for background in set(COLOURS) - {scene.background}:
            assert not judge(image, replace(scene, background=background)).background
        for shape in set(SHAPES) - {scene.shape}:
            assert not judge(image, replace(scene, shape=shape)).shape
        for size in set(SIZES) - {scene.size}:
            assert not judge(image, replace(scene, size=size)).size


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_edges_and_a_little_noise_do_not_mislead(shape):
    rng, noise = random.Random(3), numpy.random.default_rng(3)
    for size in SIZES:
        scene = Scene("yellow", shape, "purple", size)
        soft = Image.fromarray(render(scene, rng)).filter(ImageFilter.GaussianBlur(0.8))
        image = numpy.clip(numpy.asarray(soft) + noise.normal(0, 8, (64, 64, 3)), 0, 255).astype(numpy.uint8)
        assert judge(image, scene).everything


def test_a_shape_blurred_away_is_not_read_as_itself():
    scene = Scene("yellow", "star", "purple", "small")
    image = Image.fromarray(render(scene, random.Random(4))).filter(ImageFilter.GaussianBlur(7))
    assert not judge(numpy.asarray(image), scene).shape


def test_noise_shows_nothing():
    image = numpy.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
    seen = read(image)
    assert seen.shape is None and seen.background is None


def test_an_empty_picture_shows_a_background_and_no_shape():
    seen = read(numpy.full((64, 64, 3), COLOURS["blue"], numpy.uint8))
    assert (seen.background, seen.colour, seen.shape) == ("blue", None, None)


def test_two_shapes_are_not_one():
    scene = Scene("red", "square", "black", "small")
    image = render(scene, random.Random(6))
    both = numpy.maximum(numpy.roll(image, -14, 1), numpy.roll(image, 14, 1))
    assert not judge(both, scene).shape


def test_a_shape_in_the_corner_is_not_centred():
    scene = Scene("white", "circle", "green", "small")
    assert not judge(numpy.roll(render(scene, random.Random(7)), 14, 0), scene).centred


def test_other_picture_sizes_are_refused():
    with pytest.raises(ValueError, match="64 x 64"):
        read(numpy.zeros((32, 64, 3), numpy.uint8))


def test_prompts_are_parsed_back_to_their_scene():
    rng = random.Random(8)
    for _ in range(500):
        scene = training_scene(rng)
        assert parse_prompt(canonical_prompt(scene)) == scene


def test_prompts_outside_the_grammar_are_named():
    for prompt in ("a red", "a red circle on the left", "a pink circle", "a red circle on a background"):
        with pytest.raises(ValueError, match=prompt):
            parse_prompt(prompt)


def test_training_never_meets_a_held_out_triple():
    hidden = set(held_out_triples())
    rng = random.Random(9)
    assert len(hidden) == 28
    assert all(training_scene(rng).triple not in hidden for _ in range(20_000))
