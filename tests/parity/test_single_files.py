"""A single file draws what the folder draws that it was made from, bit by bit."""

import json
import subprocess

import numpy
import pytest
import safetensors.torch

import flow_pipelines
import single_files
from cases import Case
from flow_cases import FlowCase
from runtime_trace import TraceFailed, trace

# The others are in the matrix.
FOLDERS = ["deep", "half", "inpainting", "sdxl-inpainting"]
DRAWS = {"latents_init": numpy.random.default_rng(8).standard_normal((1, 4, 8, 16), dtype=numpy.float32)}


def draw(binary, model, request, tmp_path, name, *options):
    return trace(binary, model, request, DRAWS, tmp_path, name, options)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_draws_what_its_folder_draws(name, runtime_binary, family_folders, family_files, tmp_path):
    request = Case("alike", num_inference_steps=3).request()
    if "inpainting" in name:
        tensors = {"image": numpy.full((64, 128, 3), 0.5, numpy.float32), "mask_image": numpy.ones((64, 128), numpy.float32)}
        request |= {"task": "inpaint", "image": "0" * 64, "mask_image": "1" * 64, "seed": 3}
    else:
        tensors = DRAWS
    expected = trace(runtime_binary, family_folders[name], request, tensors, tmp_path, "folder")
    ours = trace(runtime_binary, family_files(name), request, tensors, tmp_path, "file", ["--config", family_folders[name]])
    assert numpy.array_equal(ours["step_latents"], expected["step_latents"])
    assert numpy.array_equal(ours["image"], expected["image"])


def test_parts_come_from_other_files_and_folders(runtime_binary, folders, family_files, tmp_path):
    request = Case("parts", num_inference_steps=2).request()
    expected = draw(runtime_binary, folders["base"], request, tmp_path, "expected")
    half = draw(runtime_binary, folders["half"], request, tmp_path, "half")
    assert not numpy.array_equal(half["image"], expected["image"])
    # The autoencoder of its half sibling, back from the whole one: as a folder, a part's folder, a file alone in either naming.
    vae = {name: tensor for name, tensor in single_files.autoencoder(folders["base"], prefix="").items()}
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in vae.items()}, tmp_path / "vae.safetensors")
    (own,) = (folders["base"] / "vae").glob("*.safetensors")
    config = ["--config", folders["half"]]
    whole = draw(runtime_binary, family_files("half"), request, tmp_path, "whole", *config, "--component", f"vae={folders['base']}")
    assert numpy.array_equal(whole["step_latents"], half["step_latents"])
    assert not numpy.array_equal(whole["image"], half["image"])
    for number, path in enumerate([folders["base"] / "vae", tmp_path / "vae.safetensors", own, family_files("base")]):
        other = draw(runtime_binary, family_files("half"), request, tmp_path, f"other-{number}", *config, "--component", f"vae={path}")
        assert numpy.array_equal(other["image"], whole["image"]), path


def test_a_file_without_a_part_takes_it_from_the_folder_of_its_configuration(runtime_binary, folders, family_files, tmp_path):
    tensors = safetensors.torch.load_file(family_files("base"))
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("first_stage_model.")}
    safetensors.torch.save_file(without, tmp_path / "without.safetensors")
    request = Case("without", num_inference_steps=2).request()
    expected = draw(runtime_binary, folders["base"], request, tmp_path, "expected")
    ours = draw(runtime_binary, tmp_path / "without.safetensors", request, tmp_path, "ours", "--config", folders["base"])
    assert numpy.array_equal(ours["image"], expected["image"])
    with pytest.raises(TraceFailed, match="cond_stage_model"):
        # Of the full size that is built in, which this is not.
        draw(runtime_binary, tmp_path / "without.safetensors", request, tmp_path, "refused")


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("base", 1, "cond_stage_model.transformer.text_model.embeddings.position_ids"),
        # The last layer of the text encoder, of twelve tensors.
        ("sd21", 13, "cond_stage_model.model.logit_scale"),
        ("sdxl", 1, "conditioner.embedders.1.model.logit_scale"),
        ("sdxl-refiner", 1, "conditioner.embedders.0.model.logit_scale"),
    ],
    ids=["sd15", "sd21", "sdxl", "sdxl-refiner"],
)
def test_inspecting_tells_what_no_network_asks_for(name, count, first, runtime_binary, family_folders, family_files):
    command = [runtime_binary, "inspect", "--model", family_files(name), "--config", family_folders[name], "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert said["family"] == {"base": "sd15"}.get(name, name) and said["problems"] == []
    assert len(said["unused"]) == count and said["unused"][0] == first


@pytest.mark.parametrize("name", flow_pipelines.NAMES)
def test_a_transformer_alone_draws_what_its_folder_draws(name, runtime_binary, flow_folders, tmp_path):
    folder, file = flow_folders[name], tmp_path / "flow.safetensors"
    single_files.write_flow(folder, file, bundled=False)
    request = FlowCase("alike", num_inference_steps=2).request()
    draws = {"latents_init": numpy.random.default_rng(9).standard_normal((1, 16, 8, 16), dtype=numpy.float32)}
    expected = trace(runtime_binary, folder, request, draws, tmp_path, "folder")
    ours = trace(runtime_binary, file, request, draws, tmp_path, "file", ["--config", folder])
    assert numpy.array_equal(ours["step_latents"], expected["step_latents"])
    assert numpy.array_equal(ours["image"], expected["image"])


def test_a_file_that_reads_t5_asks_for_its_tokenizer(runtime_binary, flow_folders, tmp_path):
    single_files.write_flow(flow_folders["flux-dev"], tmp_path / "flow.safetensors")
    with pytest.raises(TraceFailed, match="T5, whose tokenizer is not built in.*--config"):
        draw(runtime_binary, tmp_path / "flow.safetensors", FlowCase("refused").request(), tmp_path, "refused")
