"""Single files as their authors' code names them, made from folders in diffusers' layout.

Written from the published checkpoints, in the other direction than the runtime reads them.

    python single_files.py FOLDER FILE     writes FILE from the pipeline in FOLDER
"""

import json
import pathlib
import re
import sys

import safetensors.torch
import torch


def load(folder: pathlib.Path):
    """All tensors of a component, whatever its file is called."""
    (file,) = folder.glob("*.safetensors")
    return safetensors.torch.load_file(file)


def config(folder: pathlib.Path, part: str):
    return json.loads((folder / part / "config.json").read_text())


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def unet_layers(settings):
    """The beginnings of diffusers' names, each with that of the original."""
    names = dict(UNET_ENDS)
    layers, levels = settings["layers_per_block"], len(settings["block_out_channels"])

    def resnet(diffusers, original):
        names.update({f"{diffusers}.{ours}": f"{original}.{theirs}" for ours, theirs in RESNET.items()})

    block = 1
    for level in range(levels):
        for layer in range(layers):
            resnet(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{block}.0")
            names[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{block}.1"
            block += 1
        if level < levels - 1:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
            block += 1
    resnet("mid_block.resnets.0", "middle_block.0")
    names["mid_block.attentions.0"] = "middle_block.1"
    resnet("mid_block.resnets.1", "middle_block.2")
    block = 0
    for level, kind in enumerate(settings["up_block_types"]):
        has_attention = kind.startswith("CrossAttn")
        for layer in range(layers + 1):
            resnet(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{block}.0")
            names[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{block}.1"
            block += 1
        if level < levels - 1:
            names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{block - 1}.{2 if has_attention else 1}.conv"
    return names


def renamed(name, names):
    """The name under the longest beginning that is known."""
    for beginning in sorted(names, key=len, reverse=True):
        if name == beginning or name.startswith(beginning + "."):
            return names[beginning] + name[len(beginning) :]
    raise KeyError(name)


def unet(folder: pathlib.Path):
    names = unet_layers(config(folder, "unet"))
    return {f"model.diffusion_model.{renamed(name, names)}": tensor for name, tensor in load(folder / "unet").items()}


def autoencoder(folder: pathlib.Path, prefix="first_stage_model."):
    levels = len(config(folder, "vae")["block_out_channels"])
    made = {}
    for name, tensor in load(folder / "vae").items():
        original = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        original = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", original)
        original = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", original)
        original = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", original)
        original = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", original)
        original = original.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in original:
            original = original.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            original = original.replace("to_out.0", "proj_out").replace("to_", "")
            # Attention is made of 1×1 convolutions.
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        made[prefix + original] = tensor
    return made


def clip(folder: pathlib.Path, part, prefix):
    return {prefix + name: tensor for name, tensor in load(folder / part).items()}


def open_clip(folder: pathlib.Path, part, prefix, is_whole=True):
    """Not whole: the part is without the last layer, which published files have and no network asks for."""
    tensors = load(folder / part)
    made = {prefix + "logit_scale": torch.tensor(4.6)}
    for name, tensor in tensors.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            # Three layers in one.
            tensor = torch.cat([tensors[name.replace("q_proj", other)] for other in ["q_proj", "k_proj", "v_proj"]])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
        name = name.replace("text_model.encoder.layers.", "transformer.resblocks.").replace("self_attn", "attn")
        name = name.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2").replace("fc1", "c_fc").replace("fc2", "c_proj")
        name = name.replace("text_model.embeddings.token_embedding", "token_embedding")
        name = name.replace("text_model.embeddings.position_embedding.weight", "positional_embedding")
        name = name.replace("text_model.final_layer_norm", "ln_final")
        if name == "text_projection.weight":
            name, tensor = "text_projection", tensor.T
        made[prefix + name] = tensor
    if not is_whole:
        layers = config(folder, part)["num_hidden_layers"]
        last = f"{prefix}transformer.resblocks.{layers - 1}."
        made |= {name.replace(last, f"{prefix}transformer.resblocks.{layers}."): 2 * made[name] for name in list(made) if name.startswith(last)}
    return made


MMDIT_ENDS = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
MMDIT_BLOCK = {
    "attn.to_q": "x_block.attn.qkv",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_q": "x_block.attn2.qkv",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "attn.add_q_proj": "context_block.attn.qkv",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
FLUX_ENDS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    **{
        f"time_text_embed.{ours}.linear_{number}": f"{theirs}.{layer}"
        for ours, theirs in [("timestep_embedder", "time_in"), ("text_embedder", "vector_in"), ("guidance_embedder", "guidance_in")]
        for number, layer in [(1, "in_layer"), (2, "out_layer")]
    },
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
FLUX_BLOCK = {
    "norm1.linear": "img_mod.lin",
    "attn.to_q": "img_attn.qkv",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "norm1_context.linear": "txt_mod.lin",
    "attn.add_q_proj": "txt_attn.qkv",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.to_q": "linear1",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}
# What is stored with the queries, in order.
WITH_QUERIES = {
    "to_q": ["to_q", "to_k", "to_v"],
    "add_q_proj": ["add_q_proj", "add_k_proj", "add_v_proj"],
}


def shift_first(tensor):
    """Scale and shift the other way around."""
    scale, shift = tensor.chunk(2)
    return torch.cat([shift, scale])


def transformer(folder: pathlib.Path, prefix, is_flux):
    tensors = load(folder / "transformer")
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    made = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        layer = name.split(".")[-2] if name.endswith((".weight", ".bias")) else ""
        if layer in {"to_k", "to_v", "add_k_proj", "add_v_proj", "proj_mlp"}:
            continue
        if layer in WITH_QUERIES:
            parts = [tensors[name.replace(layer, other)] for other in WITH_QUERIES[layer]]
            if kind == "single_transformer_blocks":
                parts.append(tensors[name.replace("attn.to_q", "proj_mlp")])
            tensor = torch.cat(parts)
        if name.startswith(("norm_out.", f"transformer_blocks.{last}.norm1_context.")) and not (is_flux and kind != "norm_out"):
            tensor = shift_first(tensor)
        if kind in {"transformer_blocks", "single_transformer_blocks"}:
            number, _, rest = rest.partition(".")
            names = MMDIT_BLOCK if not is_flux else FLUX_SINGLE if kind.startswith("single") else FLUX_BLOCK
            block = "joint_blocks" if not is_flux else "single_blocks" if kind.startswith("single") else "double_blocks"
            original = f"{block}.{number}.{renamed(rest, names)}"
        else:
            original = renamed(name, FLUX_ENDS if is_flux else MMDIT_ENDS)
        made[prefix + original] = tensor
    return made


def write_flow(folder: pathlib.Path, file: pathlib.Path, bundled=True):
    """Writes the single file of a Stable Diffusion 3 or Flux; not bundled: the transformer alone, without a prefix."""
    index = json.loads((folder / "model_index.json").read_text())
    is_flux = index["_class_name"] == "FluxPipeline"
    tensors = transformer(folder, "model.diffusion_model." if bundled else "", is_flux)
    if bundled:
        tensors |= autoencoder(folder, "vae." if is_flux else "first_stage_model.")
        names = ["clip_l", "t5xxl"] if is_flux else ["clip_l", "clip_g", "t5xxl"]
        for part, name in zip(["text_encoder", "text_encoder_2", "text_encoder_3"], names):
            if index[part][0] is not None:
                tensors |= clip(folder, part, f"text_encoders.{name}.transformer.")
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def write(folder: pathlib.Path, file: pathlib.Path):
    """Writes the single file of a folder's pipeline."""
    index = json.loads((folder / "model_index.json").read_text())
    has = {part for part, value in index.items() if isinstance(value, list) and value[0] is not None}
    tensors = unet(folder) | autoencoder(folder)
    if "text_encoder_2" not in has:
        # Stable Diffusion 2 has OpenCLIP's encoder, and heads of one size.
        is_second = isinstance(config(folder, "unet")["attention_head_dim"], list)
        if is_second and config(folder, "text_encoder")["hidden_act"] == "gelu":
            tensors |= open_clip(folder, "text_encoder", "cond_stage_model.model.", is_whole=False)
        else:
            tensors |= clip(folder, "text_encoder", "cond_stage_model.transformer.")
            # Published files have these, which no network asks for.
            tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    elif "text_encoder" in has:
        tensors |= clip(folder, "text_encoder", "conditioner.embedders.0.transformer.")
        tensors |= open_clip(folder, "text_encoder_2", "conditioner.embedders.1.model.")
    else:
        tensors |= open_clip(folder, "text_encoder_2", "conditioner.embedders.0.model.")
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
