"""What the cases share: the binary, the pipelines, and the table at the end."""

import os
import pathlib

import pytest
import torch

import comparison
import family_pipelines
import family_reference
import flow_pipelines
import flow_reference
import make_pipelines
import reference
import single_files
from table import FOLDER, Table

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# These nets are too small to share: a second thread only waits for the first, badly so on a busy machine.
TORCH_THREADS = 1

measured = Table()


@pytest.fixture(scope="session")
def runtime_binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    binary = pathlib.Path(os.environ.get("EMULSION_RUNTIME", target / "debug" / "emulsion-runtime"))
    assert binary.is_file(), f"{binary} is not there: build it (cargo build -p runtime) or name one in EMULSION_RUNTIME"
    return binary


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Each pipeline's folder by name; the demo model is the repository's unless EMULSION_DEMO_MODEL names one."""
    torch.set_num_threads(TORCH_THREADS)
    made = tmp_path_factory.mktemp("pipelines")
    make_pipelines.make(made)
    demo = pathlib.Path(os.environ.get("EMULSION_DEMO_MODEL", REPOSITORY / "models" / "demo"))
    return {name: made / name for name in ["base", "deep", "foreign-keys", "half", "inpainting"]} | {"demo": demo}


@pytest.fixture(scope="session")
def pipelines(folders):
    """diffusers' pipeline by name, each loaded once."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = reference.load(folders[name])
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def family_folders(folders):
    """Those of the families with a UNet, by name; they lie beside the others, whose tokenizer they have."""
    made = folders["base"].parent
    return folders | {name: made / name for name in family_pipelines.make(made)}


@pytest.fixture(scope="session")
def family_pipeline(family_folders):
    """diffusers' pipeline of a family with a UNet by name, each loaded once."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = family_reference.load(family_folders[name])
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def flow_folders(tmp_path_factory):
    """The folders of the pipelines of flow matching, by name."""
    torch.set_num_threads(TORCH_THREADS)
    made = tmp_path_factory.mktemp("flow")
    flow_pipelines.make(made)
    return {name: made / name for name in flow_pipelines.NAMES}


@pytest.fixture(scope="session")
def flow_pipelines_of(flow_folders):
    """diffusers' pipeline of flow matching by name, each loaded once."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = flow_reference.load(flow_folders[name])
        return loaded[name]

    return get


def files_of(folders, write, made):
    """The single file of a folder by name, each made once."""

    def get(name):
        file = made / f"{name}.safetensors"
        if not file.exists():
            write(folders[name], file)
        return file

    return get


@pytest.fixture(scope="session")
def family_files(family_folders, tmp_path_factory):
    """The single file of a folder with a UNet by name."""
    return files_of(family_folders, single_files.write, tmp_path_factory.mktemp("single-files"))


@pytest.fixture(scope="session")
def flow_files(flow_folders, tmp_path_factory):
    """The single file of a folder of flow matching by name."""
    return files_of(flow_folders, single_files.write_flow, tmp_path_factory.mktemp("single-flow-files"))


@pytest.fixture(scope="session")
def agree():
    """Holds what our own run of a case made against its reference, and keeps the difference for the table."""

    def check(case, folder, expected, ours, source=FOLDER):
        distance = comparison.measure(expected, ours["step_latents"], ours["image"])
        measured.add(case, folder, source, distance)
        assert not distance.complaints(), "\n".join(distance.complaints())

    return check


def pytest_terminal_summary(terminalreporter):
    if measured.cells:
        terminalreporter.section("parity with diffusers (f32)")
        for line in measured.lines():
            terminalreporter.write_line(line)
