"""LoRA on the transformers of Stable Diffusion 3 and Flux draws what diffusers draws with peft, in diffusers' names and in the original code's."""

import dataclasses
import zlib

import pytest
import safetensors.torch
import torch

import comparison
import flow_reference
from flow_cases import FlowCase
from runtime_trace import TraceFailed, trace
from test_parity import file_name

RANK = 4
# What the original code has in one layer, by the ends of diffusers' names.
FUSED_IN_BLOCKS = {
    "flux": {
        "transformer_blocks": ("double_blocks", {"img_attn_qkv": ["attn.to_q", "attn.to_k", "attn.to_v"], "txt_attn_qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], "img_attn_proj": ["attn.to_out.0"], "txt_mlp_2": ["ff_context.net.2"]}),
        "single_transformer_blocks": ("single_blocks", {"linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], "linear2": ["proj_out"], "modulation_lin": ["norm.linear"]}),
    },
    "sd3": {
        "transformer_blocks": ("joint_blocks", {"x_block_attn_qkv": ["attn.to_q", "attn.to_k", "attn.to_v"], "context_block_attn_qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], "x_block_mlp_fc1": ["ff.net.0.proj"], "x_block_adaLN_modulation_1": ["norm1.linear"]}),
    },
}


@dataclasses.dataclass
class Files:
    """The same differences under both kinds of names."""

    diffusers: dict
    original: dict


def differences(pipeline, family, seed):
    """Layers that share a name in the original have one `down` in common."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(pipeline.transformer.named_parameters())

    def normal(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    files = Files({}, {})
    for blocks, (original, names) in FUSED_IN_BLOCKS[family].items():
        for block in range(len(getattr(pipeline.transformer, blocks))):
            for name, layers in names.items():
                paths = [f"{blocks}.{block}.{layer}" for layer in layers]
                if any(f"{path}.weight" not in weights for path in paths):
                    continue
                shapes = [weights[f"{path}.weight"].shape for path in paths]
                down, ups = normal(RANK, shapes[0][1]), [normal(outputs, RANK) for outputs, _ in shapes]
                for path, up in zip(paths, ups):
                    files.diffusers |= {f"transformer.{path}.lora_A.weight": down.clone(), f"transformer.{path}.lora_B.weight": up}
                kohya = f"lora_unet_{original}_{block}_{name}"
                files.original |= {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": torch.cat(ups), f"{kohya}.alpha": torch.tensor(float(RANK))}
    # Beside attention and feed-forward networks, in diffusers' names alone.
    for path in ["context_embedder", "time_text_embed.text_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2", "norm_out.linear"]:
        outputs, inputs = weights[f"{path}.weight"].shape
        files.diffusers |= {f"transformer.{path}.lora_A.weight": normal(RANK, inputs), f"transformer.{path}.lora_B.weight": normal(outputs, RANK)}
        files.original |= {
            f"lora_transformer_{path.replace('.', '_')}.lora_down.weight": files.diffusers[f"transformer.{path}.lora_A.weight"],
            f"lora_transformer_{path.replace('.', '_')}.lora_up.weight": files.diffusers[f"transformer.{path}.lora_B.weight"],
        }
    # The CLIP text encoders, in the original names as kohya's trainers write them.
    for part, prefix in [("text_encoder", "lora_te1"), ("text_encoder_2", "lora_te2")]:
        layers = {name: layer for name, layer in getattr(pipeline, part).named_modules() if name.endswith(("layers.1.self_attn.q_proj", "layers.0.mlp.fc1"))}
        for path, layer in layers.items():
            down, up = normal(RANK, layer.in_features), normal(layer.out_features, RANK)
            files.diffusers |= {f"{part}.{path}.lora_A.weight": down, f"{part}.{path}.lora_B.weight": up}
            kohya = f"{prefix}_{path.replace('.', '_')}"
            files.original |= {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up, f"{kohya}.alpha": torch.tensor(float(RANK))}
    return files


@pytest.mark.parametrize("names", ["diffusers", "original"])
@pytest.mark.parametrize(("pipeline", "scale"), [("sd3", 0.7), ("sd35-medium", 1.0), ("flux-dev", 0.6), ("flux-schnell", -0.5)])
def test_lora_draws_what_diffusers_draws(pipeline, scale, names, runtime_binary, flow_folders, flow_pipelines_of, agree, tmp_path):
    case = FlowCase(f"lora: {pipeline}, {names} names", pipeline=pipeline, guidance_scale=3.5, num_inference_steps=3)
    seed = zlib.crc32(pipeline.encode())
    loaded = flow_pipelines_of(pipeline)
    files = differences(loaded, "flux" if pipeline.startswith("flux") else "sd3", seed)
    plain, ours_file = tmp_path / "diffusers.safetensors", tmp_path / "adapter.safetensors"
    safetensors.torch.save_file(files.diffusers, plain)
    safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in getattr(files, names).items()}, ours_file)
    loaded.load_lora_weights(tmp_path, weight_name=plain.name, adapter_name="it")
    try:
        loaded.set_adapters(["it"], [scale])
        expected = flow_reference.run(loaded, case, seed)
    finally:
        loaded.unload_lora_weights()
    request = case.request() | {"adapters": [{"model": str(ours_file), "scale": scale}]}
    ours = trace(runtime_binary, flow_folders[pipeline], request, expected.draws, tmp_path, file_name(case))
    agree(case, flow_folders[pipeline], expected, ours)
    without = trace(runtime_binary, flow_folders[pipeline], case.request(), expected.draws, tmp_path, "without")
    assert comparison.measure(expected, without["step_latents"], without["image"]).complaints(), "the adapter changes nothing"


def test_lora_of_another_architecture_is_refused_by_name(runtime_binary, flow_folders, flow_pipelines_of, tmp_path):
    file = tmp_path / "flux.safetensors"
    safetensors.torch.save_file(differences(flow_pipelines_of("flux-dev"), "flux", 1).diffusers, file)
    request = FlowCase("refused").request() | {"adapters": [{"model": str(file), "scale": 1.0}]}
    with pytest.raises(TraceFailed, match="made for flux"):
        trace(runtime_binary, flow_folders["sd3"], request, {}, tmp_path, "refused")


@pytest.mark.parametrize("pipeline", ["sd3", "flux-dev"])
def test_layers_of_t5_are_refused_with_what_to_do(pipeline, runtime_binary, flow_folders, flow_pipelines_of, tmp_path):
    """As kohya's trainers call them."""
    file = tmp_path / "t5.safetensors"
    layer = {
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.zeros(RANK, 64),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": torch.zeros(32, RANK),
    }
    original = differences(flow_pipelines_of(pipeline), "flux" if pipeline.startswith("flux") else "sd3", 2).original
    for tensors in [layer, layer | original]:
        safetensors.torch.save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
        request = FlowCase("refused").request() | {"adapters": [{"model": str(file), "scale": 1.0}]}
        with pytest.raises(TraceFailed, match="lora_te3_encoder.*acts on T5.*without T5"):
            trace(runtime_binary, flow_folders[pipeline], request, {}, tmp_path, "refused")
