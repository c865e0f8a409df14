"""Writes reference.json: what diffusers' schedulers make of many options and step counts.

For each case: the scheduler's class, its configuration, and for each step count the timesteps, the noise level of each evaluation
(where the class has sigmas), the initial noise's deviation, the input scale at each evaluation, how clean latents and noise mix at
some of them, and the ways of one number through a fake model whose output depends on sample and timestep: from the first evaluation
and from one in the middle, as an image enters. Long lists are written as every k-th value; the file stays small and still covers both
ends.

The schedulers compute each step's factors in f32 from their tables. Here the tables are widened first, so that what is written is what
the formulas say and not how one machine rounds them.

Needs diffusers 0.36.0, scipy (for the linear multistep's and the beta sigmas) and, for nothing else, torch and numpy.
"""

import copy
import inspect
import json
import math
import pathlib
import sys

import diffusers
import torch

HERE = pathlib.Path(__file__).parent
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading", "skip_prk_steps": True}
STEPS = [1, 2, 3, 4, 5, 7, 10, 13, 20, 25, 30, 37, 43, 50]
FEW = [1, 2, 3, 6, 15, 20]
MANY = list(range(1, 51))
TABLES = ["sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down", "alphas_cumprod", "final_alpha_cumprod", "initial_alpha_cumprod", "one", "alphas", "betas"]
CURVES = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
SPACINGS = ["leading", "trailing", "linspace"]


def cases():
    for name in ["DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"]:
        def case(steps=STEPS, eta=0.0, base=STABLE_DIFFUSION, **changes):
            return name, {**base, **changes}, steps, eta

        for spacing in SPACINGS:
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
            for spacing in SPACINGS:
                for curve in CURVES:
                    yield case(timestep_spacing=spacing, steps=FEW, **{curve: True})
                    yield case(steps=[20], sigma_min=0.05, sigma_max=10.0, **{curve: True})
            yield case(interpolation_type="log_linear", steps=[1, 2, 20])
            yield case(interpolation_type="log_linear", use_karras_sigmas=True, steps=[20])
            yield case(final_sigmas_type="sigma_min", steps=[1, 20])
            yield case(final_sigmas_type="sigma_min", use_karras_sigmas=True, steps=[20])
            yield case(timestep_type="continuous", prediction_type="v_prediction", use_karras_sigmas=True, steps=[5, 20])
            yield case(timestep_type="continuous", prediction_type="epsilon", steps=[5])
    yield from of_the_table()
    yield from of_sigmas()
    yield from of_log_snr()


def every(name, few=FEW, spacings=SPACINGS, predictions=("v_prediction", "sample"), curves=(), **always):
    """What every class has: spacings, predictions, curves, other betas, and its own defaults."""
    def case(steps=few, base=STABLE_DIFFUSION, **changes):
        return name, {**base, **always, **changes}, steps, 0.0

    yield case(steps=[count for count in STEPS if count >= few[0]])
    for spacing in spacings:
        yield case(timestep_spacing=spacing)
        for prediction in predictions:
            yield case(timestep_spacing=spacing, prediction_type=prediction)
        for curve in curves:
            yield case(timestep_spacing=spacing, **{curve: True})
    for beta_schedule in ["linear", "squaredcos_cap_v2"]:
        yield case(beta_schedule=beta_schedule, steps=[10])
    yield case(base={"clip_sample": False}, steps=[5, 20])


def of_the_table():
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    yield from every("DDPMScheduler")
    for changes in [{"variance_type": "fixed_large"}, {"variance_type": "fixed_small_log"}, {"steps_offset": 0}, {"beta_schedule": "sigmoid"}, zero_snr]:
        yield "DDPMScheduler", {**STABLE_DIFFUSION, **changes}, [4, 20], 0.0
    yield from every("PNDMScheduler", predictions=["v_prediction"])
    yield from every("PNDMScheduler", few=[4, 6, 15, 20], predictions=["v_prediction"], skip_prk_steps=False)
    yield "PNDMScheduler", {**STABLE_DIFFUSION, "set_alpha_to_one": True}, [4, 20], 0.0
    for name in ["LCMScheduler", "TCDScheduler"]:
        for eta in [0.0, 0.3, 1.0] if name == "TCDScheduler" else [0.0]:
            yield name, STABLE_DIFFUSION, FEW, eta
            yield name, {"original_inference_steps": 100, "timestep_scaling": 5.0}, [4, 7, 60], eta
            for prediction in ["v_prediction", "sample"]:
                yield name, {**STABLE_DIFFUSION, "prediction_type": prediction}, [4, 7], eta
            yield name, {**STABLE_DIFFUSION, **zero_snr}, [4, 7], eta
    yield from every("DDIMInverseScheduler", spacings=["leading", "trailing"])
    yield "DDIMInverseScheduler", {**STABLE_DIFFUSION, "set_alpha_to_one": True}, [4, 20], 0.0
    yield "DDIMInverseScheduler", {**STABLE_DIFFUSION, **zero_snr}, [4, 20], 0.0
    yield "IPNDMScheduler", {}, STEPS, 0.0
    yield "IPNDMScheduler", {"trained_betas": [1.0, 0.9, 0.6, 0.4, 0.1, 0.0]}, [5], 0.0


