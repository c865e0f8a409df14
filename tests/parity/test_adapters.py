"""Adapters asked for by a request draw what diffusers draws: with peft for LoRA, with weights merged by formula for the rest."""

import json
import zlib

import numpy
import pytest
import torch
from peft import LoraConfig

import adapter_files
import comparison
import reference
from adapter_files import TEXT_LAYERS, UNET_LAYERS
from cases import Case
from runtime_trace import TraceFailed, trace

EVERYWHERE = UNET_LAYERS + TEXT_LAYERS
# Of kohya's names diffusers maps those of transformers; others it would leave out in silence.
TRANSFORMERS = [name for name in UNET_LAYERS if "attentions" in name] + TEXT_LAYERS

# name: (the form, the spelling of names, the layers)
PEFT_FORMATS = {
    "kohya": (adapter_files.low_rank, adapter_files.kohya, TRANSFORMERS),
    "kohya, half precision": (adapter_files.low_rank, adapter_files.kohya, TRANSFORMERS),
    "diffusers with peft": (adapter_files.peft_low_rank, adapter_files.dotted, EVERYWHERE),
    "diffusers before peft": (adapter_files.old_low_rank, adapter_files.processor, adapter_files.ATTENTION),
    "text encoder alone": (adapter_files.low_rank, adapter_files.kohya, TEXT_LAYERS),
}
MERGED_FORMATS = PEFT_FORMATS | {
    "kohya, with convolutions": (adapter_files.low_rank, adapter_files.kohya, EVERYWHERE),
    # diffusers maps these names by the number of layers that the large models have.
    "sgm": (adapter_files.low_rank, adapter_files.sgm, EVERYWHERE),
    "locon with mid": (adapter_files.locon, adapter_files.kohya, EVERYWHERE),
    "loha": (adapter_files.loha, adapter_files.kohya, EVERYWHERE),
    "lokr": (adapter_files.lokr, adapter_files.kohya, EVERYWHERE),
    "lokr, sgm": (adapter_files.lokr, adapter_files.sgm, EVERYWHERE),
    "dora": (adapter_files.dora, adapter_files.kohya, EVERYWHERE),
    "dora over inputs": (adapter_files.dora_over_inputs, adapter_files.kohya, EVERYWHERE),
    "loha with dora": (adapter_files.loha_dora, adapter_files.kohya, EVERYWHERE),
    "full": (adapter_files.full, adapter_files.kohya, EVERYWHERE),
}
STRENGTHS = [0.4, 1.0, -0.7]
# diffusers derives one alpha for layers of different ranks where the file has none; a file of one rank leaves it nothing to guess.
PEFT_RANK = 4


def adapted(name, strengths, paths, **changes):
    """A case and its request with adapters."""
    case = Case(name, num_inference_steps=4, negative_prompt="blurry", **changes)
    uses = [{"model": str(path), "scale": strength} for path, strength in zip(paths, strengths)]
    return case, case.request() | {"adapters": uses}


def make(pipeline, formats, name, path, rank=None):
    form, names, layers = formats[name]
    dtype = torch.float16 if "half" in name else torch.float32
    return adapter_files.make(pipeline, form, names, layers, path, zlib.crc32(name.encode()), dtype, rank)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("form", [name for name in MERGED_FORMATS if "half" not in name])
def test_adapters_draw_what_merged_weights_draw(form, strength, runtime_binary, folders, pipelines, agree, tmp_path):
    pipeline = pipelines("base")
    modules = make(pipeline, MERGED_FORMATS, form, tmp_path / "adapter.safetensors")
    case, request = adapted(f"{form}, {strength}", [strength], [tmp_path / "adapter.safetensors"])
    undo = adapter_files.merge(pipeline, [(modules, strength)])
    try:
        expected = reference.run(pipeline, case, seed=17)
    finally:
        undo()
    plain = reference.run(pipeline, case, seed=17)
    assert not numpy.allclose(plain.step_latents, expected.step_latents, atol=1e-2), "the adapter changes nothing"
    ours = trace(runtime_binary, folders["base"], request, expected.draws, tmp_path, "adapted")
    agree(case, folders["base"], expected, ours)


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("form", PEFT_FORMATS)
def test_lora_draws_what_peft_draws(form, strength, runtime_binary, folders, pipelines, agree, tmp_path):
    pipeline = pipelines("base")
    make(pipeline, PEFT_FORMATS, form, tmp_path / "adapter.safetensors", PEFT_RANK)
    case, request = adapted(f"{form}, {strength}", [strength], [tmp_path / "adapter.safetensors"])
    try:
        pipeline.load_lora_weights(tmp_path, weight_name="adapter.safetensors", adapter_name="one")
        pipeline.set_adapters(["one"], [strength])
        expected = reference.run(pipeline, case, seed=18)
    finally:
        pipeline.unload_lora_weights()
    ours = trace(runtime_binary, folders["base"], request, expected.draws, tmp_path, "adapted")
    agree(case, folders["base"], expected, ours)


