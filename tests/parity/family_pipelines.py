"""Tiny pipelines with random weights of the families beside Stable Diffusion 1.5, made as those of make_pipelines.py are.

    sd21              OpenCLIP's text encoder, linear projections, velocity
    sdxl              two text encoders, pooled text and sizes, transformers of several depths; nine channels in `sdxl-inpainting`
    sdxl-refiner      the second text encoder alone, aesthetic scores
    lcm, sdxl-lcm     the strength of guidance is an input
"""

import pathlib

from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import make_pipelines
from make_pipelines import SCHEDULE
from tiny_networks import ID, POOLED, TEXT_WIDTH, autoencoder, clip, denoiser

SECOND_WIDTH = 40
GUIDANCE = 16  # of the guidance scale's sinusoid

# Heads and depths differ from level to level, so that none can stand for another.
XL_UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 32, 24),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (2, 4, 3),
    "use_linear_projection": True,
    "cross_attention_dim": TEXT_WIDTH + SECOND_WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": ID,
    "projection_class_embeddings_input_dim": POOLED + 6 * ID,
}
REFINER_UNET = XL_UNET | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 32, 32, 24),
    "transformer_layers_per_block": 2,
    "attention_head_dim": (2, 4, 4, 3),
    "cross_attention_dim": SECOND_WIDTH,
    "projection_class_embeddings_input_dim": POOLED + 5 * ID,
}


def make(folder: pathlib.Path):
    """Writes every pipeline below `folder`, which holds the tokenizer; the same bytes each time. Returns their names."""
    files = [str(folder / "tokenizer" / name) for name in ["vocab.json", "merges.txt"]]
    # The second one pads with a character, as the published one does.
    tokenizer, tokenizer_2 = (CLIPTokenizer(*files, model_max_length=77, **more) for more in [{}, {"pad_token": "!"}])
    size = len(tokenizer)
    vae = autoencoder(seed=23, scaling_factor=0.13025)

    second_version = clip(CLIPTextModel, size, TEXT_WIDTH, 24, layers=2, hidden_act="gelu", eos_token_id=size - 1)
    velocity = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    linear = denoiser(25, use_linear_projection=True, attention_head_dim=(2, 4, 8, 4))
    make_pipelines.pipeline(tokenizer, second_version, linear, autoencoder(seed=26), velocity).save_pretrained(folder / "sd21")

    euler = EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1)
    parts = {
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "text_encoder": clip(CLIPTextModel, size, TEXT_WIDTH, 27, layers=3),
        "text_encoder_2": clip(CLIPTextModelWithProjection, size, SECOND_WIDTH, 28, layers=4, hidden_act="gelu"),
        "vae": vae,
        "scheduler": euler,
        "add_watermarker": False,
    }
    StableDiffusionXLPipeline(**parts, unet=denoiser(29, **XL_UNET)).save_pretrained(folder / "sdxl")
    nine = StableDiffusionXLInpaintPipeline(**parts, unet=denoiser(30, **XL_UNET, in_channels=9), force_zeros_for_empty_prompt=False)
    nine.save_pretrained(folder / "sdxl-inpainting")
    distilled = LCMScheduler(**SCHEDULE, original_inference_steps=50)
    guided = denoiser(31, **XL_UNET, time_cond_proj_dim=GUIDANCE)
    StableDiffusionXLPipeline(**parts | {"scheduler": distilled}, unet=guided).save_pretrained(folder / "sdxl-lcm")
    alone = parts | {"tokenizer": None, "text_encoder": None}
    refiner = StableDiffusionXLImg2ImgPipeline(**alone, unet=denoiser(32, **REFINER_UNET), requires_aesthetics_score=True)
    refiner.save_pretrained(folder / "sdxl-refiner")

    encoder = clip(CLIPTextModel, size, TEXT_WIDTH, 33, layers=3, hidden_act="quick_gelu")
    guided = denoiser(34, time_cond_proj_dim=GUIDANCE)
    latent_consistency = LatentConsistencyModelPipeline(
        vae, encoder, tokenizer, guided, distilled, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    latent_consistency.save_pretrained(folder / "lcm")
    return ["sd21", "sdxl", "sdxl-inpainting", "sdxl-lcm", "sdxl-refiner", "lcm"]
