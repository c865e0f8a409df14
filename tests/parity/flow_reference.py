"""What diffusers makes of a case of flow matching, with every random draw kept."""

import json

import diffusers
import torch
from diffusers.models.autoencoders import vae
from diffusers.pipelines.flux import pipeline_flux, pipeline_flux_img2img, pipeline_flux_inpaint
from diffusers.pipelines.stable_diffusion_3 import (
    pipeline_stable_diffusion_3,
    pipeline_stable_diffusion_3_img2img,
    pipeline_stable_diffusion_3_inpaint,
)
from diffusers.schedulers import scheduling_flow_match_heun_discrete

import reference
from flow_cases import FlowCase
from task_cases import IMAGE_TO_IMAGE, INPAINT

reference.DRAWING_MODULES += [
    vae,
    pipeline_flux,
    pipeline_flux_img2img,
    pipeline_flux_inpaint,
    pipeline_stable_diffusion_3,
    pipeline_stable_diffusion_3_img2img,
    pipeline_stable_diffusion_3_inpaint,
    scheduling_flow_match_heun_discrete,
]
NAMED = {
    "prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3", "max_sequence_length", "true_cfg_scale",
    "guidance_scale", "clip_skip", "width", "height", "strength",
}
TASK_PIPELINES = {IMAGE_TO_IMAGE: "Img2ImgPipeline", INPAINT: "InpaintPipeline"}


def load(folder):
    """The pipeline of `folder` in f32. Parts that its index says are absent have to be named."""
    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name in ["text_encoder_3", "tokenizer_3"] if index.get(name) == [None, None]}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False, **absent
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(loaded, case: FlowCase, seed: int, sent=None, embeddings=None) -> reference.Images:
    """Runs `case`; `sent` are the pictures that one with a strength begins with, `embeddings` arguments that stand for all prompts."""
    kind = type(loaded)
    if sent is not None:
        kind = getattr(diffusers, kind.__name__.replace("Pipeline", TASK_PIPELINES[case.task]))
    parts = {name: part for name, part in loaded.components.items() if name not in {"image_encoder", "feature_extractor"}}
    sampler = getattr(diffusers, case.sampler) if case.sampler else type(loaded.scheduler)
    pipeline = kind(**parts | {"scheduler": sampler.from_config(loaded.scheduler.config, **case.sampler_options)})
    pipeline.set_progress_bar_config(disable=True)
    said = {key: value for key, value in case.request().items() if key in NAMED}
    if embeddings is not None:
        said = {key: value for key, value in said.items() if "prompt" not in key and key != "clip_skip"} | embeddings
    if sent is not None:
        said["image"] = sent.image
    if case.task == INPAINT:
        said["mask_image"] = sent.mask

    def unpacked(latents):
        return latents if latents.ndim == 4 else pipeline._unpack_latents(latents, case.height, case.width, pipeline.vae_scale_factor)

    drawn, steps, images = reference.call(pipeline, case, seed, unpacked, **said)
    if case.task == INPAINT and case.pipeline.startswith("sd3"):
        # Of all pipelines this one alone forgets the autoencoder's shift when it decodes; here the picture is that of its last latents.
        last = torch.from_numpy(steps[-1]) / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        with torch.no_grad():
            images = pipeline.image_processor.postprocess(pipeline.vae.decode(last).sample, output_type="np")
    draws = {"latents_init": drawn[0]} if sent is None else reference.for_each_image(drawn, case)
    return reference.Images(draws, steps, images)
