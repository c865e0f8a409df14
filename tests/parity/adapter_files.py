"""Random adapters in every format and spelling for a pipeline, and the weights they make by the published formulas.

LoRA is compared with peft, which loads the very files. For what peft does not load (LyCORIS' formats and DoRA's spelling), `merge`
computes W + strength · ΔW, or DoRA's quotient, in f64, and the reference runs with those weights.
"""

import dataclasses
import math
import re

import safetensors.torch
import torch

# Layers by diffusers' names, all kinds: linear, 1×1 and 3×3 convolutions, stride 2, time embedding, feed-forward.
UNET_LAYERS = [
    "conv_in",
    "time_embedding.linear_1",
    "down_blocks.0.attentions.0.proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.resnets.0.time_emb_proj",
    "down_blocks.0.downsamplers.0.conv",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_v",
    "mid_block.resnets.1.conv2",
    "up_blocks.1.resnets.0.conv_shortcut",
    "up_blocks.1.upsamplers.0.conv",
    "up_blocks.3.attentions.1.transformer_blocks.0.ff.net.2",
    "conv_out",
]
ATTENTION = [name for name in UNET_LAYERS if re.search(r"attn\d\.to_[qkv]", name)]
TEXT_LAYERS = [
    "text_model.encoder.layers.0.self_attn.q_proj",
    "text_model.encoder.layers.1.self_attn.out_proj",
    "text_model.encoder.layers.2.mlp.fc1",
]
# SGM's names of the same layers in the tiny UNet, which has one resnet a level: written out, not computed.
SGM_NAMES = {
    "conv_in": "input_blocks_0_0",
    "time_embedding.linear_1": "time_embed_0",
    "down_blocks.0.attentions.0.proj_in": "input_blocks_1_1_proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": "input_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": "input_blocks_3_1_transformer_blocks_0_attn2_to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": "input_blocks_3_1_transformer_blocks_0_attn2_to_v",
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj": "input_blocks_3_1_transformer_blocks_0_ff_net_0_proj",
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.0.resnets.0.time_emb_proj": "input_blocks_1_0_emb_layers_1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_v": "middle_block_1_transformer_blocks_0_attn1_to_v",
    "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
    "up_blocks.1.resnets.0.conv_shortcut": "output_blocks_2_0_skip_connection",
    "up_blocks.1.upsamplers.0.conv": "output_blocks_3_2_conv",
    "up_blocks.3.attentions.1.transformer_blocks.0.ff.net.2": "output_blocks_7_1_transformer_blocks_0_ff_net_2",
    "conv_out": "out_2",
}


def kohya(layer):
    return ("lora_te_" if layer in TEXT_LAYERS else "lora_unet_") + layer.replace(".", "_")


def sgm(layer):
    return "lora_unet_" + SGM_NAMES[layer] if layer in SGM_NAMES else kohya(layer)


def dotted(layer):
    return ("text_encoder." if layer in TEXT_LAYERS else "unet.") + layer


def processor(layer):
    """diffusers' names from before it used peft, `.to_q_lora` in the attention's processor."""
    attention, projection = layer.rsplit(".", 1)
    return f"unet.{attention}.processor.{projection}"


@dataclasses.dataclass
class Module:
    """What acts on one layer: the tensors by the ends of their names, and ΔW in f64 without strength."""

    tensors: dict[str, torch.Tensor]
    difference: torch.Tensor
    bias: torch.Tensor | None = None
    lengths: torch.Tensor | None = None
    over_inputs: bool = False


class Random:
    """Numbers and ranks; one rank for all layers where one is given."""

    def __init__(self, seed, rank=None):
        self.generator = torch.Generator().manual_seed(seed)
        self.only_rank = rank

    def __call__(self, *shape, deviation=0.3):
        return deviation * torch.randn(*shape, generator=self.generator)

    def rank(self):
        return self.only_rank or int(torch.randint(1, 6, (), generator=self.generator))


def low_rank(weight, random, ends=(".lora_down.weight", ".lora_up.weight"), alpha=True, mid=False):
    outputs, inputs, *kernel = weight.shape
    rank = random.rank()
    ones = [1] * len(kernel)
    if mid and kernel == [3, 3]:
        down, core, up = random(rank, inputs, 1, 1), random(rank, rank, 3, 3), random(outputs, rank, 1, 1)
        difference = torch.einsum("nr,rskl,sc->nckl", up[:, :, 0, 0].double(), core.double(), down[:, :, 0, 0].double())
        tensors = {ends[0]: down, ends[1]: up, ".lora_mid.weight": core}
    else:
        down, up = random(rank, inputs, *kernel), random(outputs, rank, *ones)
        difference = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        tensors = {ends[0]: down, ends[1]: up}
    if alpha:
        tensors[".alpha"] = torch.tensor(1.0 + rank / 2)
        difference = difference * (1.0 + rank / 2) / rank
    return Module(tensors, difference)


def peft_low_rank(weight, random):
    return low_rank(weight, random, (".lora_A.weight", ".lora_B.weight"), alpha=False)


def old_low_rank(weight, random):
    return low_rank(weight, random, ("_lora.down.weight", "_lora.up.weight"), alpha=False)


def locon(weight, random):
    return low_rank(weight, random, mid=True)


def with_lengths(module, weight, name, over_inputs=False):
    """Adds DoRA's lengths, near those of the weight itself."""
    whole = weight.double().transpose(0, 1) if over_inputs else weight.double()
    norms = whole.flatten(1).norm(dim=1)
    lengths = (norms * torch.linspace(0.8, 1.3, len(norms))).float()
    shape = [1, -1] + [1] * (weight.ndim - 2) if over_inputs else [-1, 1] + [1] * (weight.ndim - 2)
    stored = lengths.reshape(shape) if name == ".dora_scale" else lengths
    return dataclasses.replace(module, tensors=module.tensors | {name: stored}, lengths=lengths.double(), over_inputs=over_inputs)


