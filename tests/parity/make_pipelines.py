"""Tiny Stable Diffusion 1.5 pipelines with random weights, made and saved by diffusers itself.

Every kind of layer the real one has is there (three blocks with cross attention, one without, a VAE of four
levels, a CLIP text encoder); only widths and depths are small. Nothing is left at an initial value that would
hide a mistake: norms get random scales and shifts, and the denoiser's output is scaled to the size of real noise,
so that the latents depend on it.

    python make_pipelines.py FOLDER     writes one folder a pipeline
"""

import json
import pathlib
import sys

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import tiny_tokenizer

TEXT_WIDTH = 32

# Stable Diffusion 1.5's own schedule.
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DDIM = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)

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

# What diffusers writes when a config went through other schedulers: keys of theirs, and JSON that is not JSON.
FOREIGN_SCHEDULER_CONFIG = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.36.0",
    **SCHEDULE,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "trained_betas": None,
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "lambda_min_clipped": float("-inf"),
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_p": None,
    "skip_prk_steps": True,
    "predict_x0": True,
    "unheard_of": float("nan"),
    "variance_type": None,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def randomise(module, seed, gain):
    """Random affine parameters for every norm, and `gain` on every other weight; biases away from zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
                part.weight.copy_(1 + 0.3 * torch.randn(part.weight.shape, generator=generator))
                part.bias.copy_(0.2 * torch.randn(part.bias.shape, generator=generator))
            elif isinstance(part, (torch.nn.Linear, torch.nn.Conv2d)):
                part.weight.mul_(gain)
                if part.bias is not None:
                    part.bias.copy_(0.1 * torch.randn(part.bias.shape, generator=generator))


def text_encoder(vocabulary_size, seed):
    torch.manual_seed(seed)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            projection_dim=TEXT_WIDTH,
            bos_token_id=vocabulary_size - 2,
            eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )
    randomise(encoder, seed, gain=4.0)
    with torch.no_grad():
        # The initial embeddings are so small that all words would be alike.
        encoder.text_model.embeddings.token_embedding.weight.normal_(std=0.7)
        encoder.text_model.embeddings.position_embedding.weight.normal_(std=0.3)
    return encoder


def denoiser(seed, **changes):
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**{**UNET, **changes})
    randomise(unet, seed, gain=1.2)
    with torch.no_grad():
        probe = unet(torch.randn(1, unet.config.in_channels, 8, 16), 500, torch.randn(1, 77, TEXT_WIDTH)).sample
        unet.conv_out.weight.mul_(1 / probe.std())
    return unet


def autoencoder(seed, **changes):
    torch.manual_seed(seed)
    vae = AutoencoderKL(**{**VAE, **changes})
    randomise(vae, seed, gain=1.2)
    with torch.no_grad():
        # Pixels that use most of their range without being clipped away.
        probe = vae.decode(torch.randn(1, 4, 8, 16)).sample
        vae.decoder.conv_out.weight.mul_(0.5 / probe.std())
        vae.decoder.conv_out.bias.zero_()
    return vae


def pipeline(tokenizer, encoder, unet, vae, scheduler=DDIM, kind=StableDiffusionPipeline):
    return kind(
        tokenizer=tokenizer,
        text_encoder=encoder,
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make(folder: pathlib.Path):
    """Writes every pipeline the cases use below `folder`; the same bytes each time."""
    vocabulary_size = tiny_tokenizer.write(folder / "tokenizer")
    tokenizer = CLIPTokenizer(
        str(folder / "tokenizer" / "vocab.json"), str(folder / "tokenizer" / "merges.txt"), model_max_length=77
    )
    encoder, unet, vae = text_encoder(vocabulary_size, seed=1), denoiser(seed=2), autoencoder(seed=3)

    pipeline(tokenizer, encoder, unet, vae).save_pretrained(folder / "base")

    # Two layers a block, projections as linear layers, another number of heads at each level.
    deep_unet = denoiser(
        seed=4, layers_per_block=2, use_linear_projection=True, attention_head_dim=(2, 4, 8, 4), norm_num_groups=4
    )
    deep_vae = autoencoder(seed=5, layers_per_block=2, norm_num_groups=4)
    velocity = EulerDiscreteScheduler(**SCHEDULE, prediction_type="v_prediction", timestep_spacing="trailing")
    pipeline(tokenizer, encoder, deep_unet, deep_vae, velocity).save_pretrained(folder / "deep")

    pipeline(tokenizer, encoder, unet, vae, EulerDiscreteScheduler()).save_pretrained(folder / "foreign-keys")
    config = folder / "foreign-keys" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(FOREIGN_SCHEDULER_CONFIG, indent=2))

    # A mask and a masked picture beside the latents.
    inpainting_unet = denoiser(seed=6, in_channels=9)
    inpainting = pipeline(tokenizer, encoder, inpainting_unet, vae, kind=StableDiffusionInpaintPipeline)
    inpainting.save_pretrained(folder / "inpainting")

    # Last, because the conversion is in place.
    half = pipeline(tokenizer, encoder.to(torch.bfloat16), unet.to(torch.float16), vae.to(torch.float16))
    half.save_pretrained(folder / "half")


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
