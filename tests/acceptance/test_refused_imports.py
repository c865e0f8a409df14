"""Imports that end without a model, and say why: other bytes than were declared, what is no weights, sources that nobody may read."""

import hashlib

import pytest

from asking import assert_red_circle_on_blue, assert_success
from certificates import Certificates
from house import copy_manifests
from hub import Hub
from importing import MODEL, TOKEN, ask, bulk_requests, documents, drawn, refused
from picture import same_pixels


def test_another_digest_than_the_declared_one_is_refused_and_nothing_becomes_visible(house_with, hub):
    declared = hashlib.sha256(b"other weights").hexdigest()
    house = house_with(more=f', sha256: "{declared}"')
    refused(house, house.key(), "import failed", declared, "spec.source.sha256")
    assert documents(house, "manifests") == []


def test_bytes_that_their_publisher_does_not_list_are_refused(house_with, hub):
    listed = hashlib.sha256(b"other weights").hexdigest()
    hub.listed["unet/diffusion_pytorch_model.safetensors"] = listed
    house = house_with()
    refused(house, house.key(), "import failed", listed, "its publisher lists")
    assert documents(house, "manifests") == []


def test_two_models_of_one_source_are_imported_together(house_with, hub):
    house = house_with(manifest=MODEL.format(uri="hf://acme/demo", more="").replace("name: imported", "name: also-imported"))
    key = house.key()
    png, _ = drawn(house, key)
    also = ask(house, key, model_id="also-imported").json()
    assert same_pixels(png, *assert_success(house, also))
    # Its header, and all of it.
    assert len(bulk_requests(hub)) == 2
    assert len(documents(house, "manifests")) == 1


def test_a_site_whose_certificate_nobody_vouches_for_is_not_read(house_with, tmp_path, monkeypatch):
    stranger, trusted = (Certificates(tmp_path / name) for name in ("stranger", "trusted"))
    site = Hub(stranger.context())
    site.files["/model.safetensors"] = b"weights"
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.authority))
    try:
        house = house_with(uri=f"{site.url}/model.safetensors")
        refused(house, house.key(), "import failed", "did not answer as one should")
        assert site.requests == []
    finally:
        site.stop()


def test_a_pickle_is_refused_before_its_bulk_is_fetched(house_with, hub):
    bulk = b"PK\x03\x04" + bytes(64 << 20)
    hub.repositories["acme/pickle"] = {"model.safetensors": bulk}
    hub.gate.clear()
    house = house_with(uri="hf://acme/pickle")
    message = refused(house, house.key(), "import failed", "PyTorch zip archive")
    assert "/tmp" not in message and str(house.data) not in message
    hub.gate.set()


@pytest.mark.parametrize(
    "page, words",
    [
        (b"<!DOCTYPE html><html>sign in</html>" + bytes(100), ["HTML page"]),
        (b"\x80\x02}q\x00." + bytes(100), ["pickle"]),
        ((1 << 40).to_bytes(8, "little") + b"{" + bytes(100), ["header"]),
        (b"", ["truncated"]),
    ],
)
def test_what_is_no_weights_says_what_it_is(page, words, house_with, hub):
    hub.repositories["acme/page"] = {"model.safetensors": page}
    house = house_with(uri="hf://acme/page")
    refused(house, house.key(), "import failed", *words)


@pytest.mark.parametrize(
    "uri, words",
    [
        ("hf://acme/nothing", ["404", "no such file"]),
        ("hf://acme/demo/none.safetensors", ["no file none.safetensors"]),
        ("https://127.0.0.1:1/m.safetensors", ["cannot be reached"]),
    ],
)
def test_sources_that_are_not_there_say_so(uri, words, house_with):
    house = house_with(uri=uri)
    refused(house, house.key(), "import failed", *words)


def test_inside_addresses_are_not_asked_unless_they_are_allowed(fresh_house, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    manifests = copy_manifests(tmp_path / "manifests")
    (manifests / "imported.yaml").write_text(MODEL.format(uri="hf://acme/demo", more=""))
    house = fresh_house(manifests=manifests)
    refused(house, house.key(), "import failed", "not public")
    assert hub.requests == []


def test_a_redirect_loop_ends(house_with, hub):
    hub.redirects["/acme/demo/resolve/0123456789abcdef0123456789abcdef01234567/model_index.json"] = (302, "/round")
    hub.redirects["/round"] = (302, "/round")
    house = house_with()
    refused(house, house.key(), "import failed", "redirects")


def test_credentials_go_to_their_own_host_and_into_no_log(house_with, hub, tmp_path):
    hub.token = TOKEN
    house = house_with(more=", secretRef: {name: hub}", log="trace", secrets=tmp_path / "secrets")
    key = house.key()
    refused(house, key, "import failed", "Secret hub")
    (tmp_path / "secrets" / "hub").mkdir(parents=True)
    (tmp_path / "secrets" / "hub" / "HF_TOKEN").write_text("hf_wrong")
    refused(house, key, "import failed", "401", "secretRef")
    (tmp_path / "secrets" / "hub" / "HF_TOKEN").write_text(TOKEN + "\n")

    # The bulk is elsewhere, as hubs have it.
    other = Hub()
    path = "/acme/demo/resolve/0123456789abcdef0123456789abcdef01234567/unet/diffusion_pytorch_model.safetensors"
    other.files["/bulk"] = hub.repositories["acme/demo"]["unet/diffusion_pytorch_model.safetensors"]
    hub.redirects[path] = (302, f"{other.url}/bulk")
    try:
        house.stop()
        house.start()
        png, _ = drawn(house, key)
        assert_red_circle_on_blue(png)
        assert {authorization for _, authorization, _ in other.requests} == {None}
    finally:
        other.stop()
    house.stop()
    assert TOKEN not in house.log_text() and "hf_wrong" not in house.log_text()
    kept = [file for file in house.data.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert kept == []
