"""The judge of pictures can fail: it tells colours and shapes apart on pictures that are known."""

import io
import itertools

import pytest
from PIL import Image, ImageDraw, ImageFilter

from picture import COLOURS, colour_within, look


def drawn(shape, colour, background, corners=(18, 18, 46, 46)):
    image = Image.new("RGB", (64, 64), COLOURS[background])
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = corners
    if shape == "circle":
        draw.ellipse(corners, fill=COLOURS[colour])
    elif shape == "square":
        draw.rectangle(corners, fill=COLOURS[colour])
    else:
        draw.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=COLOURS[colour])
    # As soft as the demo model's edges.
    output = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(1)).save(output, "PNG")
    return output.getvalue()


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_colours_and_shape_are_told(shape):
    for colour, background in itertools.permutations(["red", "blue", "yellow", "black", "white"], 2):
        seen = look(drawn(shape, colour, background))
        expected = shape if shape != "triangle" else "other"
        assert (seen["shape_colour"], seen["background"], seen["shape"]) == (colour, background, expected)


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_a_small_shape_is_told(shape):
    expected = shape if shape != "triangle" else "other"
    assert look(drawn(shape, "red", "blue", (25, 25, 39, 39)))["shape"] == expected


def test_a_shape_is_found_away_from_the_middle():
    seen = look(drawn("circle", "red", "blue", (38, 8, 60, 30)))
    assert (seen["shape_colour"], seen["background"], seen["shape"]) == ("red", "blue", "circle")


def test_colours_are_told_by_their_distance_from_the_middle():
    disc = drawn("circle", "red", "blue", (20, 20, 44, 44))
    assert (colour_within(disc, 0, 8), colour_within(disc, 15, 20)) == ("red", "blue")


def test_a_plain_surface_has_no_circle():
    seen = look(drawn("circle", "blue", "blue"))
    assert (seen["shape_colour"], seen["background"]) == ("blue", "blue")
    assert seen["shape"] != "circle"


def test_what_is_no_png_is_an_error():
    with pytest.raises(AssertionError, match="not a PNG"):
        look(b"<html>")
