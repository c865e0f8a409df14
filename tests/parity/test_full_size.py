"""Real checkpoints would load: what the runtime asks for at each family's published size is what diffusers has there, by its own names, and by
those of the published single files as diffusers converts them."""

import json
import pathlib
import subprocess

import pytest
import torch
from diffusers.loaders import single_file_utils
from transformers import T5EncoderModel

import full_size

# Where these single files have an encoder of OpenCLIP.
OPEN_CLIP = {
    ("sd21", "text_encoder"): "cond_stage_model.model.",
    ("sdxl", "text_encoder_2"): "conditioner.embedders.1.model.",
    ("sdxl-refiner", "text_encoder_2"): "conditioner.embedders.0.model.",
}
PARTS = [(family, part) for family, parts in full_size.FAMILIES.items() for part in parts]


@pytest.fixture(scope="session")
def printed(runtime_binary):
    """What the runtime prints of a family."""
    asked = {}

    def get(family, layout):
        if (family, layout) not in asked:
            command = [runtime_binary, "inspect", "--expect", family, "--layout", layout, "--json"]
            asked[family, layout] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            assert asked[family, layout]["family"] == family
        return asked[family, layout]

    return get


@pytest.fixture(scope="session")
def expect(printed):
    """Names and shapes by part."""

    def get(family, layout):
        parts = printed(family, layout)["parts"]
        return {part["name"]: {tensor["name"]: tensor["shape"] for tensor in part["tensors"]} for part in parts}

    return get


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_names_and_shapes_are_those_of_diffusers(family, part, expect):
    assert expect(family, "diffusers")[part] == full_size.shapes(full_size.network(family, part))


@pytest.mark.parametrize("family", full_size.FAMILIES)
def test_no_other_parts_are_asked_for(family, expect):
    assert list(expect(family, "diffusers")) == list(full_size.FAMILIES[family])


def converted(family, part, checkpoint, network):
    """The part of a single file as diffusers converts it."""
    is_flow = family.startswith(("sd3", "flux"))
    if part == "unet":
        return single_file_utils.convert_ldm_unet_checkpoint(checkpoint, dict(network.config))
    if part == "vae":
        return single_file_utils.convert_ldm_vae_checkpoint(checkpoint, dict(network.config))
    if part == "transformer" and family.startswith("flux"):
        return single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(checkpoint)
    if part == "transformer":
        return single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    if (family, part) in OPEN_CLIP:
        return single_file_utils.convert_open_clip_checkpoint(network, checkpoint, OPEN_CLIP[family, part])
    if is_flow and isinstance(network, T5EncoderModel):
        return single_file_utils.convert_sd3_t5_checkpoint_to_diffusers(checkpoint)
    if is_flow:
        encoder = "clip_l" if part == "text_encoder" else "clip_g"
        return single_file_utils.convert_ldm_clip_checkpoint(checkpoint, f"text_encoders.{encoder}.transformer.")
    return single_file_utils.convert_ldm_clip_checkpoint(checkpoint)


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_original_names_and_shapes_convert_to_those_of_diffusers(family, part, expect):
    network = full_size.network(family, part)
    checkpoint = {name: torch.empty(shape, device="meta") for name, shape in expect(family, "original")[part].items()}
    made = converted(family, part, checkpoint, network)
    assert {name: list(tensor.shape) for name, tensor in made.items()} == full_size.shapes(network)


def size(number):
    """Billions to three digits."""
    return f"{number / 1e9:.2f}" if number < 9.995e9 else f"{number / 1e9:.1f}"


def table(section):
    """The rows of a table on the page of families, by family."""
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    lines = page.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    rows = {cells[1].strip("` "): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in lines if line.startswith("| `"))}
    assert list(rows) == list(full_size.FAMILIES)
    return rows


def test_the_table_of_sizes_says_what_is_printed(printed):
    for family, row in table("Size at full size").items():
        said = printed(family, "diffusers")
        parts = {part["name"]: part["parameters"] for part in said["parts"]}
        encoders = " + ".join(size(count) for name, count in parts.items() if name.startswith("text_encoder"))
        denoiser = size(parts.get("unet") or parts["transformer"])
        files = [size(said["parameters"] * bytes) for bytes in [1, 2, 4]]
        memory = [size(said["memory_bytes"][precision]) for precision in ["f16", "bf16", "f32"]]
        assert row == [size(said["parameters"]), encoders, denoiser, size(parts["vae"]), *files, *memory], family


def test_the_table_of_what_images_take_says_what_is_printed(printed):
    for family, row in table("What images take beside the weights").items():
        said = printed(family, "diffusers")["call_bytes"]
        assert [(case["side"], case["images"]) for case in said] == [(side, images) for side in [512, 1024, 2048] for images in [1, 4]]
        assert row == [f"{size(case['gpu'])} / {size(case['processor'])}" for case in said], family
