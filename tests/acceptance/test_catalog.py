"""The published models of the catalog, as they are shipped, from a hub of our own."""

import sys

import pytest

from asking import TEXT_TO_IMAGE, assert_success
from house import REPOSITORY, copy_manifests
from hub import Hub
from patience import eventually

sys.path.append(str(REPOSITORY / "tests" / "parity"))

import family_pipelines  # noqa: E402
import make_pipelines  # noqa: E402

CATALOG = REPOSITORY / "charts" / "emulsion" / "catalog"
IDS = {
    "sd-1.5", "sd-2.1", "sdxl", "sdxl-refiner", "sdxl-turbo", "sdxl-lightning", "sd-3", "sd-3.5", "sd-3.5-medium", "sd-3.5-turbo", "flux", "flux-schnell",
}
# Twelve imports, two at once, each asked for a second time after some seconds.
IMPORT_SECONDS = 120


@pytest.fixture
def hub(tmp_path):
    """It has one of them."""
    made = tmp_path / "pipelines"
    made.mkdir()
    make_pipelines.make(made)
    family_pipelines.make(made)
    hub = Hub()
    hub.add("stabilityai/stable-diffusion-xl-base-1.0", made / "sdxl")
    yield hub
    hub.stop()


def test_all_are_listed_and_each_is_drawn_with_or_says_why_not(fresh_house, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    manifests = copy_manifests(tmp_path / "manifests")
    for file in CATALOG.glob("*.yaml"):
        (manifests / file.name).write_text(file.read_text())
    secret = tmp_path / "secrets" / "hugging-face"
    secret.mkdir(parents=True)
    (secret / "HF_TOKEN").write_text("hf_of-an-account")
    house = fresh_house(manifests=manifests, import_allow_network="127.0.0.0/8", secrets=tmp_path / "secrets")
    key = house.key()
    assert IDS <= {model["model_id"] for model in house.post("/api/v4/dreambooth/model_list", {"key": key}).json()}

    def call(model):
        return house.post(TEXT_TO_IMAGE, {"key": key, "model_id": model, "prompt": "a", "num_inference_steps": 1, "width": 64, "height": 64})

    drawn = eventually("sdxl is imported", lambda: next((reply for reply in [call("sdxl")] if reply.status_code == 200), None), IMPORT_SECONDS)
    assert len(assert_success(house, drawn.json())) == 1

    def told(model):
        reply = call(model)
        message = reply.json()["message"]
        return message if reply.status_code == 503 and "404" in message and model in message else None

    for model in sorted(IDS - {"sdxl"}):
        eventually(f"a call of {model} is told that its weights are not there (the router's log: {house.log})", lambda model=model: told(model), IMPORT_SECONDS)
