"""The spellings real clients use: of keys, of values, of fetch, of bodies. All mean the same."""

import json

import pytest
import requests

from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_success
from picture import same_pixels

QUICK = RED_CIRCLE | {"num_inference_steps": 4}
STRINGS = {
    "model_id": "demo",
    "prompt": "a red circle on a blue background",
    "negative_prompt": None,
    "width": "64",
    "height": "64",
    "samples": "1",
    "num_inference_steps": "4",
    "guidance_scale": "5.5",
    "seed": None,
    "safety_checker": "no",
    "enhance_prompt": "no",
    "use_karras_sigmas": "yes",
    "multi_lingual": "false",
    "base64": "no",
    "temp": "",
    "vae": None,
    "lora_model": "",
    "lora_strength": "",
    "clip_skip": "1",
    "track_id": "",
    "webhook": None,
    "tomesd": "yes",
    "panorama": "no",
    "self_attention": "no",
    "embeddings_model": None,
    "something_new": {"nested": [1, 2]},
}


@pytest.mark.parametrize("path", [TEXT_TO_IMAGE, "/api/v6/images/text2img"])
def test_numbers_and_booleans_may_be_strings_and_unknown_fields_are_ignored(house, key, path):
    answer = house.post(path, STRINGS | {"key": key}).json()
    assert_success(house, answer)
    assert (answer["meta"]["W"], answer["meta"]["steps"]) == (64, 4)


@pytest.mark.parametrize("truth", ["yes", "true", "True", True, "1", 1])
def test_each_spelling_of_true_makes_an_instant_response(house, key, truth):
    answer = house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "instant_response": truth}).json()
    assert answer["status"] == "processing"


@pytest.mark.parametrize("falsehood", ["no", "false", False, "", None, "0", 0])
def test_each_spelling_of_false_waits_for_the_picture(house, key, falsehood):
    assert_success(house, house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "instant_response": falsehood}).json())


@pytest.mark.parametrize(
    "sent",
    [
        lambda key: {"json": QUICK | {"key": key}},
        lambda key: {"json": QUICK, "headers": {"Authorization": f"Bearer {key}"}},
        lambda key: {"json": QUICK, "headers": {"key": key}},
        lambda key: {"json": QUICK, "headers": {"X-API-Key": key}},
        lambda key: {"json": QUICK, "params": {"key": key}},
        # The body's key counts, whatever else is there.
        lambda key: {"json": QUICK | {"key": key}, "headers": {"Authorization": "Bearer emk_wrong", "key": "emk_wrong"}},
        # All in the query, as the oldest clients do.
        lambda key: {"params": QUICK, "headers": {"key": key}},
    ],
    ids=["body", "bearer", "key header", "x-api-key", "query", "body before headers", "everything in the query"],
)
def test_the_key_is_found_wherever_clients_put_it(house, key, sent):
    reply = requests.post(f"{house.url}{TEXT_TO_IMAGE}", timeout=120, **sent(key))
    assert reply.status_code == 200, reply.text
    assert_success(house, reply.json())


@pytest.mark.parametrize("model_id", [None, "", "leave out"])
def test_a_call_that_names_no_model_gets_the_first(house, key, model_id):
    body = QUICK | {"key": key, "model_id": model_id}
    if model_id == "leave out":
        del body["model_id"]
    answer = house.post(TEXT_TO_IMAGE, body).json()
    assert_success(house, answer)
    assert answer["meta"]["model_id"] == "demo"


def test_weights_in_a_prompt_change_the_picture_and_escaped_brackets_do_not_weigh(house, key):
    def make(prompt):
        answer = house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "seed": 3, "prompt": prompt}).json()
        assert answer["meta"]["prompt"] == prompt
        return assert_success(house, answer)[0]

    plain = make("a red circle on a blue background")
    assert same_pixels(plain, make("a (red:1.0) circle on a blue background"))
    assert not same_pixels(plain, make("a (red:1.6) circle on a blue background"))
    assert not same_pixels(make("a (red) circle"), make(r"a \(red\) circle"))


def test_a_body_in_chunks_is_read_to_its_end(house, key):
    def chunks():
        text = json.dumps(QUICK | {"key": key}).encode()
        for start in range(0, len(text), 7):
            yield text[start : start + 7]

    headers = {"Content-Type": "application/json"}
    reply = requests.post(f"{house.url}{TEXT_TO_IMAGE}", data=chunks(), headers=headers, timeout=120)
    assert_success(house, reply.json())


def test_json_without_its_content_type_is_read(house, key):
    reply = requests.post(f"{house.url}{TEXT_TO_IMAGE}", data=json.dumps(QUICK | {"key": key}), timeout=120)
    assert_success(house, reply.json())


@pytest.fixture(scope="module")
def fetched(house):
    """A key, and the id of a request of its tenant that was answered with `processing`."""
    key = house.key()
    started = house.post("/api/v6/images/text2img", QUICK | {"key": key, "instant_response": "yes"}).json()
    assert started["status"] == "processing"
    assert started["fetch_result"] == f"{house.url}/api/v6/images/fetch/{started['id']}"
    return key, started["id"]


@pytest.mark.parametrize("version", ["v6", "v7"])
@pytest.mark.parametrize(
    "spelling",
    [
        lambda house, base, key, number: house.post(f"{base}/fetch", {"key": key, "request_id": number}),
        lambda house, base, key, number: house.post(f"{base}/fetch", {"key": key, "request_id": str(number)}),
        lambda house, base, key, number: house.post(f"{base}/fetch/{number}", {"key": key}),
        lambda house, base, key, number: house.get(f"{base}/fetch/{number}", params={"key": key}),
        lambda house, base, key, number: house.get(f"{base}/fetch/{number}", headers={"Authorization": f"Bearer {key}"}),
    ],
    ids=["request_id", "request_id as text", "id in the path", "GET with query", "GET with bearer"],
)
def test_every_spelling_of_fetch_brings_the_picture(house, fetched, version, spelling):
    key, number = fetched
    answer = spelling(house, f"/api/{version}/images", key, number).json()
    assert_success(house, answer)
    assert answer["id"] == number


def test_the_v7_answer_names_the_v7_fetch(house, key):
    started = house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "instant_response": True}).json()
    assert started["fetch_result"] == f"{house.url}/api/v7/images/fetch/{started['id']}"
    assert_success(house, house.post(f"/api/v7/images/fetch/{started['id']}", {"key": key}).json())


def test_a_request_is_nobody_elses(house, fetched):
    _, number = fetched
    reply = house.post(f"/api/v7/images/fetch/{number}", {"key": house.key()})
    assert reply.status_code == 404
    assert reply.json()["status"] == "error"


@pytest.mark.parametrize("number", ["2147483647", "99999999999999999999", "-1", "abc"])
def test_an_id_that_does_not_exist_is_not_found(house, key, number):
    reply = house.post(f"/api/v6/images/fetch/{number}", {"key": key})
    assert reply.status_code in (400, 404)
    assert reply.json()["status"] == "error"


def test_the_api_is_described_in_openapi(house):
    document = house.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {TEXT_TO_IMAGE, "/v1/images/generations", "/v1/models"} <= set(document["paths"])
