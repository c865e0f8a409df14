"""What the tasks are for, seen on the demo model's pictures by the judge it was trained with."""

import pathlib
import subprocess
import sys

import numpy
import PIL.Image
import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "models" / "demo-training"))
import judge  # noqa: E402

SEEDS = range(5)
# The model is small and errs now and then: so many of the seeds must come out.
ENOUGH = 4
MARGIN = 4  # pixels around the shape that the mask leaves black
SECONDS = 120


@pytest.fixture
def generate(runtime_binary, folders, tmp_path):
    def run(prompt, *, seed, **options):
        output = tmp_path / "made.png"
        arguments = {"model": folders["demo"], "prompt": prompt, "seed": seed, "steps": 20, "output": output} | options
        words = [word for name, value in arguments.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        finished = subprocess.run([runtime_binary, "generate", *words], capture_output=True, text=True, timeout=SECONDS)
        assert finished.returncode == 0, finished.stderr
        return numpy.asarray(PIL.Image.open(output).convert("RGB"))

    return run


@pytest.fixture
def red_circle(tmp_path):
    """A file with a red circle on blue, drawn by no model."""
    rows, columns = numpy.indices((64, 64)) - 31.5
    picture = numpy.full((64, 64, 3), (30, 60, 220), numpy.uint8)
    picture[rows**2 + columns**2 < 21**2] = (220, 30, 30)
    PIL.Image.fromarray(picture).save(tmp_path / "red.png")
    seen = judge.read(picture)
    assert (seen.colour, seen.shape, seen.background) == ("red", "circle", "blue")
    return tmp_path / "red.png"


def readings(pictures):
    return [(seen.colour, seen.shape) for seen in map(judge.read, pictures)]


def test_image_to_image_keeps_the_picture_at_low_strength_and_leaves_it_at_high(generate, red_circle):
    def made(strength):
        prompt, options = "a large green square on a blue background", {"guidance_scale": 1, "strength": strength}
        return readings(generate(prompt, seed=seed, image=red_circle, **options) for seed in SEEDS)

    assert made(0.1).count(("red", "circle")) >= ENOUGH
    assert made(0.95).count(("green", "square")) >= ENOUGH


def test_inpainting_turns_a_red_circle_green_and_leaves_the_rest(generate, red_circle, tmp_path):
    mask = numpy.zeros((64, 64), numpy.uint8)
    mask[MARGIN:-MARGIN, MARGIN:-MARGIN] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    original = numpy.asarray(PIL.Image.open(red_circle))
    pictures = [
        generate("a large green circle on a blue background", seed=seed, image=red_circle, mask_image=tmp_path / "mask.png")
        for seed in SEEDS
    ]
    for picture in pictures:
        assert numpy.array_equal(picture[mask == 0], original[mask == 0])
    assert readings(pictures).count(("green", "circle")) >= ENOUGH


def test_outpainting_keeps_the_picture_and_draws_around_it(generate, red_circle):
    original = numpy.asarray(PIL.Image.open(red_circle))
    made = generate("a large red circle on a blue background", seed=1, image=red_circle, margins="8,0,0,16", mask_blur=6)
    assert made.shape == (80, 72, 3)
    # The fade is 6 pixels deep along the left and the lower side.
    assert numpy.array_equal(made[: 64 - 6, 8 + 6 :], original[:-6, 6:])
    assert not numpy.array_equal(made[:64, 8:], original)
    # An edge drawn out would be one colour a column, or a row.
    assert made[64:].std(axis=0).mean() > 1
