"""The families of flow matching: same weights, same draws, same request, and the same latents at every step."""

import zlib

import pytest

import comparison
import flow_reference
import task_reference
from flow_cases import FLOW_CASES, HEUN, FlowCase
from runtime_trace import TraceFailed, trace
from task_cases import TaskCase
from test_parity import file_name


@pytest.mark.parametrize("case", FLOW_CASES, ids=lambda case: case.name)
def test_the_runtime_agrees_with_diffusers(case, runtime_binary, flow_folders, flow_pipelines_of, agree, tmp_path):
    seed = zlib.crc32(case.name.encode())
    sent = None
    if case.strength is not None:
        sent = task_reference.pictures(TaskCase("picture", task=case.task, image_size=(case.width, case.height)), seed)
    expected = flow_reference.run(flow_pipelines_of(case.pipeline), case, seed, sent)
    tensors = expected.draws | ({} if sent is None else sent.tensors())
    ours = trace(runtime_binary, flow_folders[case.pipeline], case.request(), tensors, tmp_path, file_name(case))
    agree(case, flow_folders[case.pipeline], expected, ours)


@pytest.mark.parametrize(
    ("pipeline", "change"),
    [
        ("sd3", {"prompt_2": "a small yellow star"}),
        ("sd3", {"prompt_3": "a small yellow star"}),
        ("sd3", {"max_sequence_length": 25}),
        ("sd3", {"sampler_options": {"shift": 3.05}}),
        ("flux-dev", {"guidance_scale": 3.6}),
        ("flux-dev", {"prompt_2": "a small yellow star"}),
        ("flux-dev", {"sampler_options": {"max_shift": 1.2}}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_slightly_different_request_does_not_agree(pipeline, change, runtime_binary, flow_folders, flow_pipelines_of, tmp_path):
    asked = FlowCase("asked", pipeline=pipeline, guidance_scale=3.5)
    expected = flow_reference.run(flow_pipelines_of(pipeline), asked, seed=5)
    ours = trace(runtime_binary, flow_folders[pipeline], asked.request() | change, expected.draws, tmp_path, "other")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


@pytest.mark.parametrize(
    ("pipeline", "change", "named"),
    [
        ("sd3", {"sampler": "EulerDiscreteScheduler"}, "flow matching"),
        ("flux-dev", {"sampler": HEUN}, HEUN),
        ("sd3", {"max_sequence_length": 513}, "max_sequence_length"),
        ("sd3", {"true_cfg_scale": 2.0}, "true_cfg_scale"),
        ("flux-dev", {"prompt_3": "x"}, "prompt_3"),
        ("flux-dev", {"clip_skip": 1}, "clip_skip"),
        ("sd3", {"width": 256}, "192"),
        ("flux-dev", {"width": 72}, "multiple of 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_a_family_cannot_do_is_refused_by_name(pipeline, change, named, runtime_binary, flow_folders, tmp_path):
    request = FlowCase("refused", pipeline=pipeline).request() | change
    with pytest.raises(TraceFailed, match=named):
        trace(runtime_binary, flow_folders[pipeline], request, {}, tmp_path, "refused")
