"""What is compared of each family beside Stable Diffusion 1.5: one line a case, as in task_cases.py."""

import dataclasses

from cases import AWKWARD, DDIM, EULER, EULER_ANCESTRAL, LONG
from task_cases import IMAGE_TO_IMAGE, INPAINT, TaskCase

TEXT_TO_IMAGE = "text_to_image"
DPM = "DPMSolverMultistepScheduler"
HEUN = "HeunDiscreteScheduler"
LCM = "LCMScheduler"
TRAILING = {"timestep_spacing": "trailing"}
SIZES = {"original_size": (48, 200), "target_size": (96, 72), "crops_coords_top_left": (5, 9)}
NEGATIVE_SIZES = {
    "negative_original_size": (300, 20),
    "negative_target_size": (40, 50),
    "negative_crops_coords_top_left": (11, 3),
}


@dataclasses.dataclass(frozen=True)
class FamilyCase(TaskCase):
    """A case of any task with the fields that only some families heed. Sizes are height and width, as in diffusers."""

    task: str = TEXT_TO_IMAGE
    width: int | None = 128
    height: int | None = 64
    num_inference_steps: int = 4
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    guidance_rescale: float | None = None
    original_size: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_target_size: tuple[int, int] | None = None
    negative_crops_coords_top_left: tuple[int, int] | None = None
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None
    denoising_start: float | None = None
    denoising_end: float | None = None


def sd21(name, **said):
    return FamilyCase(f"sd21: {name}", pipeline="sd21", **said)


def sdxl(name, **said):
    return FamilyCase(f"sdxl: {name}", **{"pipeline": "sdxl"} | said)


def refiner(name, **said):
    return FamilyCase(f"refiner: {name}", **{"pipeline": "sdxl-refiner", "task": IMAGE_TO_IMAGE, "strength": 0.6} | said)


EPSILON = {"prediction_type": "epsilon"}

FAMILY_CASES = [
    sd21("velocity, as the folder says", negative_prompt="blurry"),
    sd21("velocity, dpm, rescaled guidance", sampler=DPM, guidance_rescale=0.7),
    sd21("epsilon, euler a, two images, clip skip", sampler=EULER_ANCESTRAL, sampler_options=EPSILON, samples=2, clip_skip=1),
    sd21("default size and guidance", width=None, height=None, guidance_scale=None),
    sd21("image to image", task=IMAGE_TO_IMAGE, strength=0.5),
    sd21("inpaint", task=INPAINT, strength=0.8),
    sdxl("as the folder says"),
    sdxl("default size and guidance, negative prompt", width=None, height=None, guidance_scale=None, negative_prompt="blurry"),
    sdxl("ddim, eta, portrait, two images", sampler=DDIM, sampler_options={"clip_sample": False}, eta=0.4, width=64, height=128, samples=2),
    sdxl("dpm, karras", sampler=DPM, sampler_options={"use_karras_sigmas": True}, negative_prompt=""),
    sdxl("euler a, clip skip 1", sampler=EULER_ANCESTRAL, clip_skip=1, negative_prompt="blurry"),
    sdxl("second prompts", prompt_2="a castle on a hill", negative_prompt="ugly", negative_prompt_2="a horse"),
    sdxl("empty second prompts are the first", prompt_2="", negative_prompt="ugly", negative_prompt_2=""),
    sdxl("second negative prompt alone counts for nothing", negative_prompt_2="a horse"),
    sdxl("long and awkward", prompt=LONG, prompt_2=AWKWARD, negative_prompt=AWKWARD),
    sdxl("sizes", **SIZES),
    sdxl("sizes, negative ones too", negative_prompt="", **SIZES, **NEGATIVE_SIZES),
    sdxl("one negative size counts for nothing", negative_original_size=(300, 20)),
    sdxl("rescaled guidance", guidance_rescale=0.6),
    sdxl("no guidance, one step, trailing", guidance_scale=0.0, sampler=EULER_ANCESTRAL, sampler_options=TRAILING, num_inference_steps=1),
    sdxl("no guidance, two steps, trailing", guidance_scale=0.0, sampler=EULER, sampler_options=TRAILING, num_inference_steps=2),
    sdxl("no guidance, eight steps, trailing", guidance_scale=0.0, sampler=EULER, sampler_options=TRAILING, num_inference_steps=8),
    sdxl("left early", denoising_end=0.7, num_inference_steps=10),
    sdxl("left early, heun", denoising_end=0.6, sampler=HEUN),
    sdxl("image to image", task=IMAGE_TO_IMAGE, strength=0.5, negative_prompt="blurry"),
    sdxl("image to image, sizes", task=IMAGE_TO_IMAGE, strength=0.5, negative_prompt="", **SIZES, **NEGATIVE_SIZES),
    sdxl("image to image, one negative size", task=IMAGE_TO_IMAGE, strength=0.5, negative_target_size=(9, 300), **SIZES),
    sdxl("inpaint, two images", task=INPAINT, strength=0.9, samples=2, sampler=EULER_ANCESTRAL),
    sdxl("inpaint, from noise", task=INPAINT, strength=1.0, mask_blur=3),
    sdxl("inpaint, 9 channels", pipeline="sdxl-inpainting", task=INPAINT, strength=0.8),
    sdxl("inpaint, 9 channels, from noise", pipeline="sdxl-inpainting", task=INPAINT, strength=1.0, negative_prompt="ugly"),
    sdxl("distilled guidance", pipeline="sdxl-lcm", guidance_scale=8.0, negative_prompt="is not heeded"),
    sdxl("distilled guidance, image to image", pipeline="sdxl-lcm", guidance_scale=1.8, task=IMAGE_TO_IMAGE, strength=0.7),
    FamilyCase("lcm: as the folder says", pipeline="lcm", guidance_scale=None),
    FamilyCase("lcm: guidance 1.3, eight steps", pipeline="lcm", guidance_scale=1.3, num_inference_steps=8),
    refiner("as the folder says"),
    refiner("scores, sizes", aesthetic_score=9.0, negative_aesthetic_score=1.5, negative_prompt="", **{k: v for k, v in (SIZES | NEGATIVE_SIZES).items() if "target" not in k}),
    refiner("inpaint", task=INPAINT, strength=0.9, negative_prompt="blurry"),
    refiner("no guidance, dpm", guidance_scale=1.0, sampler=DPM),
]

# The base leaves off where the refiner goes on; both with their own number of steps.
HAND_OVERS = [
    (sdxl("hand over, base", denoising_end=0.8, num_inference_steps=10), refiner("hand over", denoising_start=0.8, num_inference_steps=10)),
    (
        sdxl("hand over, base, ddim, two images", denoising_end=0.5, sampler=DDIM, sampler_options={"clip_sample": False}, samples=2),
        refiner("hand over, heun, two images", denoising_start=0.5, sampler=HEUN, samples=2, num_inference_steps=6),
    ),
    (
        sdxl("hand over, base, two ends", denoising_end=0.3, num_inference_steps=8),
        refiner("hand over, two ends", denoising_start=0.3, denoising_end=0.7, num_inference_steps=8),
    ),
]
