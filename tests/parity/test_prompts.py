"""Weighted prompts mean what the written rule says: embeddings computed from it, handed to diffusers, make the same images."""

import zlib

import pytest

import comparison
import family_reference
import flow_reference
import reference
import task_reference
from family_cases import TEXT_TO_IMAGE
from prompt_cases import WEIGHTED_CASES, WEIGHTED_FAMILY_CASES, WEIGHTED_FLOW_CASES, WeightedCase, WeightedFamilyCase
from runtime_trace import TraceFailed, trace
from weighted_reference import flow_prompts, weighted_prompts


def run_reference(pipeline, case):
    with weighted_prompts(pipeline, case) as embeddings:
        return reference.run(pipeline, case, seed=zlib.crc32(case.name.encode()), embeddings=embeddings)


@pytest.mark.parametrize("case", WEIGHTED_CASES, ids=lambda case: case.name)
def test_weighted_prompts_follow_the_written_rule(case, runtime_binary, folders, pipelines, agree, tmp_path):
    expected = run_reference(pipelines(case.pipeline), case)
    ours = trace(runtime_binary, folders[case.pipeline], case.request(), expected.draws, tmp_path, "weighted")
    agree(case, folders[case.pipeline], expected, ours)


def run_family_reference(pipeline, case):
    """Also the pictures that are sent, as tensors."""
    seed = zlib.crc32(case.name.encode())
    sent = None if case.task == TEXT_TO_IMAGE else task_reference.pictures(case, seed)
    # It is called through a pipeline of its own, with this one's denoiser.
    with weighted_prompts(pipeline, case) as embeddings:
        expected = family_reference.run(pipeline, case, seed, sent, embeddings=embeddings)
    return expected, sent.tensors() if sent else {}


@pytest.mark.parametrize("case", WEIGHTED_FAMILY_CASES, ids=lambda case: case.name)
def test_weights_act_on_every_text_encoder(case, runtime_binary, family_folders, family_pipeline, agree, tmp_path):
    expected, sent = run_family_reference(family_pipeline(case.pipeline), case)
    ours = trace(runtime_binary, family_folders[case.pipeline], case.request(), expected.draws | sent, tmp_path, "weighted")
    agree(case, family_folders[case.pipeline], expected, ours)


@pytest.mark.parametrize("case", WEIGHTED_FLOW_CASES, ids=lambda case: case.name)
def test_weights_act_on_clip_alone_where_there_is_t5(case, runtime_binary, flow_folders, flow_pipelines_of, agree, tmp_path):
    pipeline = flow_pipelines_of(case.pipeline)
    expected = flow_reference.run(pipeline, case, zlib.crc32(case.name.encode()), embeddings=flow_prompts(pipeline, case))
    ours = trace(runtime_binary, flow_folders[case.pipeline], case.request(), expected.draws, tmp_path, "weighted")
    agree(case, flow_folders[case.pipeline], expected, ours)


@pytest.mark.parametrize("change", [{"prompt": "a (red:1.31) circle"}, {"prompt_2": "a (castle:1.21)"}, {"negative_prompt_2": "(ugly:1.41)"}], ids=lambda change: next(iter(change)))
def test_slightly_different_weights_for_one_encoder_do_not_agree(change, runtime_binary, family_folders, family_pipeline, tmp_path):
    asked = {"prompt": "a (red:1.3) circle", "prompt_2": "a (castle:1.2)", "negative_prompt": "(ugly:1.3)", "negative_prompt_2": "(ugly:1.4)"}
    expected, _ = run_family_reference(family_pipeline("sdxl"), WeightedFamilyCase("asked", **asked))
    other = WeightedFamilyCase("other", **asked | change).request()
    ours = trace(runtime_binary, family_folders["sdxl"], other, expected.draws, tmp_path, "other")
    assert comparison.measure(expected, ours["step_latents"], ours["image"]).complaints()


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
