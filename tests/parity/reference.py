"""What diffusers makes of a case, with every random draw kept."""

import contextlib
import dataclasses
import pathlib

import diffusers
import numpy
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_dpmsolver_singlestep,
    scheduling_euler_ancestral_discrete,
    scheduling_euler_discrete,
    scheduling_k_dpm_2_ancestral_discrete,
    scheduling_lcm,
    scheduling_tcd,
)
from diffusers.utils.torch_utils import randn_tensor

import scipy_stand_in
from cases import Case

scipy_stand_in.install()

# Each of these modules has its own name for the function all random draws go through.
DRAWING_MODULES = [
    pipeline_stable_diffusion,
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_dpmsolver_singlestep,
    scheduling_euler_ancestral_discrete,
    scheduling_euler_discrete,
    scheduling_k_dpm_2_ancestral_discrete,
    scheduling_lcm,
    scheduling_tcd,
]


@dataclasses.dataclass
class Images:
    """One run: the draws that went in, the latents after each solver call, the pictures."""

    draws: dict[str, numpy.ndarray]  # latents_init [n,c,h,w] before init_noise_sigma, noise.0, noise.1, …
    step_latents: numpy.ndarray  # [calls,n,c,h,w]
    image: numpy.ndarray  # [n,h,w,3] in 0…1


@contextlib.contextmanager
def recorded_draws():
    """Collects what diffusers draws, in order: first the initial latents, then each sampler's noise."""
    drawn = []

    def draw(*arguments, **options):
        tensor = randn_tensor(*arguments, **options)
        drawn.append(tensor.numpy().copy())
        return tensor

    for module in DRAWING_MODULES:
        module.randn_tensor = draw
    try:
        yield drawn
    finally:
        for module in DRAWING_MODULES:
            module.randn_tensor = randn_tensor


def call(pipeline, case, seed: int, latents_of=lambda latents: latents, **said):
    """What the pipeline draws, the latents after each step as arrays, and its images. `latents_of` brings a pipeline's own form of
    latents into the usual one."""
    steps = []

    def keep(_pipeline, _step, _timestep, tensors):
        steps.append(latents_of(tensors["latents"]).numpy().copy())
        return tensors

    with recorded_draws() as drawn, torch.no_grad():
        images = pipeline(
            num_images_per_prompt=case.samples,
            num_inference_steps=case.num_inference_steps,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=keep,
            output_type="np",
            **said,
        ).images
    return drawn, numpy.stack(steps), images


def for_each_image(drawn, case) -> dict:
    """A picture's latents are drawn once for all images there, once for each image here."""
    return {f"noise.{at}": numpy.repeat(draw, case.samples // draw.shape[0], axis=0) for at, draw in enumerate(drawn)}


def load(folder: pathlib.Path):
    """The pipeline of `folder` in f32, whatever its files are stored in."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline, case: Case, seed: int, embeddings: dict | None = None) -> Images:
    """Runs `case`; the folder's scheduler is kept unless the case names one or changes its options. `embeddings` are arguments of the
    pipeline that stand for both prompts."""
    folders_own = pipeline.scheduler
    try:
        sampler = getattr(diffusers, case.sampler) if case.sampler else type(folders_own)
        pipeline.scheduler = sampler.from_config(folders_own.config, **case.sampler_options)
        named = {"guidance_scale", "guidance_rescale", "eta", "clip_skip", "negative_prompt", "width", "height"}
        said = {key: value for key, value in case.request().items() if key in named}
        if embeddings is None:
            said["prompt"] = case.prompt
        else:
            said = {key: value for key, value in said.items() if key not in {"negative_prompt", "clip_skip"}} | embeddings
        drawn, steps, image = call(pipeline, case, seed, **said)
    finally:
        pipeline.scheduler = folders_own
    draws = {"latents_init": drawn[0]} | {f"noise.{number}": noise for number, noise in enumerate(drawn[1:])}
    return Images(draws, steps, image)
