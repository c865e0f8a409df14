"""Every family with every sampler that it can have, in one short case each; what is special about families and samplers is compared elsewhere."""

from family_cases import FamilyCase
from flow_cases import EULER as FLOW_EULER
from flow_cases import HEUN as FLOW_HEUN
from flow_cases import FlowCase
from sampler_cases import ENTERED, OPTIONS
from cases import DDIM, EULER, EULER_ANCESTRAL
from task_cases import IMAGE_TO_IMAGE

DIFFUSION = [DDIM, EULER_ANCESTRAL, *OPTIONS]
# diffusers adds no noise to a picture for the others.
FROM_PICTURES = [DDIM, EULER, EULER_ANCESTRAL, *ENTERED]
# Where the folder's own sampler has no such option, the class's default would be to clip, which is not served, and PNDM's to begin with steps
# of Runge and Kutta.
CHANGES = {
    "DDIMScheduler": {"clip_sample": False},
    "DDIMInverseScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "PNDMScheduler": {"skip_prk_steps": True},
}


def diffusion(pipeline, sampler, **said):
    options = CHANGES.get(sampler, {})
    said = {"negative_prompt": "blurry", "num_inference_steps": 5, "sampler": sampler, "sampler_options": options} | said
    return FamilyCase(f"{pipeline}: {sampler}", pipeline=pipeline, **said)


def flow(pipeline, sampler):
    guidance = {} if pipeline.startswith("flux") else {"negative_prompt": "ugly"}
    return FlowCase(f"{pipeline}: {sampler}", pipeline=pipeline, sampler=sampler, num_inference_steps=3, **guidance)


DIFFUSION_CELLS = [diffusion(pipeline, sampler) for pipeline in ["base", "sd21", "sdxl"] for sampler in DIFFUSION] + [
    diffusion("sdxl-refiner", sampler, task=IMAGE_TO_IMAGE, strength=0.8) for sampler in FROM_PICTURES
]
FLOW_CELLS = [flow(pipeline, sampler) for pipeline in ["sd3", "sd35-medium", "sd35-large"] for sampler in [FLOW_EULER, FLOW_HEUN]] + [
    flow(pipeline, FLOW_EULER) for pipeline in ["flux-dev", "flux-schnell"]
]
