"""A LoRA that a call names acts on its picture, and on no other."""

import pytest

import picture
from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_modelslab_error, assert_success

RED_RING = RED_CIRCLE | {"prompt": "a large red ring on a blue background", "seed": 5}


def middle_and_rim(png):
    """The names of the colours in the middle, and of most pixels on the circle where a large ring's band lies."""
    return picture.colour_within(png, 0, 5), picture.colour_within(png, 17, 20)


@pytest.mark.parametrize(
    "named",
    [{"lora_model": "ring"}, {"lora_model": "ring", "lora_strength": "1.0"}, {"prompt": "<lora:ring>" + RED_RING["prompt"]}],
    ids=["by its field", "with its strength", "in the prompt"],
)
def test_a_lora_draws_what_the_model_cannot(named, house, key):
    with_ring = house.post(TEXT_TO_IMAGE, RED_RING | named | {"key": key}).json()
    assert middle_and_rim(assert_success(house, with_ring)[0]) == ("blue", "red")
    without = house.post(TEXT_TO_IMAGE, RED_RING | {"key": key}).json()
    assert middle_and_rim(assert_success(house, without)[0]) != ("blue", "red")


def test_a_lora_that_is_not_there_is_refused_and_the_nearest_named(house, key):
    reply = house.post(TEXT_TO_IMAGE, RED_RING | {"key": key, "lora_model": "rings"})
    assert_modelslab_error(reply, 400, "ring")


def test_a_lora_is_no_model(house, key):
    reply = house.post(TEXT_TO_IMAGE, RED_RING | {"key": key, "model_id": "ring"})
    assert_modelslab_error(reply, 400, "LoRA")
