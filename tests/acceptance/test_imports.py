"""Weights that are published elsewhere: declared, imported once, and drawn with."""

import hashlib
import os
import shutil
import signal
import subprocess
import time

import pytest
from safetensors.torch import load_file, save

import processes
from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_red_circle_on_blue, assert_success
from certificates import Certificates
from house import REPOSITORY
from hub import Hub
from importing import DEMO, IMPORT_SECONDS, TOKEN, ask, bulk_requests, documents, drawn, refused
from patience import eventually
from picture import same_pixels
from s3 import CREDENTIALS, S3


def test_a_declared_model_is_imported_once_and_draws_what_the_same_files_draw(house_with, hub):
    house = house_with()
    key = house.key()
    png, cold = drawn(house, key)
    assert_red_circle_on_blue(png)
    assert cold["weights_from"] == "content_store" and cold["phases_ms"]["fetch"] > 0
    own = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "seed": 7}).json()
    assert same_pixels(png, *assert_success(house, own))
    asked = len(hub.requests)

    house.stop()
    house.start()
    again, cold = drawn(house, key)
    assert same_pixels(png, again)
    # Both what was imported and what a replica had fetched outlive the router.
    assert cold["weights_from"] == "disk"
    assert len(hub.requests) == asked, "it was fetched again"


def test_an_adapter_comes_by_its_url_over_tls(house_with, hub, tmp_path, monkeypatch):
    """A published file under a certificate that the machine trusts, with its digest pinned and a secret in its query."""
    certificates = Certificates(tmp_path / "certificates")
    site = Hub(certificates.context())
    [file] = (REPOSITORY / "models" / "demo-lora").rglob("*.safetensors")
    site.files["/files/ring.safetensors"] = file.read_bytes()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    adapter = f"""
apiVersion: emulsion.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: ring-elsewhere}}
spec:
  source: {{uri: "{site.url}/files/ring.safetensors?key={TOKEN}", sha256: {hashlib.sha256(file.read_bytes()).hexdigest()}}}
  kind: lora
"""
    try:
        house = house_with(manifest=adapter)
        key = house.key()
        asked = RED_CIRCLE | {"key": key, "seed": 7, "lora_model": "ring-elsewhere", "lora_strength": 1}

        def answered():
            reply = house.post(TEXT_TO_IMAGE, asked)
            return reply if reply.status_code == 200 else None

        answer = eventually(f"the adapter is imported (the router's log: {house.log})", answered, IMPORT_SECONDS).json()
        [png] = assert_success(house, answer)
        own = house.post(TEXT_TO_IMAGE, asked | {"lora_model": "ring"}).json()
        assert same_pixels(png, *assert_success(house, own))
        assert TOKEN not in house.log_text()
    finally:
        site.stop()


def test_content_in_a_bucket_never_passes_through_the_router(house_with, hub, tmp_path, monkeypatch):
    store = S3(tmp_path / "s3")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    try:
        store.start()
        house = house_with(**store.settings)
        key = house.key()

        def answered():
            reply = ask(house, key)
            return reply if reply.status_code == 200 else None

        answer = eventually(f"the model is imported (the router's log: {house.log})", answered, IMPORT_SECONDS).json()
        assert answer["cold_start"]["weights_from"] == "content_store"
        assert_red_circle_on_blue(house.get(answer["output"][0].removeprefix(house.url)).content)
        assert len(store.objects("content/manifests")) == 1
        # 20 MB: the large file's two chunks, and one for each of the others.
        assert len(store.objects("content/chunks")) > 10
        assert not (house.data / "content").exists()
    finally:
        store.stop()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(house_with, hub):
    hub.break_after = 4 << 20
    house = house_with()
    png, _ = drawn(house, house.key())
    assert_red_circle_on_blue(png)
    ranges = [wanted for _, _, wanted in bulk_requests(hub)]
    assert any(wanted and wanted != "bytes=0-" for wanted in ranges), ranges


def test_a_server_without_ranges_will_do(house_with, hub):
    hub.knows_ranges = False
    # What had come before the connection broke comes again.
    hub.break_after, hub.breaks_left = 8 << 20, 1
    house = house_with()
    png, _ = drawn(house, house.key())
    assert_red_circle_on_blue(png)
    # Its header, what broke, and all of it again: at the first attempt.
    assert (hub.breaks_left, len(bulk_requests(hub))) == (0, 3)


def darker(path):
    """The demo model's VAE with another bias before its picture."""
    tensors = load_file(path)
    tensors["decoder.conv_out.bias"] = tensors["decoder.conv_out.bias"] - 0.5
    return save(tensors)


