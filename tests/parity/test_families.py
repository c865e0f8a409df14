"""Every family, step by step as diffusers makes it: text to image, tasks that begin with pictures, and one model going on where another left off."""

import dataclasses
import zlib

import numpy
import pytest
import safetensors.torch

import adapter_files
import comparison
import family_reference
import task_reference
from family_cases import FAMILY_CASES, HAND_OVERS, TEXT_TO_IMAGE, refiner, sd21, sdxl
from runtime_trace import TraceFailed, trace


def expected_of(case, pipeline):
    """What diffusers makes of it, and the pictures that are sent."""
    seed = zlib.crc32(case.name.encode())
    if case.task == TEXT_TO_IMAGE:
        return family_reference.run(pipeline, case, seed), {}
    sent = task_reference.pictures(case, seed)
    if case.pipeline == "sd21":
        return task_reference.run(pipeline, case, sent, seed), sent.tensors()
    return family_reference.run(pipeline, case, seed, sent), sent.tensors()


@pytest.mark.parametrize("case", FAMILY_CASES, ids=lambda case: case.name)
def test_the_runtime_agrees_with_diffusers(case, runtime_binary, family_folders, family_pipeline, agree, tmp_path):
    expected, tensors = expected_of(case, family_pipeline(case.pipeline))
    ours = trace(runtime_binary, family_folders[case.pipeline], case.request(), expected.draws | tensors, tmp_path, "family")
    agree(case, family_folders[case.pipeline], expected, ours)


@pytest.mark.parametrize("pair", HAND_OVERS, ids=lambda pair: pair[1].name)
def test_one_model_goes_on_where_another_left_off(pair, runtime_binary, family_folders, family_pipeline, agree, tmp_path):
    base, rest = pair
    left = family_reference.run(family_pipeline(base.pipeline), base, 41)
    ours = trace(runtime_binary, family_folders[base.pipeline], base.request(), left.draws, tmp_path, "base")
    agree(base, family_folders[base.pipeline], left, ours)
    expected = family_reference.run(family_pipeline(rest.pipeline), rest, 42, latents=left.step_latents[-1])
    # Our own latents, so that the whole way is compared.
    tensors = expected.draws | {"image_latents": ours["step_latents"][-1]}
    ours = trace(runtime_binary, family_folders[rest.pipeline], rest.request(), tensors, tmp_path, "rest")
    agree(rest, family_folders[rest.pipeline], expected, ours)


# Of each kind of layer one, in all three networks; part and name. diffusers tells the spelling of a text encoder's names by `out_proj`.
LORA_LAYERS = [
    ("unet", "down_blocks.1.attentions.0.proj_in"),
    ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
    ("unet", "down_blocks.2.attentions.1.transformer_blocks.2.attn2.to_k"),
    ("unet", "mid_block.attentions.0.transformer_blocks.1.attn1.to_out.0"),
    ("unet", "up_blocks.0.attentions.2.transformer_blocks.0.ff.net.0.proj"),
    ("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj"),
    ("text_encoder", "text_model.encoder.layers.0.self_attn.out_proj"),
    ("text_encoder", "text_model.encoder.layers.1.mlp.fc1"),
    ("text_encoder_2", "text_model.encoder.layers.1.self_attn.out_proj"),
    ("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1"),
    # Behind the states that are read: only the pooled text knows of it.
    ("text_encoder_2", "text_model.encoder.layers.3.mlp.fc2"),
]
KOHYA_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
LORA_FORMATS = {
    "kohya": (adapter_files.low_rank, lambda part, layer: KOHYA_PREFIXES[part] + layer.replace(".", "_")),
    "diffusers": (adapter_files.peft_low_rank, lambda part, layer: f"{part}.{layer}"),
}


@pytest.mark.parametrize("form", LORA_FORMATS)
def test_lora_on_both_text_encoders_draws_what_peft_draws(form, runtime_binary, family_folders, family_pipeline, agree, tmp_path):
    pipeline = family_pipeline("sdxl")
    make, name = LORA_FORMATS[form]
    random, stored = adapter_files.Random(51, rank=4), {}
    for part, layer in LORA_LAYERS:
        module = make(getattr(pipeline, part).get_submodule(layer).weight.detach(), random)
        stored |= {name(part, layer) + end: tensor.contiguous() for end, tensor in module.tensors.items()}
    path = tmp_path / "adapter.safetensors"
    safetensors.torch.save_file(stored, path)
    case = sdxl(f"lora, {form}", negative_prompt="blurry")
    plain = family_reference.run(pipeline, case, 52)
    try:
        pipeline.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="one")
        pipeline.set_adapters(["one"], [0.7])
        expected = family_reference.run(pipeline, case, 52)
    finally:
        pipeline.unload_lora_weights()
    assert not numpy.allclose(plain.step_latents, expected.step_latents, atol=1e-2), "the adapter changes nothing"
    request = case.request() | {"adapters": [{"model": str(path), "scale": 0.7}]}
    ours = trace(runtime_binary, family_folders["sdxl"], request, expected.draws, tmp_path, "lora")
    agree(case, family_folders["sdxl"], expected, ours)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (sdxl("asked"), {"prompt_2": "a castle"}),
        (sdxl("asked"), {"original_size": (64, 129)}),
        (sdxl("asked"), {"target_size": (65, 128)}),
        (sdxl("asked"), {"crops_coords_top_left": (0, 1)}),
        (sdxl("asked"), {"negative_prompt": ""}),
        (sdxl("asked", pipeline="sdxl-lcm"), {"guidance_scale": 5.2}),
        (refiner("asked"), {"aesthetic_score": 6.2}),
        (refiner("asked"), {"negative_aesthetic_score": 2.6}),
        (sd21("asked"), {"clip_skip": 1}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value.pipeline,
)
def test_a_slightly_different_request_does_not_agree(case, change, runtime_binary, family_folders, family_pipeline, tmp_path):
    expected, tensors = expected_of(case, family_pipeline(case.pipeline))
    other = dataclasses.replace(case, **change).request()
    ours = trace(runtime_binary, family_folders[case.pipeline], other, expected.draws | tensors, tmp_path, "other")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


@pytest.mark.parametrize(
    ("case", "change", "words"),
    [
        (sd21("refused"), {"prompt_2": "a"}, "does not use prompt_2"),
        (sd21("refused"), {"denoising_end": 0.5}, "does not use denoising_end"),
        (sdxl("refused"), {"aesthetic_score": 7}, "does not use aesthetic_score"),
        (sdxl("refused"), {"denoising_start": 0.5}, "goes on from a picture"),
        (sdxl("refused"), {"denoising_end": 1.0}, "above 0 and below 1"),
        (sdxl("refused"), {"clip_skip": 3}, "clip_skip is 3"),
        (sdxl("refused", pipeline="sdxl-refiner"), {}, "needs an image"),
        (refiner("refused"), {"target_size": (8, 8)}, "does not use target_size"),
        (refiner("refused"), {"denoising_start": 0.9, "denoising_end": 0.8}, "no step lies between"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_is_refused_with_words(case, change, words, runtime_binary, family_folders, tmp_path):
    tensors = {} if case.task == TEXT_TO_IMAGE else task_reference.pictures(case, 1).tensors()
    with pytest.raises(TraceFailed, match=words):
        trace(runtime_binary, family_folders[case.pipeline], case.request() | change, tensors, tmp_path, "refused")
