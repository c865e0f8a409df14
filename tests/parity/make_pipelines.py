"""Tiny Stable Diffusion 1.5 pipelines with random weights, made and saved by diffusers itself.

Every kind of layer the real one has is there (three blocks with cross attention, one without, a VAE of four
levels, a CLIP text encoder); only widths and depths are small.

    python make_pipelines.py FOLDER     writes one folder a pipeline
"""

import json
import pathlib
import sys

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

import tiny_tokenizer
from tiny_networks import TEXT_WIDTH, autoencoder, clip, denoiser, ends

# Stable Diffusion 1.5's own schedule.
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DDIM = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)

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
    encoder = clip(CLIPTextModel, vocabulary_size, TEXT_WIDTH, 1, layers=3, hidden_act="quick_gelu", projection_dim=TEXT_WIDTH, **ends(vocabulary_size))
    unet, vae = denoiser(seed=2), autoencoder(seed=3)

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
