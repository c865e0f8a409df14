"""Every family is served over REST, alone and at the same time as all others on one replica; a single file draws what its folder draws."""

import base64
import concurrent.futures
import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import sys

import numpy
import pytest
from PIL import Image

import picture
from asking import TEXT_TO_IMAGE, assert_success
from house import REPOSITORY, House, debug_binary

sys.path.append(str(REPOSITORY / "tests" / "parity"))

import family_pipelines  # noqa: E402
import flow_pipelines  # noqa: E402
import make_pipelines  # noqa: E402
import single_files  # noqa: E402

IMAGE_TO_IMAGE = "/api/v7/images/image-to-image"
FAMILIES = ["sd15", "sd21", "sdxl", "sdxl-refiner", "sd3", "sd35-medium", "sd35-large", "flux-dev", "flux-schnell"]
SMALL = {"width": 64, "height": 64, "num_inference_steps": 3, "guidance_scale": 4, "seed": 5, "prompt": "a red circle"}


def manifest(name, path, **source):
    source = {"uri": pathlib.Path(path).as_uri()} | source
    return json.dumps(
        {"apiVersion": "emulsion.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name}, "spec": {"source": source}}
    )


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """A folder with a tiny pipeline of each family, by the family's name."""
    made = tmp_path_factory.mktemp("pipelines")
    make_pipelines.make(made)
    family_pipelines.make(made)
    flow_pipelines.make(made)
    (made / "base").rename(made / "sd15")
    return made


@pytest.fixture(scope="module")
def manifests(pipelines):
    folder = pipelines / "manifests"
    folder.mkdir()
    for shared in ["plans.yaml", "pool.yaml"]:
        shutil.copy(REPOSITORY / "models" / shared, folder)
    for family in FAMILIES:
        (folder / f"{family}.yaml").write_text(manifest(family, pipelines / family))
    file = pipelines / "dreamy.safetensors"
    single_files.write(pipelines / "sd15", file)
    config = (pipelines / "sd15").as_uri()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "dreamy.yaml").write_text(manifest("dreamy", file, config=config, sha256=digest))
    (folder / "other.yaml").write_text(manifest("other", file, config=config, sha256="0" * 64))
    return folder


@pytest.fixture(scope="module")
def family_house(tmp_path_factory, manifests):
    running = House(tmp_path_factory.mktemp("house"), manifests=manifests)
    try:
        yield running.start()
    finally:
        running.stop()


