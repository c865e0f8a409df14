"""Who waits and leaves takes the work along, unbilled; who was given an id may leave."""

import json
import socket

import processes
from asking import LONG_WORK, RED_CIRCLE, TEXT_TO_IMAGE, assert_success
from patience import eventually


def test_a_synchronous_caller_that_leaves_cancels_its_request(fresh_house):
    house = fresh_house()
    key = house.key()
    body = json.dumps(LONG_WORK | {"key": key}).encode()
    head = f"POST {TEXT_TO_IMAGE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", house.port), timeout=30) as connection:
        connection.sendall(head + body)
        replica = house.working_replica()

    cancelled = lambda: house.metric("emulsion_router_requests_total", outcome="cancelled") == 1
    eventually("the request is cancelled", cancelled, 15)
    # The slot is free at the next step: a short request is served long before the long one could have ended.
    assert_success(house, house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 4}).json())
    assert processes.is_running(replica)
    assert house.metric("emulsion_router_requests_total", outcome="succeeded") == 1
    assert house.usage(key)["images"] == 1


def test_an_asynchronous_request_goes_on_without_its_caller(house, key):
    started = house.post(
        TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "instant_response": True}, headers={"Connection": "close"}
    ).json()
    assert_success(house, house.post(f"/api/v7/images/fetch/{started['id']}", {"key": key}).json())


def test_a_synchronous_call_that_takes_too_long_is_answered_with_an_id(fresh_house):
    house = fresh_house(sync_wait="100ms", fetch_wait="100ms")
    key = house.key()
    started = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "samples": 4}).json()
    assert started["status"] == "processing" and started["output"] == []
    fetch = lambda: house.post(f"/api/v7/images/fetch/{started['id']}", {"key": key}).json()
    assert fetch()["status"] == "processing"
    answer = eventually("the request finishes", lambda: (reply := fetch())["status"] != "processing" and reply, 120)
    assert_success(house, answer, images=4)