def test_a_published_vae_takes_the_place_of_the_models_own(house_with, hub, tmp_path):
    vae = darker(DEMO / "vae" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "vae.safetensors").write_bytes(vae)
    config = (DEMO / "vae" / "config.json").read_bytes()
    hub.repositories["acme/vae"] = {"config.json": config, "diffusion_pytorch_model.safetensors": vae}
    hub.repositories["acme/no-vae"] = {"model.safetensors": (DEMO / "text_encoder" / "model.safetensors").read_bytes()}
    manifests = "---".join(
        f"""
apiVersion: emulsion.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}-vae}}
spec: {{source: {{uri: "{uri}"}}, kind: vae}}
---
apiVersion: emulsion.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: with-{name}-vae}}
spec:
  source: {{uri: "file://{DEMO}"}}
  components: {{vae: {name}-vae}}
"""
        for name, uri in {"published": "hf://acme/vae", "own": f"file://{tmp_path}/vae.safetensors", "no": "hf://acme/no-vae"}.items()
    )
    house = house_with(manifest=manifests)
    key = house.key()
    ask = lambda model: house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "seed": 7, "model_id": model})

    def answered():
        reply = ask("with-published-vae")
        return reply if reply.status_code == 200 else None

    [png] = assert_success(house, eventually(f"the VAE is imported (the router's log: {house.log})", answered, IMPORT_SECONDS).json())
    [own] = assert_success(house, ask("with-own-vae").json())
    [plain] = assert_success(house, ask("demo").json())
    assert same_pixels(png, own) and not same_pixels(png, plain)
    eventually("what is no VAE is told", lambda: "no VAE" in house.log_text(), IMPORT_SECONDS)
    assert ask("with-no-vae").status_code == 503


@pytest.fixture
def bucket(tmp_path):
    """A real S3 server with the demo model and an adapter in the bucket `weights`."""
    store = S3(tmp_path / "s3")
    shutil.copytree(DEMO, store.folder / "weights" / "published" / "demo")
    [adapter] = (REPOSITORY / "models" / "demo-lora").rglob("*.safetensors")
    shutil.copy(adapter, store.folder / "weights" / "ring.safetensors")
    yield store.start()
    store.stop()


def secret(folder, **keys):
    """A Secret of local mode, as a setting of the house."""
    (folder / "secrets" / "source").mkdir(parents=True)
    for name, value in keys.items():
        (folder / "secrets" / "source" / name).write_text(value)
    return {"secrets": folder / "secrets"}


def test_a_folder_and_a_file_of_a_bucket_are_imported(house_with, bucket, tmp_path):
    adapter = """
apiVersion: emulsion.dev/v1alpha1
kind: ModelDeployment
metadata: {name: ring-elsewhere}
spec: {source: {uri: "s3://weights/ring.safetensors", secretRef: {name: source}}, kind: lora}
"""
    settings = secret(tmp_path, AWS_ENDPOINT_URL=bucket.url, AWS_REGION="eu-central-1", **CREDENTIALS)
    house = house_with(uri="s3://weights/published/demo/", more=", secretRef: {name: source}", manifest=adapter, **settings)
    key = house.key()
    png, _ = drawn(house, key)
    own = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "seed": 7}).json()
    assert same_pixels(png, *assert_success(house, own))
    asked = RED_CIRCLE | {"key": key, "seed": 7, "lora_model": "ring-elsewhere", "lora_strength": 1}

    def answered():
        reply = house.post(TEXT_TO_IMAGE, asked)
        return reply if reply.status_code == 200 else None

    [ringed] = assert_success(house, eventually(f"the adapter is imported (the router's log: {house.log})", answered, IMPORT_SECONDS).json())
    own = house.post(TEXT_TO_IMAGE, asked | {"lora_model": "ring"}).json()
    assert same_pixels(ringed, *assert_success(house, own))
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in house.log_text()


