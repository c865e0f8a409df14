"""Each sampler with its main options, step by step against diffusers; and each beginning with a picture."""

from cases import Case
from task_cases import TaskCase, inpaint

KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
BETA = {"use_beta_sigmas": True}
VELOCITY = {"prediction_type": "v_prediction"}
TRAILING = {"timestep_spacing": "trailing"}
DPM_MULTISTEP = "DPMSolverMultistepScheduler"
DPM_SINGLESTEP = "DPMSolverSinglestepScheduler"
UNIPC = "UniPCMultistepScheduler"

OPTIONS = {
    "DDPMScheduler": [TRAILING, VELOCITY, {"variance_type": "fixed_large"}],
    "PNDMScheduler": [{"skip_prk_steps": True}, {"skip_prk_steps": True} | VELOCITY],
    "LMSDiscreteScheduler": [KARRAS, BETA, TRAILING, VELOCITY],
    "HeunDiscreteScheduler": [KARRAS, BETA, TRAILING, VELOCITY],
    "KDPM2DiscreteScheduler": [KARRAS, BETA, TRAILING, VELOCITY],
    "KDPM2AncestralDiscreteScheduler": [KARRAS, TRAILING, VELOCITY],
    DPM_MULTISTEP: [
        KARRAS,
        EXPONENTIAL,
        BETA,
        TRAILING | VELOCITY,
        {"use_lu_lambdas": True},
        {"solver_order": 1},
        {"solver_order": 3},
        {"solver_type": "heun"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "sde-dpmsolver++"} | KARRAS,
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"euler_at_final": True},
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
    ],
    DPM_SINGLESTEP: [
        KARRAS,
        VELOCITY,
        {"solver_order": 1},
        {"solver_order": 3},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ],
    "DEISMultistepScheduler": [KARRAS, BETA, VELOCITY, {"solver_order": 3}],
    UNIPC: [
        KARRAS,
        TRAILING | VELOCITY,
        # With an end at zero the reference's last step of this form is not a number.
        {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"solver_order": 3},
        {"predict_x0": False, "final_sigmas_type": "sigma_min"},
        {"disable_corrector": [0, 1]},
    ],
    "IPNDMScheduler": [],
    "LCMScheduler": [VELOCITY],
    "TCDScheduler": [VELOCITY],
    "DDIMInverseScheduler": [],
    "EulerDiscreteScheduler": [EXPONENTIAL, BETA],
}

# Where an image enters in the middle: fewer evaluations are known than the place in the schedule says. diffusers adds no noise for
# IPNDM and the inverse of DDIM.
ENTERED = {
    "DDPMScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "LMSDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": KARRAS,
    "KDPM2AncestralDiscreteScheduler": {},
    DPM_MULTISTEP: {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
    DPM_SINGLESTEP: {"solver_order": 3},
    "DEISMultistepScheduler": {"solver_order": 3},
    UNIPC: {"solver_order": 3},
    "LCMScheduler": {},
    "TCDScheduler": {},
}


def described(options):
    return ", ".join(f"{key} {value}" for key, value in options.items())


def cases():
    for sampler, variants in OPTIONS.items():
        yield Case(f"{sampler}, no guidance, two images", sampler=sampler, guidance_scale=1.0, samples=2, num_inference_steps=11)
        for options in variants:
            yield Case(f"{sampler}, {described(options)}", sampler=sampler, sampler_options=options, num_inference_steps=7)
    yield Case("TCDScheduler, eta 0.3", sampler="TCDScheduler", eta=0.3)
    yield Case("UniPC, one step", sampler=UNIPC, num_inference_steps=1)
    yield Case("DPM++ 2M, one step", sampler=DPM_MULTISTEP, num_inference_steps=1)


def entered_cases():
    for sampler, options in ENTERED.items():
        said = {"sampler": sampler, "sampler_options": options, "num_inference_steps": 8}
        yield TaskCase(f"image: {sampler}", strength=0.7, **said)
        yield inpaint(sampler, strength=0.9, **said)


SAMPLER_CASES = list(cases())
ENTERED_CASES = list(entered_cases())
