"""Routers that share a PostgreSQL and a bucket: any of them answers for what another accepted, images included."""

import base64
import pathlib

import pytest
import requests

import processes
from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_success
from certificates import Certificates
from house import CALL_SECONDS, House
from patience import eventually
from s3 import CREDENTIALS, Tls
from test_kills import fetch_until_finished, start_long_work
from test_postgres import TENANT, books


@pytest.fixture
def routers(bucket, start_routers):
    return start_routers(CREDENTIALS, **bucket.settings)


def assert_no_secret_was_logged(routers):
    for router in routers:
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in router.log_text()
        assert "X-Amz-Signature" not in router.log_text()


def test_what_a_killed_router_accepted_its_neighbour_finishes_and_answers(database, bucket, routers):
    first, second = routers
    key = first.key(tenant=TENANT)
    started, replica = start_long_work(first, key)
    for secret in (database.url, CREDENTIALS["AWS_SECRET_ACCESS_KEY"]):
        assert secret.encode() not in pathlib.Path(f"/proc/{replica}/environ").read_bytes(), "replicas hold no secrets"
    first.kill()
    eventually("the dead router's replica is gone", lambda: not processes.is_running(replica), 15)

    answer = fetch_until_finished(second, key, started["id"])
    assert answer["status"] == "success", answer
    assert books(database) == (0, 4, 1), "it is billed once"
    # The caller's links name the dead router; their paths are those that the other one answers for.
    promised = [url.replace(first.url, second.url) for url in started["future_links"]]
    assert answer["output"] == promised
    assert_success(second, answer, images=4)
    assert len(bucket.objects("outputs")) == 4
    assert_no_secret_was_logged(routers)


def test_images_come_from_the_bucket_through_any_router_and_through_none(bucket, routers):
    first, second = routers
    key = first.key(tenant=TENANT)
    answer = first.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 2}).json()
    assert answer["status"] == "success", answer
    [link] = answer["output"]
    stored = [file.read_bytes() for file in bucket.objects("outputs")]
    for router in routers:
        sent_on = requests.get(link.replace(first.url, router.url), allow_redirects=False, timeout=10)
        assert sent_on.status_code == 307 and sent_on.headers["location"].startswith(bucket.url)
        image = requests.get(sent_on.headers["location"], timeout=10)
        assert image.headers["content-type"] == "image/png" and [image.content] == stored
    # Without its signature nobody reads it.
    assert requests.get(sent_on.headers["location"].split("?")[0], timeout=10).status_code == 403
    assert not (first.data / "outputs").exists(), "no image is kept beside the router"
    # As base64 the router itself hands it out, also the one that did not make it.
    fetched = second.post(f"/api/v7/images/fetch/{answer['id']}", {"key": key, "base64": True}).json()
    assert [base64.b64decode(text) for text in fetched["output"]] == stored
    assert_no_secret_was_logged(routers)


def test_a_bucket_that_is_away_for_a_while_costs_no_accepted_request(database, bucket, routers):
    first, _ = routers
    key = first.key(tenant=TENANT)
    started, _ = start_long_work(first, key)
    bucket.stop()
    refused = requests.get(started["future_links"][0], timeout=120)
    assert refused.status_code == 500
    # Nothing would be shown if the bucket were back before an image is stored.
    eventually("a replica finds no bucket", lambda: "image was not stored" in first.log_text(), CALL_SECONDS)
    bucket.start()
    answer = fetch_until_finished(first, key, started["id"])
    assert_success(first, answer, images=4)
    assert books(database) == (0, 4, 1)


def test_routers_and_replicas_reach_a_bucket_by_https(bucket, tmp_path):
    certificates = Certificates(tmp_path / "certificates")
    (tmp_path / "house").mkdir()
    with Tls(bucket.port, certificates) as tls:
        house = House(tmp_path / "house", **bucket.settings | {"s3_endpoint": tls.url})
        house.environment |= CREDENTIALS | {"SSL_CERT_FILE": str(certificates.authority)}
        house.start()
        try:
            key = house.key()
            drawn = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "num_inference_steps": 2}).json()
            assert drawn["status"] == "success", drawn
            [made] = bucket.objects("outputs")
            # The picture that a call brings goes into the bucket, and a replica gets it there.
            picture = base64.b64encode(made.read_bytes()).decode()
            call = RED_CIRCLE | {"key": key, "num_inference_steps": 2, "init_image": picture, "base64": True}
            changed = house.post("/api/v6/images/img2img", call).json()
            assert changed["status"] == "success", changed
            assert len(bucket.objects("outputs")) == 2 and len(bucket.objects("inputs")) == 1
            assert tls.opened >= 4
        finally:
            house.stop()
