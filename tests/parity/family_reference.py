"""What diffusers makes of a case of any family."""

import diffusers
import numpy
import torch
from diffusers.pipelines.latent_consistency_models import pipeline_latent_consistency_text2img
from diffusers.pipelines.stable_diffusion_xl import (
    pipeline_stable_diffusion_xl,
    pipeline_stable_diffusion_xl_img2img,
    pipeline_stable_diffusion_xl_inpaint,
)

import reference
from family_cases import TEXT_TO_IMAGE, FamilyCase
from task_cases import IMAGE_TO_IMAGE, INPAINT

reference.DRAWING_MODULES += [
    pipeline_latent_consistency_text2img,
    pipeline_stable_diffusion_xl,
    pipeline_stable_diffusion_xl_img2img,
    pipeline_stable_diffusion_xl_inpaint,
]

XL = {
    TEXT_TO_IMAGE: diffusers.StableDiffusionXLPipeline,
    IMAGE_TO_IMAGE: diffusers.StableDiffusionXLImg2ImgPipeline,
    INPAINT: diffusers.StableDiffusionXLInpaintPipeline,
}
# Of a request, what goes to the pipeline as it stands.
ARGUMENTS = {
    "guidance_scale", "guidance_rescale", "eta", "clip_skip", "negative_prompt", "width", "height", "strength", "prompt_2",
    "negative_prompt_2", "original_size", "target_size", "crops_coords_top_left", "negative_original_size", "negative_target_size",
    "negative_crops_coords_top_left", "aesthetic_score", "negative_aesthetic_score", "denoising_start", "denoising_end",
}  # fmt: skip
# Of these, what embeddings stand for.
IN_EMBEDDINGS = {"prompt_2", "negative_prompt", "negative_prompt_2", "clip_skip"}


def load(folder):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def for_task(loaded, task):
    """The pipeline of `task` with the parts of `loaded`, whatever task that was saved for."""
    if not isinstance(loaded, tuple(XL.values())):
        return loaded
    settings = {name: value for name, value in loaded.config.items() if name in {"force_zeros_for_empty_prompt", "requires_aesthetics_score"}}
    if task == TEXT_TO_IMAGE:
        settings.pop("requires_aesthetics_score", None)
    pipeline = XL[task](**loaded.components, **settings, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(loaded, case: FamilyCase, seed: int, sent=None, latents=None, embeddings=None) -> reference.Images:
    """Runs `case`, with the pictures that are `sent` or with latents in place of an image. `embeddings` are arguments of the pipeline that
    stand for all prompts."""
    folders_own = loaded.scheduler
    pipeline = for_task(loaded, case.task)
    scheduler = getattr(diffusers, case.sampler) if case.sampler else type(folders_own)
    pipeline.scheduler = scheduler.from_config(folders_own.config, **case.sampler_options)
    try:
        return run_with(pipeline, case, seed, sent, latents, embeddings)
    finally:
        loaded.scheduler = folders_own


def run_with(pipeline, case, seed, sent, latents, embeddings):
    said = {key: value for key, value in case.request().items() if key in ARGUMENTS}
    if embeddings is None:
        said["prompt"] = case.prompt
    else:
        said = {key: value for key, value in said.items() if key not in IN_EMBEDDINGS} | embeddings
    if latents is not None:
        said["image"] = torch.from_numpy(latents)
    elif case.task != TEXT_TO_IMAGE:
        said |= pictures(pipeline, case, sent)
    if case.task == IMAGE_TO_IMAGE:
        # This pipeline takes the image's own size.
        said.pop("width", None), said.pop("height", None)
    drawn, steps, image = reference.call(pipeline, case, seed, **said)
    first = {"latents_init": numpy.repeat(drawn[0], case.samples // drawn[0].shape[0], axis=0)} if case.task == TEXT_TO_IMAGE else {}
    return reference.Images(first | reference.for_each_image(drawn[len(first) :], case), steps, image)


def pictures(pipeline, case, sent):
    image = pipeline.image_processor.resize(sent.image, case.height, case.width)
    if case.task == IMAGE_TO_IMAGE:
        return {"image": image}
    mask = sent.mask if case.mask_blur is None else pipeline.mask_processor.blur(sent.mask, case.mask_blur)
    return {"image": sent.image, "mask_image": mask}
