"""Each sampler with its main options, step by step against diffusers.

The linear multistep's coefficients and the beta sigmas need scipy in diffusers, so they are not here: a table of their timesteps, sigmas
and ways is in runtime/diffusion/tests/samplers.
"""

from cases import Case

KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
VELOCITY = {"prediction_type": "v_prediction"}
TRAILING = {"timestep_spacing": "trailing"}
DPM_MULTISTEP = "DPMSolverMultistepScheduler"
DPM_SINGLESTEP = "DPMSolverSinglestepScheduler"
UNIPC = "UniPCMultistepScheduler"

OPTIONS = {
    "DDPMScheduler": [TRAILING, VELOCITY, {"variance_type": "fixed_large"}],
    "PNDMScheduler": [{"skip_prk_steps": True}, {"skip_prk_steps": True} | VELOCITY],
    "HeunDiscreteScheduler": [KARRAS, TRAILING, VELOCITY],
    "KDPM2DiscreteScheduler": [KARRAS, TRAILING, VELOCITY],
    "KDPM2AncestralDiscreteScheduler": [KARRAS, TRAILING, VELOCITY],
    DPM_MULTISTEP: [
        KARRAS,
        EXPONENTIAL,
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
    "DEISMultistepScheduler": [KARRAS, VELOCITY, {"solver_order": 3}],
    UNIPC: [
        KARRAS,
        TRAILING | VELOCITY,
        # With an end at zero the reference's last step of this form is not a number.
        {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"solver_order": 3},
        {"predict_x0": False, "final_sigmas_type": "sigma_min"},
        {"disable_corrector": [0, 1]},
    ],
    "LCMScheduler": [VELOCITY],
    "TCDScheduler": [VELOCITY],
    "DDIMInverseScheduler": [],
    "EulerDiscreteScheduler": [EXPONENTIAL],
}


def described(options):
    return ", ".join(f"{key} {value}" for key, value in options.items())


def cases():
    for sampler, variants in OPTIONS.items():
        yield Case(f"{sampler}", sampler=sampler)
        yield Case(f"{sampler}, no guidance, two images", sampler=sampler, guidance_scale=1.0, samples=2, num_inference_steps=11)
        for options in variants:
            yield Case(f"{sampler}, {described(options)}", sampler=sampler, sampler_options=options, num_inference_steps=7)
    yield Case("TCDScheduler, eta 0.3", sampler="TCDScheduler", eta=0.3)
    yield Case("UniPC, one step", sampler=UNIPC, num_inference_steps=1)
    yield Case("DPM++ 2M, one step", sampler=DPM_MULTISTEP, num_inference_steps=1)


SAMPLER_CASES = list(cases())
