"""Imports, as tests ask for them: the model `imported`, and what becomes of it."""

import os
import pathlib

from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_success
from house import REPOSITORY
from patience import eventually

# A debug build fetches, hashes and stores 20 MB several times over.
IMPORT_SECONDS = 120
DEMO = pathlib.Path(os.environ.get("EMULSION_DEMO_MODEL", REPOSITORY / "models" / "demo"))
TOKEN = "hf_a-secret-of-the-acceptance-tests"
MODEL = """
apiVersion: emulsion.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: imported}}
spec:
  source: {{uri: "{uri}"{more}}}
  defaults: {{steps: 20, guidanceScale: 5, width: 64, height: 64}}
  limits: {{maxWidth: 256, maxHeight: 256}}
"""


def ask(house, key, **changes):
    return house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "model_id": "imported", "seed": 7} | changes)


def drawn(house, key):
    """The picture and where its weights came from, once the model can be called."""

    def answered():
        reply = ask(house, key)
        return reply if reply.status_code == 200 else None

    answer = eventually(f"the model is imported (the router's log: {house.log})", answered, IMPORT_SECONDS).json()
    [png] = assert_success(house, answer)
    return png, answer["cold_start"]


def refused(house, key, *words):
    """Waits until a call is refused with these words, and returns the message."""

    def told():
        reply = ask(house, key)
        assert reply.status_code != 200, "it was imported, and draws"
        message = reply.json()["message"]
        return message if reply.status_code == 503 and all(word in message for word in words) else None

    return eventually(f"a call is told {words} (the router's log: {house.log})", told, IMPORT_SECONDS)


def bulk_requests(hub):
    """Requests for the largest file that were not only for its head."""
    return [request for request in hub.requests if request[0].endswith("unet/diffusion_pytorch_model.safetensors")]


def documents(house, kind):
    return list((house.data / "content" / kind).glob("*.json"))
