"""The comparison can fail: each limit is crossed by a value just beyond it, and held by one just below."""

import numpy
import pytest

import comparison
from cases import Case
from comparison import Distance
from reference import Images
from table import FILE, FOLDER, Table


@pytest.fixture
def expected():
    generator = numpy.random.default_rng(1)
    latents = generator.standard_normal((3, 2, 4, 8, 16), dtype=numpy.float32)
    return Images({}, latents, generator.random((2, 64, 128, 3), dtype=numpy.float32))


def nudged(array, place, amount):
    changed = array.copy()
    changed[place] += amount
    return changed


@pytest.mark.parametrize("call", [0, 1, 2])
@pytest.mark.parametrize(("share", "agrees"), [(0.5e-4, True), (2e-4, False)])
def test_one_latent_beyond_the_tolerance_is_seen_at_any_step(expected, call, share, agrees):
    amount = share * numpy.abs(expected.step_latents[call]).max()
    ours = nudged(expected.step_latents, (call, 1, 2, 3, 4), amount)
    assert (not comparison.measure(expected, ours, expected.image).complaints()) == agrees


@pytest.mark.parametrize(("steps", "agrees"), [(1.5, True), (2.5, False)])
def test_one_pixel_beyond_the_tolerance_is_seen(expected, steps, agrees):
    ours = nudged(expected.image, (0, 1, 2, 0), steps / 255)
    assert (not comparison.measure(expected, expected.step_latents, ours).complaints()) == agrees


def test_a_value_that_is_no_number_never_agrees(expected):
    for place in [(0, 0, 0, 0, 0), (2, 1, 3, 7, 15)]:
        ours = nudged(expected.step_latents, place, numpy.nan)
        assert comparison.measure(expected, ours, expected.image).complaints()
    ours = nudged(expected.image, (0, 0, 0, 0), numpy.nan)
    assert comparison.measure(expected, expected.step_latents, ours).complaints()


def test_swapped_height_and_width_are_an_error(expected):
    with pytest.raises(AssertionError, match="step_latents is"):
        comparison.measure(expected, expected.step_latents.swapaxes(3, 4), expected.image)
    with pytest.raises(AssertionError, match="image is"):
        comparison.measure(expected, expected.step_latents, expected.image.swapaxes(1, 2))


def test_a_missing_step_is_an_error(expected):
    with pytest.raises(AssertionError, match="step_latents is"):
        comparison.measure(expected, expected.step_latents[:-1], expected.image)


def test_the_table_keeps_the_worst_of_each_cell(tmp_path):
    (tmp_path / "model_index.json").write_text('{"scheduler": ["diffusers", "DDIMScheduler"]}')
    table = Table()
    table.add(Case("own sampler", pipeline="half"), tmp_path, FOLDER, Distance([1e-6, 5e-6, 2e-6], 0.5 / 255))
    table.add(Case("the same"), tmp_path, FOLDER, Distance([3e-6], 1.5 / 255))
    table.add(Case("from a file"), tmp_path, FILE, Distance([4e-6], 0.1 / 255))
    table.add(Case("another", pipeline="sdxl-lcm", sampler="LCMScheduler"), tmp_path, FOLDER, Distance([7e-6], 0))
    _, first, second, *rest = table.lines()
    assert first.split() == ["sd15", "DDIMScheduler", "3", "5.0e-06", "4.0e-06", "1.500/255"]
    assert second.split() == ["sdxl", "LCMScheduler", "1", "7.0e-06", "-", "0.000/255"]
    assert "4 cases, latents 7.0e-06" in rest[0] and "1.500/255" in rest[1]
