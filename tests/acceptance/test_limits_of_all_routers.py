"""A tenant has one limit, however many routers take its calls: requests a minute, images at once."""

import time

import pytest

from asking import LONG_WORK, TEXT_TO_IMAGE, assert_modelslab_error, assert_openai_error
from house import CALL_SECONDS
from patience import eventually
from test_kills import fetch_until_finished
from test_plan_limits import SMALLEST, with_trial_plan

BURST = 40


@pytest.fixture
def routers_of_plan(start_routers, tmp_path):
    """Two routers that know a plan "trial" with these limits, and a key of one tenant on that plan."""

    def start(**limits):
        routers = start_routers(manifests=with_trial_plan(tmp_path / "manifests", limits), drain="0s")
        return routers, routers[0].key(plan="trial", tenant="shared")

    return start


def is_refused(router, key):
    """Whether the rate refuses a call. One that the queue refuses has passed the rate."""
    reply = router.post(TEXT_TO_IMAGE, SMALLEST | {"key": key})
    assert reply.status_code in (200, 429), reply.text
    return "a minute" in reply.text


def passed_before_refusal(routers, key):
    """How many calls pass, sent to the routers in turn, until one is refused."""
    for sent in range(3 * BURST):
        if is_refused(routers[sent % len(routers)], key):
            return sent
    raise AssertionError(f"{3 * BURST} calls passed a burst of {BURST}")


def refused(send):
    """The reply with which the rate refuses; while calls are made, a slot or two come back."""
    return next(reply for reply in (send() for _ in range(5)) if "a minute" in reply.text)


def test_routers_together_let_through_the_plans_rate(routers_of_plan):
    routers, key = routers_of_plan(requestsPerMinute=BURST, burst=BURST)
    begin = time.monotonic()
    passed = passed_before_refusal(routers, key)
    came_back = (time.monotonic() - begin) * BURST / 60
    assert BURST <= passed <= BURST + came_back + 1
    # Each of them says when to come back, in the caller's dialect.
    body = {"model": "demo", "prompt": "a red circle", "size": "32x32", "steps": 1}
    for router in routers:
        reply = refused(lambda: router.post(TEXT_TO_IMAGE, SMALLEST | {"key": key}))
        assert_modelslab_error(reply, 429, "rate limit")
        assert 1 <= reply.json()["retry_after"] == int(reply.headers["retry-after"]) <= 2
        reply = refused(lambda: router.post("/v1/images/generations", body, headers={"Authorization": f"Bearer {key}"}))
        assert_openai_error(reply, 429, "rate limit")
        assert 1 <= int(reply.headers["retry-after"]) <= 2


def test_a_killed_router_takes_no_more_of_the_rate_with_it_than_its_lease(routers_of_plan):
    # Two calls a second: a lease is two of them.
    (first, second), key = routers_of_plan(requestsPerMinute=120, burst=BURST)
    begin = time.monotonic()
    assert not is_refused(first, key)
    first.kill()
    passed = passed_before_refusal([second], key)
    assert BURST - 2 <= passed <= BURST + 2 * (time.monotonic() - begin)


def in_flight(router):
    return router.metric("emulsion_router_in_flight_requests")


def test_routers_together_make_as_many_images_at_once_as_the_plan_says(routers_of_plan):
    (first, second), key = routers_of_plan(parallelImages=1)
    long = LONG_WORK | {"key": key, "samples": 1, "instant_response": True}
    ids = []
    for router in (first, second):
        ids.append(router.post(TEXT_TO_IMAGE, long).json()["id"])
        eventually("the first request runs", lambda: in_flight(first) == 1, CALL_SECONDS)

    def second_runs():
        runs = in_flight(second) == 1
        # Asked after the other: what had ended by then does not begin again.
        assert not (runs and in_flight(first) == 1), "both run at once"
        return runs

    eventually("the second request runs after the first", second_runs, CALL_SECONDS)
    assert [fetch_until_finished(second, key, number)["status"] for number in ids] == ["success", "success"]


def test_images_of_a_killed_router_hold_nobody_up(routers_of_plan):
    (first, second), key = routers_of_plan(parallelImages=1)
    long = LONG_WORK | {"key": key, "samples": 1, "instant_response": True}
    ids = [first.post(TEXT_TO_IMAGE, long).json()["id"]]
    eventually("the first request runs", lambda: in_flight(first) == 1, CALL_SECONDS)
    ids.append(second.post(TEXT_TO_IMAGE, long).json()["id"])
    first.kill()
    assert [fetch_until_finished(second, key, number)["status"] for number in ids] == ["success", "success"]
