"""The published full-size configurations, and the names and shapes that diffusers' own networks have at them: on the meta device, without a byte
of weights. Written from the published models, not from the runtime's built-in configurations."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

CLIP_L = dict(
    vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
)
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
CROSS_DOWN, DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, UP = "CrossAttnUpBlock2D", "UpBlock2D"
UNET_1 = dict(
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=(CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
    up_block_types=(UP, CROSS_UP, CROSS_UP, CROSS_UP),
    layers_per_block=2,
    cross_attention_dim=768,
    attention_head_dim=8,
)

# Part by part: the reference's class and its configuration.
FAMILIES = {
    "sd15": {
        "text_encoder": (CLIPTextModel, CLIP_L),
        "unet": (UNet2DConditionModel, UNET_1),
        "vae": (AutoencoderKL, VAE),
    },
}


def network(family, part):
    kind, settings = FAMILIES[family][part]
    with torch.device("meta"):
        return kind(CLIPTextConfig(**settings)) if kind.__module__.startswith("transformers") else kind(**settings)


def shapes(network):
    """Names and shapes of its parameters; buffers such as position ids are no parameters."""
    return {name: list(parameter.shape) for name, parameter in network.named_parameters()}
