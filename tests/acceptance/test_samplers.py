"""Every scheduler that callers name draws what is asked for; those that serve no latent model are refused with the reason."""

import pytest

from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_modelslab_error, assert_red_circle_on_blue, assert_success

# The rest of the names are for models distilled for them, or lead from an image to its noise.
SCHEDULERS = [
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "DPM++ 2M Karras",
    "DPM++ 2M SDE",
]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_draws_what_is_asked_for(scheduler, house, key):
    answer = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "scheduler": scheduler, "seed": 7}).json()
    assert_red_circle_on_blue(assert_success(house, answer)[0])


@pytest.mark.parametrize("scheduler", ["KarrasVeScheduler", "ScoreSdeVeScheduler"])
def test_schedulers_of_pixel_models_are_refused_with_the_reason(scheduler, house, key):
    reply = house.post(TEXT_TO_IMAGE, RED_CIRCLE | {"key": key, "scheduler": scheduler})
    assert_modelslab_error(reply, 400, scheduler, "pixels")