@pytest.mark.parametrize(
    "uri, keys, words",
    [
        ("s3://nowhere/demo/", CREDENTIALS, ["404 NoSuchBucket; AWS_REGION", "AWS_ENDPOINT_URL"]),
        ("s3://weights/none.safetensors", CREDENTIALS, ["404 NoSuchKey", "ends with a slash"]),
        ("s3://weights/none/", CREDENTIALS, ["no object in s3://weights/none/"]),
        ("s3://weights/published/demo/", {}, ["403 AccessDenied", "not public"]),
        ("s3://weights/ring.safetensors", CREDENTIALS | {"AWS_SECRET_ACCESS_KEY": "another"}, ["403 SignatureDoesNotMatch", "secretRef"]),
        ("s3://weights/ring.safetensors", {"AWS_ACCESS_KEY_ID": "alone"}, ["go together"]),
    ],
)
def test_what_a_bucket_refuses_says_what_to_do(uri, keys, words, house_with, bucket, tmp_path):
    house = house_with(uri=uri, more=", secretRef: {name: source}", **secret(tmp_path, AWS_ENDPOINT_URL=bucket.url, **keys))
    message = refused(house, house.key(), "import failed", *words)
    assert "X-Amz" not in message and CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in message


def test_a_public_bucket_is_read_without_credentials(house_with, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", hub.url)
    hub.files["/public/ring.safetensors"] = b"<!DOCTYPE html><html>sign in</html>" + bytes(100)
    house = house_with(uri="s3://public/ring.safetensors")
    refused(house, house.key(), "import failed", "HTML page")
    assert [authorization for path, authorization, _ in hub.requests if path.startswith("/public")] == [None, None]


@pytest.mark.parametrize("victim", ["import", "router"])
def test_a_kill_in_the_middle_leaves_no_half_model(victim, house_with, hub):
    hub.gate.clear()
    house = house_with()
    key = house.key()
    message = refused(house, key, "being imported")
    assert "imported" in message
    [importing] = house.replicas()
    # Chunks of the files before the large one are in the store by then.
    eventually("it fetches the bulk", lambda: len(bulk_requests(hub)) >= 2, IMPORT_SECONDS)
    if victim == "import":
        os.kill(importing, signal.SIGKILL)
    else:
        house.kill()
    eventually("the import is gone", lambda: not processes.is_running(importing), 15)
    assert documents(house, "manifests") == []
    hub.gate.set()
    if victim == "router":
        house.start()
    png, _ = drawn(house, key)
    assert_red_circle_on_blue(png)
    assert len(documents(house, "manifests")) == 1


def test_a_replica_that_dies_while_it_fetches_spoils_nothing(house_with, hub):
    house = house_with()
    key = house.key()
    png, _ = drawn(house, key)
    [replica] = house.replicas()
    os.kill(replica, signal.SIGKILL)
    [digest] = [manifest.stem for manifest in documents(house, "manifests")]
    # As if it had died in the middle of its fetch: a part that was not finished, with a hole in it.
    cache = house.data / "content-cache"
    (cache / digest).rename(cache / "unfinished" / digest)
    weights = cache / "unfinished" / digest / "unet" / "diffusion_pytorch_model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(1 << 20)
        file.write(bytes(1 << 20))
    again, cold = drawn(house, key)
    assert same_pixels(png, again)
    assert cold["weights_from"] == "content_store"


def test_weights_that_no_model_names_are_there_for_one_that_comes_back(house_with, hub):
    house = house_with()
    key = house.key()
    png, _ = drawn(house, key)
    house.stop()
    manifest = house.manifests / "imported.yaml"
    declared = manifest.read_text()
    manifest.unlink()
    content = house.data / "content"
    before = time.time() - 2 * 24 * 3600
    for file in content.rglob("*"):
        os.utime(file, (before, before))

    house.start()
    # Wherever it is by now.
    house.kill()
    house.start()
    in_use = lambda: documents(house, "manifests") + list((content / "chunks").glob("*/*"))
    eventually(f"what nobody names is out of use (the router's log: {house.log})", lambda: not in_use(), IMPORT_SECONDS)
    assert len(list((content / "discarded" / "chunks").glob("*/*"))) > 10

    house.stop()
    shutil.rmtree(house.data / "content-cache")
    manifest.write_text(declared)
    asked = len(hub.requests)
    house.start()
    again, cold = drawn(house, key)
    assert same_pixels(png, again) and cold["weights_from"] == "content_store"
    assert len(hub.requests) == asked, "it was fetched again"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_content_store_is_told_and_heals(house_with, hub, tmp_path):
    content = tmp_path / "data" / "content"
    content.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", content], check=True)
    try:
        house = house_with()
        key = house.key()
        refused(house, key, "import failed", "no space is left in the content store")
        assert documents(house, "manifests") == []
        subprocess.run(["mount", "-o", "remount,size=64m", content], check=True)
        png, _ = drawn(house, key)
        assert_red_circle_on_blue(png)
        house.stop()
    finally:
        subprocess.run(["umount", "--lazy", content], check=True)
