"""Writes reference.json: what diffusers' schedulers make of many options and step counts.

For each case: the scheduler's class, its configuration, and for each step count the timesteps, the sigmas (where the class has
them), the initial noise's deviation, the input scale at each step, how clean latents and noise mix at each timestep (three of them),
and the way of one number through a fake model whose output depends on sample and timestep. Long lists are written as every k-th
value; the file stays small and still covers both ends.

Needs diffusers 0.36.0 and, for nothing else, torch and numpy.
"""

import json
import math
import pathlib

import diffusers.schedulers.scheduling_ddim as ddim_module
import diffusers.schedulers.scheduling_euler_ancestral_discrete as euler_ancestral_module
import diffusers.schedulers.scheduling_euler_discrete as euler_module
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

MODULES = [ddim_module, euler_module, euler_ancestral_module]
HERE = pathlib.Path(__file__).parent
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}
STEPS = [1, 2, 3, 4, 5, 7, 10, 13, 20, 25, 30, 37, 43, 50]
MANY = list(range(1, 51))


def cases():
    for name, scheduler in [("DDIMScheduler", DDIMScheduler), ("EulerDiscreteScheduler", EulerDiscreteScheduler), ("EulerAncestralDiscreteScheduler", EulerAncestralDiscreteScheduler)]:
        def case(steps=STEPS, eta=0.0, base=STABLE_DIFFUSION, **changes):
            return name, scheduler, {**base, **changes}, steps, eta

        for spacing in ["leading", "trailing", "linspace"]:
            yield case(timestep_spacing=spacing, steps=MANY)
            yield case(timestep_spacing=spacing, prediction_type="v_prediction")
        for beta_schedule in ["linear", "squaredcos_cap_v2"]:
            yield case(beta_schedule=beta_schedule, steps=[1, 10, 50])
        yield case(steps_offset=0, steps=[1, 20, 50])
        yield case(num_train_timesteps=500, steps=[3, 20])
        yield case(trained_betas=[0.001 + 0.0002 * index for index in range(40)], num_train_timesteps=40, steps=[1, 8, 20])
        yield case(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
        # Little of the configuration present: the class's own defaults.
        yield case(base={"clip_sample": False}, steps=[5, 20])
        if name == "DDIMScheduler":
            yield case(set_alpha_to_one=True)
            for eta in [0.3, 1.0]:
                yield case(eta=eta, steps=[4, 20])
                yield case(eta=eta, steps=[4, 20], timestep_spacing="trailing", prediction_type="v_prediction")
            yield case(prediction_type="sample", steps=[4, 20])
        if name == "EulerDiscreteScheduler":
            yield case(prediction_type="sample", steps=[4, 20])
            for spacing in ["leading", "trailing", "linspace"]:
                yield case(use_karras_sigmas=True, timestep_spacing=spacing)
                yield case(use_exponential_sigmas=True, timestep_spacing=spacing, steps=[1, 2, 20])
            yield case(use_karras_sigmas=True, sigma_min=0.05, sigma_max=10.0, steps=[20])
            yield case(use_exponential_sigmas=True, sigma_min=0.05, sigma_max=10.0, steps=[20])
            yield case(interpolation_type="log_linear", steps=[1, 2, 20])
            yield case(interpolation_type="log_linear", use_karras_sigmas=True, steps=[20])
            yield case(final_sigmas_type="sigma_min", steps=[1, 20])
            yield case(final_sigmas_type="sigma_min", use_karras_sigmas=True, steps=[20])
            yield case(timestep_type="continuous", prediction_type="v_prediction", use_karras_sigmas=True, steps=[5, 20])
            yield case(timestep_type="continuous", prediction_type="epsilon", steps=[5])


def output_of(sample, timestep):
    """A model of one number; smooth, bounded, and different at each timestep."""
    return 0.5 * sample / (1.0 + abs(sample)) + 0.3 * math.cos(float(timestep) / 100.0)


def draw(number):
    """The noise of a draw: any fixed numbers do."""
    return math.sin(1.0 + 2.0 * number)


def run(scheduler, steps, eta):
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    draws = [0]

    def drawn(shape, **_):
        draws[0] += 1
        return torch.full(shape, draw(draws[0] - 1), dtype=torch.float64)

    for module in MODULES:
        module.randn_tensor = drawn
    sample = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64) * float(scheduler.init_noise_sigma)
    way, scales = [], []
    extra = {"eta": eta} if isinstance(scheduler, DDIMScheduler) else {}
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        scales.append(float(scaled / sample))
        output = torch.full((1, 1, 1, 1), output_of(float(scaled), timestep), dtype=torch.float64)
        sample = scheduler.step(output, timestep, sample, **extra).prev_sample.to(torch.float64)
        way.append(float(sample))
    at = sorted({0, len(timesteps) // 2, len(timesteps) - 1})
    mixes = []
    for index in at:
        # Anew, as for a request that begins here.
        scheduler.set_timesteps(steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(index)
        one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        timestep = timesteps[index : index + 1]
        mixes.append([index, float(scheduler.add_noise(one, zero, timestep)), float(scheduler.add_noise(zero, one, timestep))])
    sigmas = scheduler.sigmas.tolist() if hasattr(scheduler, "sigmas") else []
    return {
        "steps": steps,
        "timesteps": thin(timesteps.tolist()),
        "sigmas": thin(sigmas),
        "init_noise_sigma": rounded(float(scheduler.init_noise_sigma)),
        "scales": thin(scales),
        "mixes": [[index, rounded(signal), rounded(noise)] for index, signal, noise in mixes],
        "draws": draws[0],
        "way": thin(way),
    }


def thin(values):
    """Length, stride, and every stride-th value counted from the end, so that the last is among them."""
    stride = max(1, len(values) // 8)
    return [len(values), stride, [rounded(value) for value in values[::-1][::stride]]]


def rounded(value):
    return float(f"{value:.9g}")


def main():
    lines = []
    for name, scheduler, config, steps, eta in cases():
        runs = [run(scheduler.from_config(config), count, eta) for count in steps]
        lines.append(json.dumps({"class": name, "config": config, "eta": eta, "runs": runs}, separators=(",", ":")))
    (HERE / "reference.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
