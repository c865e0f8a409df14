"""An accepted request survives `kill -9` of whoever works on it."""

import os
import signal

import pytest
import requests

import processes
from asking import LONG_WORK, TEXT_TO_IMAGE, assert_success
from patience import eventually
from picture import same_pixels

RECOVERY_SECONDS = 120  # the images are made again from the start, in a debug build


def fetch_until_finished(house, key, number):
    def finished():
        answer = house.post(f"/api/v7/images/fetch/{number}", {"key": key}).json()
        return answer if answer["status"] != "processing" else None

    return eventually("the request finishes", finished, RECOVERY_SECONDS)


def start_long_work(house, key):
    """Accepts a long request and returns (answer, replica) once it is being worked on and not nearly done."""
    started = house.post(TEXT_TO_IMAGE, LONG_WORK | {"key": key, "instant_response": True}).json()
    assert started["status"] == "processing"
    replica = house.working_replica()
    last = started["future_links"][-1]
    assert requests.get(last, timeout=10).status_code == 404, "too late: the images are there already"
    return started, replica


def undisturbed(house, key):
    """The pictures of the same request when nobody is killed."""
    return assert_success(house, house.post(TEXT_TO_IMAGE, LONG_WORK | {"key": key}).json(), images=4)


@pytest.mark.parametrize("victim", ["replica", "router", "both"])
def test_an_image_is_finished_after_its_maker_was_killed_in_the_middle(victim, fresh_house):
    house = fresh_house()
    key = house.key()
    started, replica = start_long_work(house, key)

    if victim in ("replica", "both"):
        os.kill(replica, signal.SIGKILL)
    if victim in ("router", "both"):
        house.kill()
        eventually("the dead router's replica is gone", lambda: not processes.is_running(replica), 15)
        house.start()

    answer = fetch_until_finished(house, key, started["id"])
    pictures = assert_success(house, answer, images=4)
    assert answer["output"] == started["future_links"]
    assert replica not in house.replicas()
    assert all(same_pixels(*pair) for pair in zip(pictures, undisturbed(house, key)))


def test_finished_requests_keys_and_usage_are_there_after_a_kill(fresh_house):
    house = fresh_house()
    key = house.key()
    made = house.post(TEXT_TO_IMAGE, LONG_WORK | {"key": key, "samples": 1, "num_inference_steps": 4}).json()
    [before] = assert_success(house, made)
    used = house.usage(key)
    house.kill()
    house.start()
    answer = house.post(f"/api/v6/images/fetch/{made['id']}", {"key": key}).json()
    assert assert_success(house, answer) == [before]
    assert house.usage(key) == used
