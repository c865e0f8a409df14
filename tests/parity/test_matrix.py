"""The whole matrix: every family with every sampler that it can have, from a folder and from the single file that was made of it."""

import re
import subprocess
import zlib

import numpy
import pytest

import family_reference
import flow_reference
import table
import task_reference
from cases import Case
from family_cases import TEXT_TO_IMAGE
from matrix_cases import DIFFUSION_CELLS, FLOW_CELLS
from runtime_trace import TraceFailed, trace


def check(case, folder, file, expected, tensors, runtime_binary, agree, scratch):
    from_folder = trace(runtime_binary, folder, case.request(), expected.draws | tensors, scratch, "folder")
    from_file = trace(runtime_binary, file, case.request(), expected.draws | tensors, scratch, "file", ["--config", folder])
    agree(case, folder, expected, from_folder)
    agree(case, folder, expected, from_file, source=table.FILE)
    for name in ["step_latents", "image"]:
        assert numpy.array_equal(from_file[name], from_folder[name]), f"{name} of the single file are others"


@pytest.mark.parametrize("case", DIFFUSION_CELLS, ids=lambda case: case.name)
def test_unets_agree_from_both_sources(case, runtime_binary, family_folders, family_files, family_pipeline, agree, tmp_path):
    seed = zlib.crc32(case.name.encode())
    sent = None if case.task == TEXT_TO_IMAGE else task_reference.pictures(case, seed)
    expected = family_reference.run(family_pipeline(case.pipeline), case, seed, sent)
    tensors = sent.tensors() if sent else {}
    check(case, family_folders[case.pipeline], family_files(case.pipeline), expected, tensors, runtime_binary, agree, tmp_path)


@pytest.mark.parametrize("case", FLOW_CELLS, ids=lambda case: case.name)
def test_transformers_agree_from_both_sources(case, runtime_binary, flow_folders, flow_files, flow_pipelines_of, agree, tmp_path):
    expected = flow_reference.run(flow_pipelines_of(case.pipeline), case, zlib.crc32(case.name.encode()))
    check(case, flow_folders[case.pipeline], flow_files(case.pipeline), expected, {}, runtime_binary, agree, tmp_path)


def test_no_family_and_no_sampler_is_left_out(runtime_binary, folders, tmp_path):
    refused = subprocess.run([runtime_binary, "inspect", "--expect", "none"], capture_output=True, text=True)
    families = re.search("these are: (.*)", refused.stderr)[1].split(", ")
    with pytest.raises(TraceFailed) as refusal:
        trace(runtime_binary, folders["base"], Case("unknown", sampler="none").request(), {}, tmp_path, "unknown")
    samplers = re.search("choose one of (.*)", str(refusal.value))[1].split(", ")
    cells = DIFFUSION_CELLS + FLOW_CELLS
    assert {table.FAMILIES.get(case.pipeline, case.pipeline) for case in cells} == set(families) == set(table.ORDER)
    assert {case.sampler for case in cells} == set(samplers)
