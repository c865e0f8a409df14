"""Weighted prompts mean what the written rule says: embeddings computed from it, handed to diffusers, make the same images."""

import zlib

import pytest

import comparison
import reference
from prompt_cases import WEIGHTED_CASES, WeightedCase
from runtime_trace import TraceFailed, trace
from weighted_reference import weighted_prompts


def run_reference(pipeline, case):
    with weighted_prompts(pipeline, case) as embeddings:
        return reference.run(pipeline, case, seed=zlib.crc32(case.name.encode()), embeddings=embeddings)


@pytest.mark.parametrize("case", WEIGHTED_CASES, ids=lambda case: case.name)
def test_weighted_prompts_follow_the_written_rule(case, runtime_binary, folders, pipelines, agree, tmp_path):
    expected = run_reference(pipelines(case.pipeline), case)
    ours = trace(runtime_binary, folders[case.pipeline], case.request(), expected.draws, tmp_path, "weighted")
    agree(case, folders[case.pipeline], expected, ours)


@pytest.mark.parametrize(
    ("asked", "other"),
    [("a (red:1.3) circle", "a (red:1.31) circle"), ("a red BREAK circle", "a red circle"), ("a (red) circle", "a [red] circle")],
)
def test_a_slightly_different_prompt_does_not_agree(asked, other, runtime_binary, folders, pipelines, tmp_path):
    expected = run_reference(pipelines("base"), WeightedCase("asked", prompt=asked))
    ours = trace(runtime_binary, folders["base"], WeightedCase("other", prompt=other).request(), expected.draws, tmp_path, "other")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a [red:blue:0.5] circle", "prompt editing"),
        ("a [red|blue] circle", "alternating"),
        ("a (red:100) circle", "weight 100"),
        ("a star, " * 2000, "chunks"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(prompt, named, runtime_binary, folders, tmp_path):
    with pytest.raises(TraceFailed, match=named):
        trace(runtime_binary, folders["base"], WeightedCase("refused", prompt=prompt).request(), {}, tmp_path, "refused")
