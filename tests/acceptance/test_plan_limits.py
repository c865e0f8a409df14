"""A plan's limits hold, and a refusal says when to come back."""

from asking import LONG_WORK, RED_CIRCLE, TEXT_TO_IMAGE, assert_modelslab_error, assert_openai_error, assert_success
from house import copy_manifests

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
TRIAL_PLAN = f"""
apiVersion: emulsion.dev/v1alpha1
kind: TenantPlan
metadata:
  name: trial
spec:
  price: "0"
  callsPerDay: {TRIAL_CALLS}
  requestsPerMinute: 1000
  burst: 100
  parallelImages: 1
  queueDepth: 10
  weight: 1
"""


def test_the_calls_of_a_day_are_counted_and_then_refused(fresh_house, tmp_path):
    manifests = copy_manifests(tmp_path / "manifests")
    (manifests / "trial.yaml").write_text(TRIAL_PLAN)
    house = fresh_house(manifests=manifests)
    key = house.key(plan="trial")
    quick = RED_CIRCLE | {"key": key, "num_inference_steps": 2}

    # What is refused does not count as a call.
    assert house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "width": 65}).status_code == 400
    for _ in range(TRIAL_CALLS):
        assert_success(house, house.post(TEXT_TO_IMAGE, quick).json())
    reply = house.post(TEXT_TO_IMAGE, quick)
    assert_modelslab_error(reply, 429, "day")
    # The next day may begin in a second.
    assert 1 <= reply.json()["retry_after"] <= 24 * 60 * 60
    assert house.usage(key)["calls"] == TRIAL_CALLS
