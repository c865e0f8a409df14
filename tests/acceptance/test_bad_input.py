"""What cannot be served is refused clearly, in the caller's dialect, and costs nothing."""

import json
import socket

import pytest
import requests

from asking import (
    RED_CIRCLE,
    TEXT_TO_IMAGE,
    assert_modelslab_error,
    assert_openai_error,
    assert_success,
)

OPENAI = "/v1/images/generations"
OPENAI_RED_CIRCLE = {"model": "demo", "prompt": RED_CIRCLE["prompt"], "size": "64x64"}

# (what is wrong, changes to a good request, HTTP status, words the message has)
BAD_VALUES = [
    ("unknown model, nearest named", {"model_id": "dmeo"}, (400, 404), ["dmeo", "demo"]),
    ("empty prompt", {"prompt": ""}, 400, ["prompt"]),
    ("blank prompt", {"prompt": " \t\n"}, 400, ["prompt"]),
    ("no prompt", {"prompt": None}, 400, ["prompt"]),
    ("prompt is a list", {"prompt": ["a", "b"]}, 400, ["prompt"]),
    ("width not divisible", {"width": 65}, 400, ["width", "8"]),
    ("height not divisible", {"height": "65"}, 400, ["height", "8"]),
    ("width too small", {"width": 8}, 400, ["width"]),
    ("height too large", {"height": 4096}, 400, ["height"]),
    ("width is 0", {"width": 0}, 400, ["width"]),
    ("width is negative", {"width": -64}, 400, ["width"]),
    ("width is beyond any integer", {"width": 1e300}, 400, ["width"]),
    ("width is a word", {"width": "wide"}, 400, ["width"]),
    ("width is an object", {"width": {"px": 64}}, 400, ["width"]),
    ("too many samples", {"samples": 99}, 400, ["samples"]),
    ("no samples", {"samples": 0}, 400, ["samples"]),
    ("guidance out of bounds", {"guidance_scale": 1e9}, 400, ["guidance_scale"]),
    ("guidance is a word", {"guidance_scale": "high"}, 400, ["guidance_scale"]),
    ("unknown scheduler", {"scheduler": "MagicScheduler"}, 400, ["scheduler"]),
]


@pytest.fixture(scope="module")
def poor(house):
    """One tenant for all refusals of this file: at its end nothing may have been charged."""
    return house.key()


@pytest.mark.parametrize("path", [TEXT_TO_IMAGE, "/api/v6/images/text2img"], ids=["v7", "v6"])
@pytest.mark.parametrize(("changes", "status", "words"), [line[1:] for line in BAD_VALUES], ids=[line[0] for line in BAD_VALUES])
def test_a_bad_value_is_named(house, poor, path, changes, status, words):
    reply = house.post(path, RED_CIRCLE | changes | {"key": poor})
    statuses = status if isinstance(status, tuple) else (status,)
    assert reply.status_code in statuses, reply.text
    assert_modelslab_error(reply, reply.status_code, *words)


def test_absurd_steps_are_clamped(house, key):
    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 100_000}).json()
    assert_success(house, answer)
    assert 20 <= answer["meta"]["steps"] <= 1000
    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 0}).json()
    assert_success(house, answer)
    assert answer["meta"]["steps"] >= 1


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_call_without_a_key_is_told_how_to_send_one(house, key):
    assert_modelslab_error(house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key}), 401, "API key required")


def test_openai_without_a_key_is_told_how_to_send_one(house):
    assert_openai_error(house.post(OPENAI, OPENAI_RED_CIRCLE), 401, "API key required")


@pytest.mark.parametrize("key", ["emk_wrong", "' OR 1=1 --", "ключ"])
def test_a_wrong_key_is_invalid(house, key):
    assert_modelslab_error(house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key}), 401, "Invalid API key")


@pytest.mark.parametrize("key", ["x" * 5000, 42, ["a"], {"a": 1}, True], ids=lambda key: str(key)[:8])
def test_what_cannot_be_a_key_opens_nothing(house, key):
    assert_modelslab_error(house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key}), 401, "API key")


NOT_JSON = [b"", b"{", b"not json", b'{"prompt": "a"', b"[1, 2]", b'"text"', b"null", b"\xff\xfe{}", b"[" * 100_000]


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:16]))
def test_a_body_that_is_not_an_object_of_json_is_refused(house, poor, body):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {poor}"}
    reply = requests.post(f"{house.url}{TEXT_TO_IMAGE}", data=body, headers=headers, timeout=30)
    assert_modelslab_error(reply, 400)
    reply = requests.post(f"{house.url}{OPENAI}", data=body, headers=headers, timeout=30)
    assert_openai_error(reply, 400)


@pytest.mark.parametrize("path", [TEXT_TO_IMAGE, OPENAI])
def test_a_body_that_is_too_large_is_refused_as_413(house, poor, path):
    body = json.dumps(RED_CIRCLE | {"key": poor, "prompt": "x" * 64 * 1024 * 1024})
    try:
        reply = requests.post(f"{house.url}{path}", data=body, timeout=60)
    except requests.ConnectionError:
        # Refused while it was still being sent: the answer may be lost with the connection, so ask with the size alone.
        reply = None
    assert declared_size_is_refused(house, path, len(body))
    if reply is not None:
        assert reply.status_code == 413
        assert reply.headers["content-type"].startswith("application/json")


def declared_size_is_refused(house, path, size):
    with socket.create_connection(("127.0.0.1", house.port), timeout=30) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode())
        return b" 413 " in connection.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_refused(house, method):
    assert requests.request(method, f"{house.url}{TEXT_TO_IMAGE}", timeout=30).status_code == 405


def test_what_is_not_there_is_not_found_in_the_dialect(house):
    assert_modelslab_error(house.post("/api/v7/images/nonsense", {}), 404)
    assert_openai_error(house.post("/v1/nonsense", {}), 404)


def test_what_is_not_yet_supported_says_so(house, poor):
    reply = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": poor, "controlnet_model": "canny"})
    assert reply.status_code in (400, 501)
    assert_modelslab_error(reply, reply.status_code, "not supported")


@pytest.mark.parametrize("path", ["/outputs/../router.db", "/outputs/%2e%2e/%2e%2e/etc/passwd", "/outputs/x.png"])
def test_an_output_that_does_not_exist_is_not_found(house, path):
    assert house.get(path).status_code in (400, 404)


def test_nothing_was_charged_for_refusals_and_good_requests_still_work(house, poor):
    refused = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": poor, "width": 65})
    assert refused.status_code == 400
    before = house.usage(poor)
    assert before["images"] == 0 and before["calls"] == 0, before
    assert_success(house, house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": poor, "num_inference_steps": 4}).json())
    after = house.usage(poor)
    assert after["images"] == 1 and after["calls"] == 1, after
