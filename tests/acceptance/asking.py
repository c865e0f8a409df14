"""What the tests ask for, and what every good answer has."""

import re

import requests

import picture

TEXT_TO_IMAGE = "/api/v7/images/text-to-image"
RED_CIRCLE = {
    "model_id": "demo",
    "prompt": "a red circle on a blue background",
    "negative_prompt": "blurry",
    "width": 64,
    "height": 64,
    "samples": 1,
    "num_inference_steps": 20,
    "guidance_scale": 5,
}
# As much work as one request may be: long enough to be met in the middle of it.
LONG_WORK = RED_CIRCLE | {"samples": 4, "num_inference_steps": 100, "seed": 7}
IDS_BELOW = 2**31


def assert_success(house, answer, images=1):
    """The success envelope: kind, id, time, and URLs of this router that show PNGs. Returns the pictures' bytes."""
    assert answer["status"] == "success", answer
    assert type(answer["id"]) is int and 0 < answer["id"] < IDS_BELOW
    assert len(answer["output"]) == images
    return [download(house, url) for url in answer["output"]]


def download(house, url):
    assert re.fullmatch(rf"{re.escape(house.url)}/\S+\.png", url), url
    reply = requests.get(url, timeout=30)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"
    return reply.content


def assert_red_circle_on_blue(png):
    seen = picture.look(png)
    assert (seen["shape_colour"], seen["shape"], seen["background"]) == ("red", "circle", "blue"), seen
    assert seen["size"] == (64, 64)


def assert_modelslab_error(reply, status, *words):
    """The vendor's error envelope: a string for a message, and the HTTP status that says what kind."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body["status"] == "error"
    assert isinstance(body["message"], str) and body["message"]
    for word in words:
        assert word.lower() in body["message"].lower(), body["message"]


def assert_openai_error(reply, status, *words):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    for word in words:
        assert word.lower() in error["message"].lower(), error["message"]