def of_sigmas():
    for name in ["HeunDiscreteScheduler", "LMSDiscreteScheduler"]:
        yield from every(name, curves=CURVES)
    for name in ["KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"]:
        yield from every(name, predictions=["v_prediction"], curves=CURVES)
    yield "HeunDiscreteScheduler", {**STABLE_DIFFUSION, "beta_schedule": "exp"}, [4, 20], 0.0


def of_log_snr():
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    name = "DPMSolverMultistepScheduler"
    yield from every(name, curves=[*CURVES, "use_lu_lambdas"])
    for algorithm in ["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"]:
        for solver in ["midpoint", "heun"]:
            for order in [1, 2, 3]:
                if (algorithm, order) == ("sde-dpmsolver", 3):
                    continue
                options = {"algorithm_type": algorithm, "solver_type": solver, "solver_order": order}
                for end in ["zero", "sigma_min"] if algorithm.endswith("++") else ["sigma_min"]:
                    yield name, {**STABLE_DIFFUSION, **options, "final_sigmas_type": end}, [1, 2, 3, 6, 20], 0.0
                yield name, {**STABLE_DIFFUSION, **options, "final_sigmas_type": "sigma_min", "lower_order_final": False}, [3, 6], 0.0
    for changes in [{"euler_at_final": True, "final_sigmas_type": "sigma_min"}, {"lower_order_final": False}, {"lambda_min_clipped": -1.5}, zero_snr]:
        yield name, {**STABLE_DIFFUSION, **changes, "solver_order": 3}, [6, 20], 0.0
    yield name, {**STABLE_DIFFUSION, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1, "use_karras_sigmas": True}, [6, 20], 0.0
    for spacing in SPACINGS:
        yield name, {**STABLE_DIFFUSION, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1, "timestep_spacing": spacing}, [6, 20], 0.0
    yield name, {**STABLE_DIFFUSION, "beta_schedule": "squaredcos_cap_v2", "use_lu_lambdas": True}, [6, 20], 0.0
    yield name, {**STABLE_DIFFUSION, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, [6, 20], 0.0
    yield name, {**STABLE_DIFFUSION, "algorithm_type": "deis", "solver_type": "bh2", "final_sigmas_type": "sigma_min"}, [6], 0.0

    name = "DPMSolverSinglestepScheduler"
    yield from every(name, spacings=["leading"], curves=CURVES)
    for algorithm in ["dpmsolver++", "dpmsolver", "sde-dpmsolver++"]:
        for solver in ["midpoint", "heun"]:
            for order in [1, 2, 3]:
                options = {"algorithm_type": algorithm, "solver_type": solver, "solver_order": order}
                for end in ["zero", "sigma_min"] if algorithm.endswith("++") else ["sigma_min"]:
                    for lowers in [True, False]:
                        yield name, {**STABLE_DIFFUSION, **options, "final_sigmas_type": end, "lower_order_final": lowers}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 20], 0.0
    yield name, {**STABLE_DIFFUSION, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}, [6, 20], 0.0

    name = "DEISMultistepScheduler"
    yield from every(name, curves=CURVES)
    for order in [1, 2, 3]:
        for lowers in [True, False]:
            yield name, {**STABLE_DIFFUSION, "solver_order": order, "lower_order_final": lowers}, [1, 2, 3, 6, 20], 0.0
            yield name, {**STABLE_DIFFUSION, "solver_order": order, "lower_order_final": lowers, "use_karras_sigmas": True}, [6, 20], 0.0
    yield name, {**STABLE_DIFFUSION, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}, [6], 0.0

    name = "UniPCMultistepScheduler"
    yield from every(name, curves=CURVES)
    for solver in ["bh1", "bh2"]:
        for order in [1, 2, 3]:
            for predicts_image in [True, False]:
                for lowers in [True, False]:
                    options = {"solver_type": solver, "solver_order": order, "predict_x0": predicts_image, "lower_order_final": lowers, "final_sigmas_type": "sigma_min"}
                    yield name, {**STABLE_DIFFUSION, **options}, [1, 2, 3, 6, 20], 0.0
        yield name, {**STABLE_DIFFUSION, "solver_type": solver, "solver_order": 3, "final_sigmas_type": "sigma_min", "disable_corrector": [0, 1, 4]}, [6, 20], 0.0
    for changes in [zero_snr, {"solver_type": "midpoint"}, {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}]:
        yield name, {**STABLE_DIFFUSION, **changes}, [6, 20], 0.0


