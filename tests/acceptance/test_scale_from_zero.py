"""A model that nobody calls costs no process; the first call starts one, and idleness ends it."""

import processes
from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_success
from patience import eventually

IDLE_SECONDS = 2
QUICK = RED_CIRCLE | {"num_inference_steps": 4}


def test_a_replica_runs_only_while_it_is_needed(fresh_house):
    house = fresh_house(replica_idle_after=f"{IDLE_SECONDS}s")
    key = house.key()
    assert house.get("/readyz").status_code == 200
    assert house.replicas() == []

    cold = house.post(TEXT_TO_IMAGE, QUICK | {"key": key}).json()
    assert_success(house, cold)
    [first] = house.replicas()

    eventually("the idle replica is stopped", lambda: not processes.is_running(first), 30)
    assert house.replicas() == []
    assert house.get("/readyz").status_code == 200

    assert_success(house, house.post(TEXT_TO_IMAGE, QUICK | {"key": key}).json())
    [second] = house.replicas()
    assert second != first


def test_calls_that_meet_a_cold_model_share_one_replica(fresh_house):
    house = fresh_house()
    key = house.key()
    started = [house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "instant_response": True}).json() for _ in range(4)]
    for answer in started:
        assert_success(house, house.post(answer["fetch_result"].removeprefix(house.url), {"key": key}).json())
    assert len(house.replicas()) == 1


def test_an_answer_tells_whether_it_was_cold_and_where_the_time_went(fresh_house):
    house = fresh_house()
    key = house.key()
    cold, warm = [cold_start(house, house.post(TEXT_TO_IMAGE, QUICK | {"key": key})) for _ in range(2)]
    assert cold["cold"] is True and warm["cold"] is False
    assert (cold["weights_from"], warm["weights_from"]) == ("disk", "device")
    cold_phases, warm_phases = cold["phases_ms"], warm["phases_ms"]
    assert cold_phases["replica_start"] > 0 and warm_phases["replica_start"] == 0
    assert cold_phases["load"] > 0 and warm_phases["load"] == 0
    assert cold_phases["denoise"] > 0 and warm_phases["denoise"] > 0


def cold_start(house, reply):
    assert_success(house, reply.json())
    return reply.json()["cold_start"]


def test_no_replica_outlives_a_router_that_is_asked_to_end(fresh_house):
    house = fresh_house()
    started = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": house.key(), "instant_response": True, "samples": 4}).json()
    assert started["status"] == "processing"
    replica = house.working_replica(cpu_seconds=0.2)
    house.stop()
    assert house.process.returncode == 0, house.log_text()[-2000:]
    assert not processes.is_running(replica)