def dora(weight, random):
    return with_lengths(low_rank(weight, random), weight, ".dora_scale")


def dora_over_inputs(weight, random):
    return with_lengths(low_rank(weight, random), weight, ".dora_scale", over_inputs=True)


def loha(weight, random, tucker=True):
    outputs, inputs, *kernel = weight.shape
    rank, halves, tensors = random.rank(), [], {".alpha": torch.tensor(2.0)}
    for half in "12":
        if tucker and kernel == [3, 3]:
            a, b, core = random(rank, outputs), random(rank, inputs), random(rank, rank, 3, 3)
            halves.append(torch.einsum("ijkl,jr,ip->prkl", core.double(), b.double(), a.double()))
            tensors[f".hada_t{half}"] = core
        else:
            a, b = random(outputs, rank), random(rank, inputs * math.prod(kernel))
            halves.append((a.double() @ b.double()).reshape(weight.shape))
        tensors |= {f".hada_w{half}_a": a, f".hada_w{half}_b": b}
    return Module(tensors, halves[0] * halves[1] * 2.0 / rank)


def loha_dora(weight, random):
    return with_lengths(loha(weight, random, tucker=False), weight, ".dora_scale")


def lokr(weight, random):
    """Each of the four ways: w1 whole or in factors, w2 whole, in factors, or with a core."""
    outputs, inputs, *kernel = weight.shape
    first = [2, 2] if outputs % 2 == 0 and inputs % 2 == 0 else [1, 1]
    second = [outputs // first[0], inputs // first[1]]
    way, rank, tensors, divisor = random.rank() % 3, random.rank(), {}, None
    if way == 0:
        left = random(*first)
        tensors[".lokr_w1"] = left
    else:
        a, b = random(first[0], rank), random(rank, first[1])
        left, divisor = a.double() @ b.double(), rank
        tensors |= {".lokr_w1_a": a, ".lokr_w1_b": b}
    if way == 1:
        right = random(*second, *kernel)
        tensors[".lokr_w2"] = right
    elif kernel == [3, 3]:
        a, b, core = random(rank, second[0]), random(rank, second[1]), random(rank, rank, 3, 3)
        right, divisor = torch.einsum("ijkl,jr,ip->prkl", core.double(), b.double(), a.double()), rank
        tensors |= {".lokr_w2_a": a, ".lokr_w2_b": b, ".lokr_t2": core}
    else:
        a, b = random(second[0], rank), random(rank, second[1] * math.prod(kernel))
        right, divisor = (a.double() @ b.double()).reshape(*second, *kernel), rank
        tensors |= {".lokr_w2_a": a, ".lokr_w2_b": b}
    tensors[".alpha"] = torch.tensor(1.5)
    left, right = left.double().contiguous(), right.double().contiguous()
    whole = torch.kron(left.reshape(*first, *[1] * len(kernel)), right)
    return Module(tensors, whole * (1.5 / divisor if divisor else 1.0))


def full(weight, random):
    difference, bias = random(*weight.shape, deviation=0.05), random(weight.shape[0], deviation=0.1)
    return Module({".diff": difference, ".diff_b": bias}, difference.double(), bias.double())


def make(pipeline, form, names, layers, path, seed, dtype=torch.float32, rank=None, metadata=None):
    """Writes an adapter for `layers` and returns its modules by layer."""
    random, modules, stored = Random(seed, rank), {}, {}
    for layer in layers:
        part = pipeline.text_encoder if layer in TEXT_LAYERS else pipeline.unet
        target = part.get_submodule(layer)
        module = form(target.weight.detach(), random)
        if target.bias is None and module.bias is not None:
            module = dataclasses.replace(module, bias=None, tensors={k: v for k, v in module.tensors.items() if k != ".diff_b"})
        modules[layer] = module
        stored |= {names(layer) + end: tensor.to(dtype).contiguous() for end, tensor in module.tensors.items()}
    safetensors.torch.save_file(stored, path, metadata)
    return modules


def merge(pipeline, adapters):
    """Puts W + Σ (W'ᵢ − W) into the pipeline, for pairs of modules and strength; returns what undoes it."""
    before = {}
    for modules, _ in adapters:
        for layer in modules:
            part = pipeline.text_encoder if layer in TEXT_LAYERS else pipeline.unet
            before.setdefault(layer, (part.get_submodule(layer), {}))
    with torch.no_grad():
        for layer, (target, kept) in before.items():
            kept.update({name: value.clone() for name, value in target.named_parameters()})
            own = target.weight.double()
            weight, bias = own.clone(), None if target.bias is None else target.bias.double()
            for modules, strength in adapters:
                if layer in modules:
                    module = modules[layer]
                    changed = own + strength * module.difference
                    if module.lengths is not None:
                        axis = 1 if module.over_inputs else 0
                        others = [dimension for dimension in range(own.ndim) if dimension != axis]
                        shape = [-1 if dimension == axis else 1 for dimension in range(own.ndim)]
                        norms = changed.pow(2).sum(dim=others).sqrt()
                        changed = changed * (module.lengths / norms).reshape(shape)
                    weight += changed - own
                    if module.bias is not None:
                        bias = bias + strength * module.bias
            target.weight.copy_(weight.float())
            if bias is not None:
                target.bias.copy_(bias.float())

    def undo():
        with torch.no_grad():
            for target, kept in before.values():
                for name, value in kept.items():
                    target.get_parameter(name).copy_(value)

    return undo
