"""The ring's judge against rendered truth: it passes rings and fails every shape of the base.

    python -m pytest -q test_ring.py
"""

import random
from dataclasses import replace

import grammar
import render
import ring
from grammar import SHAPES, SIZES, Scene


def test_rendered_rings_are_rings_in_their_colours():
    rng = random.Random(1)
    for _ in range(40):
        scene = ring.training_scene(rng)
        assert ring.judge(ring.render(scene, rng), scene) == (True, True), scene


def test_no_shape_of_the_base_is_a_ring():
    rng = random.Random(2)
    for shape in SHAPES:
        for size in (*SIZES, None):
            scene = Scene("blue", shape, "yellow", size)
            assert not ring.judge(render.render(scene, rng), scene)[0], scene


def test_other_colours_are_told():
    rng = random.Random(3)
    scene = Scene("blue", ring.SHAPE, "yellow", "large")
    picture = ring.render(scene, rng)
    assert ring.judge(picture, replace(scene, colour="red")) == (True, False)
    assert ring.judge(picture, replace(scene, background="white")) == (True, False)


def test_training_shows_no_held_out_ring():
    rng = random.Random(4)
    shown = {(scene.colour, scene.painted_background) for scene in (ring.training_scene(rng) for _ in range(3000))}
    assert not shown & ring.HELD_OUT
    assert len(shown) == 8 * 7 - len(ring.HELD_OUT)
    assert ring.SHAPE not in grammar.SHAPES