def start_picture():
    rows, columns = numpy.indices((64, 64))
    pixels = numpy.stack([rows * 4, columns * 4, (rows // 8 + columns // 8) % 2 * 255], axis=-1).astype(numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def draw(house, key, model, **more):
    path, call = TEXT_TO_IMAGE, SMALL | {"key": key, "model_id": model} | more
    if model == "sdxl-refiner":
        path, call = IMAGE_TO_IMAGE, call | {"init_image": start_picture(), "strength": 0.7}
    [png] = assert_success(house, house.post(path, call).json())
    return png


def test_every_family_draws_the_same_alone_and_beside_all_others(family_house):
    key = family_house.key()
    alone = {family: draw(family_house, key, family) for family in FAMILIES}
    with concurrent.futures.ThreadPoolExecutor(len(FAMILIES)) as callers:
        together = list(callers.map(lambda family: draw(family_house, key, family), FAMILIES))
    assert len(family_house.replicas_seen | set(family_house.replicas())) == 1
    for family, png in zip(FAMILIES, together):
        assert picture.same_pixels(alone[family], png), family
        pixels = numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        assert pixels.shape == (64, 64, 3) and pixels.std() > 1, family
    assert len({Image.open(io.BytesIO(png)).tobytes() for png in alone.values()}) == len(FAMILIES)
    # No manifest names a family: the replica found them.
    listed = family_house.post("/api/v4/dreambooth/model_list", {"key": key}).json()
    found = {model["model_id"]: model["description"] for model in listed}
    assert {family: found[family] for family in FAMILIES} == {family: family for family in FAMILIES}


def test_a_single_file_pinned_by_its_sha256_draws_what_its_folder_draws(family_house):
    key = family_house.key()
    assert picture.same_pixels(draw(family_house, key, "dreamy"), draw(family_house, key, "sd15"))
    refused = family_house.post(TEXT_TO_IMAGE, SMALL | {"key": key, "model_id": "other"})
    assert "sha256" in refused.json()["message"], refused.text


def test_what_the_family_decides_is_as_on_the_command_line(family_house, pipelines, tmp_path):
    """No manifest names a family here: steps, guidance, size, sampler and strength come from the weights."""
    key = family_house.key()
    runtime = debug_binary("EMULSION_RUNTIME", "emulsion-runtime")
    first = {"key": key, "prompt": "a red circle", "seed": 5}
    [base] = assert_success(family_house, family_house.post(TEXT_TO_IMAGE, first | {"model_id": "sdxl"}).json())
    (tmp_path / "base.png").write_bytes(base)
    second = first | {"model_id": "sdxl-refiner", "init_image": base64.b64encode(base).decode()}
    [refined] = assert_success(family_house, family_house.post(IMAGE_TO_IMAGE, second).json())
    for model, png, options in [("sdxl", base, []), ("sdxl-refiner", refined, ["--image", tmp_path / "base.png"])]:
        command = [runtime, "generate", "--model", pipelines / model, "--prompt", "a red circle", "--prompt-syntax", "weighted"]
        command += ["--seed", "5", "--output", tmp_path / "drawn.png", *options]
        subprocess.run(command, check=True, capture_output=True)
        assert picture.same_pixels((tmp_path / "drawn.png").read_bytes(), png), model


def test_a_refiner_goes_on_where_the_called_model_leaves_off(family_house, pipelines, tmp_path):
    key = family_house.key()
    call = {"key": key, "model_id": "sdxl", "prompt": "a red circle", "seed": 5, "num_inference_steps": 8, "guidance_scale": 4}
    [refined] = assert_success(family_house, family_house.post(TEXT_TO_IMAGE, call | {"refiner": "sdxl-refiner", "refiner_start": 0.6}).json())
    command = [debug_binary("EMULSION_RUNTIME", "emulsion-runtime"), "generate", "--model", pipelines / "sdxl", "--seed", "5", "--steps", "8"]
    command += ["--guidance-scale", "4", "--prompt", "a red circle", "--prompt-syntax", "weighted", "--output", tmp_path / "drawn.png"]
    command += ["--refiner", pipelines / "sdxl-refiner", "--refiner-start", "0.6"]
    subprocess.run(command, check=True, capture_output=True)
    assert picture.same_pixels((tmp_path / "drawn.png").read_bytes(), refined)
    # A model that goes on with its own image draws what it draws alone.
    euler = call | {"scheduler": "EulerDiscreteScheduler"}
    alone, handed = (family_house.post(TEXT_TO_IMAGE, euler | more).json() for more in [{}, {"refiner": "sdxl", "refiner_start": 0.6}])
    assert picture.same_pixels(*assert_success(family_house, alone), *assert_success(family_house, handed))
    assert "Refiner: sdxl-refiner [" in Image.open(io.BytesIO(refined)).text["parameters"]
    for refiner, said in [("sd15", "sd15"), ("sdxl-fine", "Model not found: sdxl-fine")]:
        answer = family_house.post(TEXT_TO_IMAGE, call | {"refiner": refiner}).json()
        assert answer["status"] != "success" and said in answer["message"], answer


def test_what_single_families_heed_reaches_the_model_and_no_other(family_house):
    key = family_house.key()
    plain = draw(family_house, key, "sdxl")
    for fields in [{"prompt_2": "a blue square"}, {"original_size": [32, 96]}, {"negative_target_size": "8,8", "negative_original_size": "8,8"}]:
        assert not picture.same_pixels(plain, draw(family_house, key, "sdxl", **fields)), fields
    assert picture.same_pixels(plain, draw(family_house, key, "sdxl", original_size="64,64"))
    refiner = draw(family_house, key, "sdxl-refiner")
    assert not picture.same_pixels(refiner, draw(family_house, key, "sdxl-refiner", aesthetic_score=1))
    guided = draw(family_house, key, "flux-dev", negative_prompt="blue", true_cfg_scale=4)
    assert not picture.same_pixels(draw(family_house, key, "flux-dev"), guided)
    answer = family_house.post(TEXT_TO_IMAGE, SMALL | {"key": key, "model_id": "sd15", "prompt_2": "a"}).json()
    assert answer["status"] != "success" and "prompt_2" in answer["message"], answer
