"""Several routers keep one journal in PostgreSQL: what one accepted another finishes, and a server that restarts loses nothing."""

import pathlib

import pytest

import processes
from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_success
from patience import eventually
from test_kills import fetch_until_finished, start_long_work

TENANT = "shared"


@pytest.fixture
def routers(start_routers):
    return start_routers()


def books(database):
    """(unfinished requests, images billed, calls of the day) of the shared tenant."""
    [row] = database.ask(
        "select (select count(*) from generations g where g.tenant = t.id and finished_at_ms is null), images,"
        " (select max(calls) from usage where tenant = t.id) from tenants t where name = '" + TENANT + "'"
    )
    return tuple(map(int, row))


def test_what_a_killed_router_accepted_its_neighbour_finishes(database, routers):
    first, second = routers
    key = first.key(tenant=TENANT)
    started, replica = start_long_work(first, key)
    environment = pathlib.Path(f"/proc/{replica}/environ").read_bytes()
    assert environment and database.url.encode() not in environment, "a replica holds no secrets"
    first.kill()
    eventually("the dead router's replica is gone", lambda: not processes.is_running(replica), 15)

    answer = fetch_until_finished(second, key, started["id"])
    assert answer["status"] == "success", answer
    assert books(database) == (0, 4, 1), "it is billed once"
    # The pictures lie with the router that finished it: folders are not shared, the journal is.
    outputs = [url.replace(first.url, second.url) for url in answer["output"]]
    assert_success(second, answer | {"output": outputs}, images=4)


def test_routers_count_one_quota(database, routers):
    keys = [router.key(plan="free", tenant=TENANT) for router in routers]
    used = [router.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 2}) for router, key in zip(routers, keys)]
    assert [answer.json()["status"] for answer in used] == ["success", "success"]
    assert books(database) == (0, 2, 2)


def test_a_database_that_crashes_and_comes_back_loses_no_request(database, routers):
    first, _ = routers
    key = first.key(tenant=TENANT)
    started, _ = start_long_work(first, key)
    database.crash()
    refused = first.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key})
    assert refused.status_code >= 500, "what cannot be written down is not accepted"
    database.start()
    answer = fetch_until_finished(first, key, started["id"])
    assert_success(first, answer, images=4)
    assert books(database) == (0, 4, 1)
    made = eventually("calls are taken again", lambda: first.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key}).json(), 30)
    assert_success(first, made)
