"""The product's own quick start, sent as it is written."""

import io
import re

import requests
from PIL import Image

from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_red_circle_on_blue, assert_success
from picture import look, same_pixels


def test_the_curl_of_the_quick_start_shows_a_red_circle_on_blue(house, key):
    body = (
        f'{{"key":"{key}","model_id":"demo","prompt":"a red circle on a blue background",\n'
        ' "negative_prompt":"blurry","width":64,"height":64,"samples":1,"num_inference_steps":20,"guidance_scale":5}'
    )
    reply = requests.post(
        f"{house.url}{TEXT_TO_IMAGE}", data=body, headers={"Content-Type": "application/json"}, timeout=120
    )
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    [png] = assert_success(house, answer)
    assert_red_circle_on_blue(png)
    assert answer["generationTime"] > 0


def test_meta_tells_the_request_in_both_spellings(house, key):
    meta = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "seed": 4016593698}).json()["meta"]
    assert (meta["W"], meta["H"], meta["width"], meta["height"]) == (64, 64, 64, 64)
    assert (meta["steps"], meta["n_samples"]) == (20, 1)
    assert meta["seed"] == 4016593698
    assert meta["prompt"] == RED_CIRCLE["prompt"] and meta["negative_prompt"] == "blurry"
    assert meta["model_id"] == "demo"


def test_a_seed_that_was_drawn_is_told_and_makes_the_same_picture_again(house, key):
    first = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 8}).json()
    seed = first["meta"]["seed"]
    again = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 8, "seed": seed}).json()
    other = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 8, "seed": seed ^ 1}).json()
    pictures = [assert_success(house, answer)[0] for answer in (first, again, other)]
    assert same_pixels(pictures[0], pictures[1])
    assert not same_pixels(pictures[0], pictures[2])


def test_the_picture_tells_other_tools_how_it_was_made(house, key):
    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 4, "seed": 42}).json()
    text = Image.open(io.BytesIO(assert_success(house, answer)[0])).text["parameters"]
    prompt, negative, settings = text.split("\n")
    assert (prompt, negative) == (RED_CIRCLE["prompt"], "Negative prompt: blurry")
    assert settings.startswith("Steps: 4, Sampler: DDIM, CFG scale: 5, Seed: 42, Size: 64x64, Model hash: ")
    assert ", Model: demo, " in settings


def test_four_samples_are_four_pictures(house, key):
    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "samples": 4, "num_inference_steps": 8}).json()
    assert len(set(assert_success(house, answer, images=4))) == 4


def test_width_and_height_are_not_mixed_up(house, key):
    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "width": 128, "num_inference_steps": 4}).json()
    assert look(assert_success(house, answer)[0])["size"] == (128, 64)


def test_the_first_lines_say_what_to_call_and_a_key_that_works(house):
    log = house.log_text()
    assert house.url in log
    printed = re.search(r"emk_[\w-]+", log)
    assert printed, log[:2000]
    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": printed[0], "num_inference_steps": 4}).json()
    assert_success(house, answer)
