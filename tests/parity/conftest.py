"""What the cases share: the binary, the pipelines, and the table at the end."""

import os
import pathlib

import pytest
import torch

import family_pipelines
import family_reference
import flow_pipelines
import flow_reference
import make_pipelines
import reference

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# These nets are too small to share: a second thread only waits for the first, badly so on a busy machine.
TORCH_THREADS = 1

# (case, worst share of the largest latent, worst image difference) of every comparison that was made
measured: list[tuple[str, float, float]] = []


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


@pytest.fixture(scope="session")
def record():
    return lambda name, latents, image: measured.append((name, latents, image))


def pytest_terminal_summary(terminalreporter):
    if not measured:
        return
    terminalreporter.section("parity with diffusers (f32)")
    terminalreporter.write_line(f"{'case':<44} {'latents, of 1e-4':>18} {'image, of 2/255':>18}")
    for name, latents, image in measured:
        terminalreporter.write_line(f"{name:<44} {latents:>18.2e} {image * 255:>14.3f}/255")
    worst = max(latents for _, latents, _ in measured), max(image for _, _, image in measured)
    terminalreporter.write_line(f"{'worst':<44} {worst[0]:>18.2e} {worst[1] * 255:>14.3f}/255")
