"""The official Python client (`modelslab-py`), unmodified; only its address is set."""

import pytest
from modelslab_py.core.apis.community import Community
from modelslab_py.core.client import Client
from modelslab_py.schemas.community import Text2Image

from asking import RED_CIRCLE, assert_red_circle_on_blue, assert_success


def community(house, key, **options):
    client = Client(api_key=key, **options)
    # Before the API class is made: it copies the address.
    client.base_url = f"{house.url}/api/"
    return Community(client=client)


def test_text_to_image_answers_with_the_picture(house, key):
    answer = community(house, key).text_to_image(Text2Image(**RED_CIRCLE))
    [png] = assert_success(house, answer)
    assert_red_circle_on_blue(png)


def test_an_instant_response_is_processing_and_one_fetch_brings_the_picture(house, key):
    # One try: a fetch that did not wait for the picture would come back without it, and by default the client then
    # sleeps a whole minute.
    api = community(house, key, fetch_retry=1, fetch_timeout=0)
    started = api.text_to_image(Text2Image(**RED_CIRCLE, instant_response=True))
    assert started["status"] == "processing"
    assert started["output"] == []
    assert isinstance(started["eta"], int | float)
    assert started["message"] and started["messege"]
    answer = api.fetch(str(started["id"]))
    [png] = assert_success(house, answer)
    assert_red_circle_on_blue(png)
    assert answer["id"] == started["id"]
    assert answer["output"] == started["future_links"]


def test_the_clients_old_string_options_are_understood(house, key):
    request = Text2Image(**RED_CIRCLE | {"num_inference_steps": 8}, safety_checker="no", enhance_prompt="no", upscale="no")
    answer = community(house, key).text_to_image(request)
    assert_success(house, answer)


def test_a_wrong_key_raises_in_the_client_with_the_reason(house):
    with pytest.raises(Exception, match="status code 401.*Invalid API key"):
        community(house, "emk_wrong").text_to_image(Text2Image(**RED_CIRCLE))