def output_of(sample, timestep):
    """A model of one number; smooth, bounded, and different at each timestep."""
    return 0.5 * sample / (1.0 + abs(sample)) + 0.3 * math.cos(float(timestep) / 100.0)


def draw(number):
    """The noise of a draw: any fixed numbers do."""
    return math.sin(1.0 + 2.0 * number)


def evaluation_sigmas(scheduler):
    """σ at each evaluation and after the last; empty where the class has no sigmas."""
    if not hasattr(scheduler, "sigmas"):
        return []
    sigmas = scheduler.sigmas.tolist()
    if not hasattr(scheduler, "sigmas_interpol"):
        return sigmas
    # Every second evaluation of these classes lies between two sigmas.
    between = scheduler.sigmas_interpol.tolist()
    shift = 1 if hasattr(scheduler, "sigmas_up") else 0
    count = len(scheduler.timesteps)
    return [between[index - shift] if index % 2 else sigmas[index] for index in range(count)] + [0.0]


def begin(scheduler, steps, first):
    """The scheduler as a pipeline leaves it before the first step."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    for name in TABLES:
        if isinstance(getattr(scheduler, name, None), torch.Tensor):
            setattr(scheduler, name, getattr(scheduler, name).double())


def way(scheduler, steps, first, eta):
    """Where the number is after each step from evaluation `first` on, the input scales, and how often noise was drawn."""
    begin(scheduler, steps, first)
    draws = 0

    def drawn(shape, **_):
        nonlocal draws
        draws += 1
        return torch.full(shape, draw(draws - 1), dtype=torch.float64)

    for module in list(sys.modules.values()):
        if module.__name__.startswith("diffusers.schedulers.") and hasattr(module, "randn_tensor"):
            module.randn_tensor = drawn
    sample = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64) * float(scheduler.init_noise_sigma)
    passed, scales = [], []
    extra = {"eta": eta} if "eta" in inspect.signature(scheduler.step).parameters else {}
    for timestep in scheduler.timesteps[first:]:
        scaled = scheduler.scale_model_input(sample, timestep)
        scales.append(float(scaled / sample))
        output = torch.full((1, 1, 1, 1), output_of(float(scaled), timestep), dtype=torch.float64)
        sample = scheduler.step(output, timestep, sample, **extra).prev_sample.to(torch.float64)
        passed.append(float(sample))
    if not all(map(math.isfinite, passed)):
        raise ArithmeticError(f"{type(scheduler).__name__} {dict(scheduler.config)} {steps}: {passed}")
    return passed, scales, draws


def mixes(scheduler, steps):
    """How latents and noise mix at the beginning, in the middle and at the end, and within the first step."""
    if not hasattr(scheduler, "add_noise"):
        return []
    begin(scheduler, steps, 0)
    count = len(scheduler.timesteps)
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    found = []
    for index in sorted({0, min(1, count - 1), count // 2, count - 1}):
        scheduler._step_index = index
        timestep = scheduler.timesteps[index : index + 1]
        signal, noise = scheduler.add_noise(one, zero, timestep), scheduler.add_noise(zero, one, timestep)
        found.append([index, rounded(float(signal)), rounded(float(noise))])
    return found


def run(make, steps, eta):
    scheduler = make()
    whole, scales, draws = way(scheduler, steps, 0, eta)
    ways = [[0, draws, thin(whole)]]
    if steps >= 4:
        first = steps // 3 * scheduler.order
        passed, _, draws = way(make(), steps, first, eta)
        ways.append([first, draws, thin(passed)])
    return {
        "steps": steps,
        "timesteps": thin(scheduler.timesteps.tolist()),
        "sigmas": thin(evaluation_sigmas(scheduler)),
        "init_noise_sigma": rounded(float(scheduler.init_noise_sigma)),
        "scales": thin(scales) if any(scale != 1.0 for scale in scales) else thin([]),
        "mixes": mixes(make(), steps),
        "ways": ways,
    }


def thin(values):
    """Length, stride, and every stride-th value counted from the end, so that the last is among them."""
    stride = max(1, len(values) // 8)
    return [len(values), stride, [rounded(value) for value in values[::-1][::stride]]]


def rounded(value):
    return float(f"{value:.9g}")


def main():
    lines = []
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    for name, config, steps, eta in cases():
        fresh = getattr(diffusers, name).from_config(config)
        runs = [run(lambda: copy.deepcopy(fresh), count, eta) for count in steps]
        lines.append(json.dumps({"class": name, "config": config, "eta": eta, "runs": runs}, separators=(",", ":")))
    (HERE / "reference.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
