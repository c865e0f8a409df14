"""What tiny pipelines are made of: networks of the real structure in small widths, with random weights.

Nothing is left at an initial value that would hide a mistake: norms get random scales and shifts, and a denoiser's output is scaled to the size of
real noise, so that the latents depend on it. Each is the same for the same seed.
"""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig

TEXT_WIDTH = 32
POOLED = 24
ID = 8  # features of each size or score

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32, 32, 24),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 16, 16, 24),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}


def randomise(module, seed, gain):
    """Random affine parameters for every norm, and `gain` on every other weight; biases away from zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, deviation):
        return deviation * torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for part in module.modules():
            weight, bias = getattr(part, "weight", None), getattr(part, "bias", None)
            if "Norm" in type(part).__name__ and isinstance(weight, torch.nn.Parameter):
                weight.copy_(1 + normal(weight, 0.3))
                if bias is not None:
                    bias.copy_(normal(bias, 0.2))
            elif isinstance(part, (torch.nn.Linear, torch.nn.Conv2d)):
                weight.mul_(gain)
                if bias is not None:
                    bias.copy_(normal(bias, 0.1))
    return module


def ends(vocabulary_size):
    """Begin, end and padding where they are in a vocabulary; the published configurations of some encoders say otherwise."""
    return {"bos_token_id": vocabulary_size - 2, "eos_token_id": vocabulary_size - 1, "pad_token_id": vocabulary_size - 1}


def clip(kind, vocabulary_size, width, seed, layers, **changes):
    """A text encoder; unless `changes` say so, the end of a text is marked as in the published configurations, by an id that is not its own."""
    torch.manual_seed(seed)
    config = {
        "vocab_size": vocabulary_size,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "projection_dim": POOLED,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    encoder = randomise(kind(CLIPTextConfig(**config | changes)), seed, gain=4.0)
    with torch.no_grad():
        # The initial embeddings are so small that all words would be alike.
        encoder.text_model.embeddings.token_embedding.weight.normal_(std=0.7)
        encoder.text_model.embeddings.position_embedding.weight.normal_(std=0.3)
    return encoder


def denoiser(seed, **changes):
    torch.manual_seed(seed)
    unet = randomise(UNet2DConditionModel(**UNET | changes), seed, gain=1.2)
    config, more = unet.config, {}
    if config.addition_embed_type:
        numbers = (config.projection_class_embeddings_input_dim - POOLED) // ID
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(1, POOLED), "time_ids": torch.full((1, numbers), 64.0)}
    if config.time_cond_proj_dim:
        more["timestep_cond"] = torch.randn(1, config.time_cond_proj_dim)
    with torch.no_grad():
        latents, text = torch.randn(1, config.in_channels, 8, 16), torch.randn(1, 77, config.cross_attention_dim)
        unet.conv_out.weight.mul_(1 / unet(latents, 500, text, **more).sample.std())
    return unet


def autoencoder(seed, **changes):
    torch.manual_seed(seed)
    vae = randomise(AutoencoderKL(**VAE | changes), seed, gain=1.2)
    with torch.no_grad():
        # Pixels that use most of their range without being clipped away.
        probe = vae.decode(torch.randn(1, vae.config.latent_channels, 8, 16)).sample
        vae.decoder.conv_out.weight.mul_(0.5 / probe.std())
        vae.decoder.conv_out.bias.zero_()
    return vae
