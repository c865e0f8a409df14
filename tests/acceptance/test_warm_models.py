"""The models that a pool names as warm are in memory before anybody calls."""

import json

from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_success
from house import CALL_SECONDS, copy_manifests
from patience import eventually


def declare_pool(manifests, warm_models):
    spec = {"minReplicas": 1, "maxReplicas": 1, "warmModels": warm_models}
    pool = {"apiVersion": "emulsion.dev/v1alpha1", "kind": "RuntimePool", "metadata": {"name": "default"}, "spec": spec}
    # JSON is YAML.
    (manifests / "pool.yaml").write_text(json.dumps(pool))


def warmth(house):
    """(warm models in memory, warm models that are not)"""
    return tuple(house.metric(f"emulsion_router_warm_models_{state}") for state in ("resident", "missing"))


def test_a_warm_model_answers_its_first_call_from_memory_and_a_missing_one_heals(fresh_house, tmp_path):
    manifests = copy_manifests(tmp_path / "manifests")
    declare_pool(manifests, ["demo", "later"])
    house = fresh_house(manifests=manifests)
    eventually("the one model there is is in memory", lambda: warmth(house) == (1, 1), CALL_SECONDS)
    assert "the warm model later of the pool default is not in memory: no such model is declared" in house.log_text()

    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": house.key(), "num_inference_steps": 2}).json()
    assert_success(house, answer)
    assert (answer["cold_start"]["cold"], answer["cold_start"]["weights_from"]) == (False, "device")

    demo = (manifests / "demo.yaml").read_text()
    (manifests / "later.yaml").write_text(demo.replace("name: demo", "name: later"))
    eventually("the other one is there as well", lambda: warmth(house) == (2, 0), CALL_SECONDS)
    declare_pool(manifests, [])
    eventually("none is warm any more", lambda: warmth(house) == (0, 0), CALL_SECONDS)
