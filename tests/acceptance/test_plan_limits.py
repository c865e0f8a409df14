"""A plan's limits hold, and a refusal says when to come back."""

import json

import pytest

from asking import LONG_WORK, RED_CIRCLE, TEXT_TO_IMAGE, assert_modelslab_error, assert_openai_error, assert_success
from house import CALL_SECONDS, copy_manifests
from patience import eventually

# Free: 60 requests a minute with bursts of 20, 100 calls a day, 10 requests waiting.
BURST = 20
QUEUE_DEPTH = 10
SMALLEST = RED_CIRCLE | {"width": 32, "height": 32, "num_inference_steps": 1, "instant_response": True}


def exhaust_burst(house, key):
    """Sends until the rate, not the queue, is what refuses; returns that reply and how many requests came before it."""
    for sent in range(10 * BURST):
        reply = house.post(TEXT_TO_IMAGE, SMALLEST | {"key": key})
        if reply.status_code == 429 and "a minute" in reply.json()["message"]:
            return reply, sent
        assert reply.status_code in (200, 429), reply.text
    raise AssertionError(f"{10 * BURST} requests passed a burst of {BURST}")


def test_more_requests_than_the_burst_are_told_when_to_come_back(house):
    reply, sent = exhaust_burst(house, house.key(plan="free"))
    # Those above the burst are what the rate of one a second gave back meanwhile.
    assert BURST <= sent < 5 * BURST
    assert_modelslab_error(reply, 429, "rate limit")
    assert reply.json()["retry_after"] >= 1
    assert int(reply.headers["retry-after"]) >= 1


def test_the_rate_is_the_tenants_not_the_keys_and_nobody_elses(house):
    one = house.key(plan="free", tenant="two-keys")
    two = house.key(plan="free", tenant="two-keys")
    exhaust_burst(house, one)
    # A second may have passed while the call was made: one may pass, not two.
    assert 429 in [house.post(TEXT_TO_IMAGE, SMALLEST | {"key": two}).status_code for _ in range(3)]
    assert house.post(TEXT_TO_IMAGE, SMALLEST | {"key": house.key(plan="free")}).status_code == 200


def test_openai_clients_are_told_in_their_dialect(house):
    key = house.key(plan="free")
    exhaust_burst(house, key)
    body = {"model": "demo", "prompt": "a red circle", "size": "32x32", "steps": 1}
    replies = [house.post("/v1/images/generations", body, headers={"Authorization": f"Bearer {key}"}) for _ in range(3)]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert refused
    assert_openai_error(refused[0], 429, "rate limit")
    assert int(refused[0].headers["retry-after"]) >= 1


def test_more_waiting_requests_than_the_plan_allows_are_refused(fresh_house):
    house = fresh_house(drain="0s")
    key = house.key(plan="free")
    long = LONG_WORK | {"key": key, "instant_response": True}
    replies = [house.post(TEXT_TO_IMAGE, long) for _ in range(QUEUE_DEPTH + 2)]
    refused = [reply for reply in replies if reply.status_code != 200]
    assert 1 <= len(refused) <= 2
    assert_modelslab_error(refused[-1], 429, f"Maximum {QUEUE_DEPTH} queued requests")
    assert refused[-1].json()["retry_after"] >= 1
    # Another tenant does not wait behind the limit.
    assert house.post(TEXT_TO_IMAGE, long | {"key": house.key(plan="free")}).status_code == 200


TRIAL_CALLS = 3
SECONDS_OF = {"day": 24 * 60 * 60, "month": 31 * 24 * 60 * 60}


def with_trial_plan(folder, limits):
    """Manifests that declare the plan "trial" beside the shipped ones."""
    plan = {"price": "0", "requestsPerMinute": 1000, "burst": 100, "parallelImages": 1, "queueDepth": 10, "weight": 1}
    manifest = {"apiVersion": "emulsion.dev/v1alpha1", "kind": "TenantPlan", "metadata": {"name": "trial"}, "spec": plan | limits}
    manifests = copy_manifests(folder)
    # JSON is YAML.
    (manifests / "trial.yaml").write_text(json.dumps(manifest))
    return manifests


@pytest.mark.parametrize(("window", "limit"), [("day", "callsPerDay"), ("month", "callsPerMonth")])
def test_the_calls_of_a_window_are_counted_and_then_refused(fresh_house, tmp_path, window, limit):
    house = fresh_house(manifests=with_trial_plan(tmp_path / "manifests", {limit: TRIAL_CALLS}))
    key = house.key(plan="trial")
    quick = RED_CIRCLE | {"key": key, "num_inference_steps": 2}

    # What is refused does not count as a call.
    assert house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "width": 65}).status_code == 400
    for _ in range(TRIAL_CALLS):
        assert_success(house, house.post(TEXT_TO_IMAGE, quick).json())
    reply = house.post(TEXT_TO_IMAGE, quick)
    assert_modelslab_error(reply, 429, window)
    # The next window may begin in a second.
    assert 1 <= reply.json()["retry_after"] <= SECONDS_OF[window]
    assert house.usage(key)["calls"] == TRIAL_CALLS


def test_a_plans_images_in_parallel_are_held_while_another_tenants_run(fresh_house, tmp_path):
    house = fresh_house(manifests=with_trial_plan(tmp_path / "manifests", {"parallelImages": 1}), drain="0s")
    waiting_and_running = lambda: tuple(
        house.metric(f"emulsion_router_{name}_requests") for name in ("queued", "in_flight")
    )
    long = LONG_WORK | {"samples": 1, "instant_response": True}
    key = house.key(plan="trial")
    for _ in range(3):
        assert house.post(TEXT_TO_IMAGE, long | {"key": key}).json()["status"] == "processing"
    eventually("one of three runs", lambda: waiting_and_running() == (2, 1), CALL_SECONDS)
    # The replica has room: it takes another tenant's at once, beside the first.
    assert house.post(TEXT_TO_IMAGE, long | {"key": house.key(plan="trial")}).json()["status"] == "processing"
    eventually("one of each tenant runs", lambda: waiting_and_running() == (2, 2), CALL_SECONDS)
