"""Writes flow_reference.json: what diffusers' schedulers of flow matching make of many options, step counts and sizes of images.

As make_reference.py, whose ways and numbers these are. A case also says how many tokens the image has, and whether the pipeline lays the
noise levels out evenly, as Flux's does.

Needs diffusers 0.36.0 and, for the beta sigmas, scipy.
"""

import json
import math
import pathlib

import diffusers
import numpy
import torch

from make_reference import draw, output_of, rounded, thin

HERE = pathlib.Path(__file__).parent
STEPS = [1, 2, 3, 4, 7, 20, 28, 50]
FEW = [2, 5, 20]
CURVES = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
EULER, HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"


def cases():
    """Class, configuration, steps, image tokens, even sigmas."""
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "shift": 3.0}
    for even in [False, True]:
        yield EULER, {}, STEPS, 4096, even
        yield EULER, {"shift": 3.0}, STEPS, 4096, even
        yield EULER, {"shift": 0.5, "num_train_timesteps": 500}, FEW, 4096, even
        for tokens in [64, 256, 1024, 4096, 16384]:
            yield EULER, dynamic, FEW, tokens, even
        yield EULER, {"use_dynamic_shifting": True}, FEW, 2000, even
        yield EULER, {**dynamic, "time_shift_type": "linear"}, FEW, 4096, even
        yield EULER, {"shift_terminal": 0.1, "shift": 2.0}, FEW, 4096, even
        yield EULER, {**dynamic, "shift_terminal": 0.02}, FEW, 1024, even
        yield EULER, {"shift": 3.0, "stochastic_sampling": True}, FEW, 4096, even
        for curve in CURVES:
            yield EULER, {"shift": 3.0, curve: True}, FEW, 4096, even
            yield EULER, {**dynamic, curve: True}, FEW, 1024, even
    yield HEUN, {}, STEPS, 4096, False
    yield HEUN, {"shift": 3.0}, STEPS, 4096, False
    yield HEUN, {"shift": 0.5, "num_train_timesteps": 500}, FEW, 4096, False


def begin(scheduler, steps, first, tokens, even):
    asked = {}
    if scheduler.config.get("use_dynamic_shifting"):
        config = scheduler.config
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        asked["mu"] = tokens * slope + config.base_shift - slope * config.base_image_seq_len
    if even:
        asked["sigmas"] = numpy.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(steps, **asked)
    scheduler.set_begin_index(first)
    scheduler.sigmas = scheduler.sigmas.double()


def way(scheduler, steps, first, tokens, even):
    begin(scheduler, steps, first, tokens, even)
    draws = 0

    def drawn(like):
        nonlocal draws
        draws += 1
        return torch.full(like.shape, draw(draws - 1), dtype=torch.float64)

    original, torch.randn_like = torch.randn_like, drawn
    sample = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    passed = []
    for timestep in scheduler.timesteps[first:]:
        output = torch.full((1, 1, 1, 1), output_of(float(sample), timestep), dtype=torch.float64)
        sample = scheduler.step(output, timestep, sample).prev_sample.to(torch.float64)
        passed.append(float(sample))
    torch.randn_like = original
    assert all(map(math.isfinite, passed)), (scheduler, steps, passed)
    return passed, draws


def mixes(scheduler, steps, tokens, even):
    begin(scheduler, steps, 0, tokens, even)
    count = len(scheduler.timesteps)
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    found = []
    for index in sorted({0, min(1, count - 1), count // 2, count - 1}):
        scheduler._step_index = index
        timestep = scheduler.timesteps[index : index + 1]
        signal, noise = scheduler.scale_noise(one, timestep, zero), scheduler.scale_noise(zero, timestep, one)
        found.append([index, rounded(float(signal)), rounded(float(noise))])
    return found


def run(make, steps, tokens, even):
    scheduler = make()
    whole, draws = way(scheduler, steps, 0, tokens, even)
    ways = [[0, draws, thin(whole)]]
    if steps >= 4:
        first = steps // 3 * scheduler.order
        passed, draws = way(make(), steps, first, tokens, even)
        ways.append([first, draws, thin(passed)])
    return {
        "steps": steps,
        "timesteps": thin(scheduler.timesteps.tolist()),
        "sigmas": thin(scheduler.sigmas.tolist()),
        "init_noise_sigma": 1.0,
        "scales": thin([]),
        "mixes": mixes(make(), steps, tokens, even),
        "ways": ways,
    }


def main():
    lines = []
    torch.set_num_threads(1)
    for name, config, steps, tokens, even in cases():
        make = lambda: getattr(diffusers, name).from_config(config)
        # One step cannot be stretched.
        counts = [count for count in steps if count > 1 or "shift_terminal" not in config]
        runs = [run(make, count, tokens, even) for count in counts]
        asked = {"image_tokens": tokens, "even_sigmas": even}
        lines.append(json.dumps({"class": name, "config": config, "eta": 0.0, "asked": asked, "runs": runs}, separators=(",", ":")))
    (HERE / "flow_reference.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