def test_alpha_in_a_diffusers_files_metadata_counts(runtime_binary, folders, pipelines, agree, tmp_path):
    pipeline = pipelines("base")
    form, names, layers = PEFT_FORMATS["diffusers with peft"]
    settings = {}
    for part, of_part in [("unet", UNET_LAYERS), ("text_encoder", TEXT_LAYERS)]:
        config = LoraConfig(r=PEFT_RANK, lora_alpha=3 * PEFT_RANK, target_modules=of_part).to_dict()
        settings |= {f"{part}.{key}": value for key, value in config.items()}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings, default=list)}
    adapter_files.make(pipeline, form, names, layers, tmp_path / "adapter.safetensors", 22, rank=PEFT_RANK, metadata=metadata)
    case, request = adapted("alpha in metadata", [0.2], [tmp_path / "adapter.safetensors"])
    try:
        pipeline.load_lora_weights(tmp_path, weight_name="adapter.safetensors", adapter_name="one")
        pipeline.set_adapters(["one"], [0.2])
        expected = reference.run(pipeline, case, seed=22)
    finally:
        pipeline.unload_lora_weights()
    ours = trace(runtime_binary, folders["base"], request, expected.draws, tmp_path, "adapted")
    agree(case, folders["base"], expected, ours)


def test_two_loras_at_once_draw_what_peft_draws(runtime_binary, folders, pipelines, agree, tmp_path):
    pipeline = pipelines("base")
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    make(pipeline, PEFT_FORMATS, "kohya", paths[0], PEFT_RANK)
    make(pipeline, PEFT_FORMATS, "diffusers with peft", paths[1], PEFT_RANK)
    case, request = adapted("two loras", [0.6, -0.3], paths, clip_skip=1, samples=2)
    try:
        for path in paths:
            pipeline.load_lora_weights(tmp_path, weight_name=path.name, adapter_name=path.stem)
        pipeline.set_adapters(["first", "second"], [0.6, -0.3])
        expected = reference.run(pipeline, case, seed=19)
    finally:
        pipeline.unload_lora_weights()
    ours = trace(runtime_binary, folders["base"], request, expected.draws, tmp_path, "adapted")
    agree(case, folders["base"], expected, ours)


def test_adapters_of_several_formats_at_once(runtime_binary, folders, pipelines, agree, tmp_path):
    pipeline = pipelines("base")
    wanted = {"lokr": 0.5, "dora": 1.0, "loha": -0.4, "kohya": 0.3}
    paths = [tmp_path / f"{name}.safetensors" for name in wanted]
    made = [make(pipeline, MERGED_FORMATS, name, path) for name, path in zip(wanted, paths)]
    case, request = adapted("several formats", wanted.values(), paths)
    undo = adapter_files.merge(pipeline, list(zip(made, wanted.values())))
    try:
        expected = reference.run(pipeline, case, seed=20)
    finally:
        undo()
    ours = trace(runtime_binary, folders["base"], request, expected.draws, tmp_path, "adapted")
    agree(case, folders["base"], expected, ours)


def test_a_slightly_different_strength_does_not_agree(runtime_binary, folders, pipelines, tmp_path):
    pipeline = pipelines("base")
    modules = make(pipeline, MERGED_FORMATS, "kohya", tmp_path / "adapter.safetensors")
    case, request = adapted("other strength", [0.41], [tmp_path / "adapter.safetensors"])
    undo = adapter_files.merge(pipeline, [(modules, 0.4)])
    try:
        expected = reference.run(pipeline, case, seed=21)
    finally:
        undo()
    ours = trace(runtime_binary, folders["base"], request, expected.draws, tmp_path, "adapted")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


def test_an_adapter_of_another_network_is_refused_by_name(runtime_binary, folders, pipelines, tmp_path):
    make(pipelines("base"), MERGED_FORMATS, "sgm", tmp_path / "adapter.safetensors")
    _, request = adapted("refused", [1.0], [tmp_path / "adapter.safetensors"])
    with pytest.raises(TraceFailed, match="lora_unet_"):
        trace(runtime_binary, folders["deep"], request, {}, tmp_path, "refused")
