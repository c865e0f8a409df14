"""The `openai` client, unmodified."""

import base64
import time

import openai
import pytest

from asking import assert_red_circle_on_blue, download
from picture import same_pixels

PROMPT = "a red circle on a blue background"


@pytest.fixture
def client(house, key):
    # No retries: an error that a second try would hide is to be seen.
    return openai.OpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0, timeout=120)


def test_an_image_comes_as_base64_unless_asked_otherwise(client):
    before = int(time.time())
    answer = client.images.generate(model="demo", prompt=PROMPT, size="64x64")
    [image] = answer.data
    assert image.url is None
    assert_red_circle_on_blue(base64.b64decode(image.b64_json, validate=True))
    assert before - 1 <= answer.created <= time.time() + 1


def test_response_format_url_gives_an_address(client, house):
    [image] = client.images.generate(model="demo", prompt=PROMPT, size="64x64", response_format="url").data
    assert image.b64_json is None
    assert_red_circle_on_blue(download(house, image.url))


def test_n_images_differ(client):
    images = client.images.generate(model="demo", prompt=PROMPT, size="64x64", n=2, extra_body={"steps": 8}).data
    first, second = [base64.b64decode(image.b64_json) for image in images]
    assert not same_pixels(first, second)


def test_extra_fields_reach_the_model(client):
    def make(**extra):
        answer = client.images.generate(model="demo", prompt=PROMPT, size="64x64", extra_body={"seed": 3} | extra)
        return base64.b64decode(answer.data[0].b64_json)

    same, again, fewer_steps, other_seed = make(), make(), make(num_inference_steps=4), make(seed=4)
    assert same_pixels(same, again)
    assert not same_pixels(same, fewer_steps)
    assert not same_pixels(same, other_seed)


def test_streaming_shows_the_picture_as_it_becomes(client):
    events = list(client.images.generate(model="demo", prompt=PROMPT, size="64x64", stream=True, partial_images=2))
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    pictures = [base64.b64decode(event.b64_json) for event in events]
    assert_red_circle_on_blue(pictures[-1])
    assert not same_pixels(pictures[0], pictures[1]) and not same_pixels(pictures[1], pictures[2])


def test_the_models_are_listed(client):
    models = {model.id: model for model in client.models.list()}
    assert models["demo"].object == "model"
    assert client.models.retrieve("demo").id == "demo"


def test_a_wrong_key_is_an_authentication_error(house):
    stranger = openai.OpenAI(base_url=f"{house.url}/v1", api_key="emk_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.images.generate(model="demo", prompt=PROMPT)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_an_unknown_model_is_not_found_and_the_nearest_is_named(client):
    with pytest.raises((openai.NotFoundError, openai.BadRequestError), match="demo"):
        client.images.generate(model="demoo", prompt=PROMPT)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("demoo")


@pytest.mark.parametrize("size", ["65x64", "64x", "big", "0x0", "99999x64", "-64x64"])
def test_a_size_that_cannot_be_made_is_a_bad_request(client, size):
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="demo", prompt=PROMPT, size=size)
    assert refused.value.body["message"]


def test_an_empty_prompt_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.images.generate(model="demo", prompt="  ", size="64x64")
