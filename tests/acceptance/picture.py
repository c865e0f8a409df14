"""Says what a picture of the demo model shows: the colours, and whether the shape is a circle or a square."""

import io

import numpy
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 40),
    "purple": (140, 50, 170),
    "orange": (240, 140, 30),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
BORDER_PIXELS = 3
SMALLEST_SHAPE_PIXELS = 40
# A disc fills π/4 of its bounding box; soft edges move that by a few hundredths. A square fills all, a triangle half.
CIRCLE_FILL = (0.68, 0.9)
SQUARE_FILL = 0.93
STRAY_PIXELS = 2


def look(png: bytes):
    """{"background", "shape_colour", "shape" (circle, square or other), "size" (width, height)} of a PNG."""
    nearest = nearest_colours(png)
    height, width = nearest.shape
    border = numpy.ones_like(nearest, dtype=bool)
    border[BORDER_PIXELS:-BORDER_PIXELS, BORDER_PIXELS:-BORDER_PIXELS] = False
    background = commonest(nearest[border])
    # Wherever it lies; a surface with hardly another pixel has none.
    others = nearest[nearest != background]
    shape = commonest(others) if others.size >= SMALLEST_SHAPE_PIXELS else background
    names = list(COLOURS)
    return {
        "background": names[background],
        "shape_colour": names[shape],
        "shape": shape_of(nearest == shape),
        "size": (width, height),
    }


def nearest_colours(png: bytes):
    """[height, width]: the number of the nearest of the colours."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n"), "not a PNG"
    pixels = numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=numpy.float32)
    palette = numpy.array(list(COLOURS.values()), dtype=numpy.float32)
    return ((pixels[:, :, None] - palette) ** 2).sum(-1).argmin(-1)


def commonest(places):
    return int(numpy.bincount(places.ravel()).argmax())


def colour_within(png: bytes, nearer: float, further: float):
    """The commonest colour between two distances from the middle, in pixels."""
    nearest = nearest_colours(png)
    height, width = nearest.shape
    rows, columns = numpy.indices(nearest.shape)
    distance = numpy.hypot(rows + 0.5 - height / 2, columns + 0.5 - width / 2)
    return list(COLOURS)[commonest(nearest[(distance >= nearer) & (distance <= further)])]


def same_pixels(first: bytes, second: bytes):
    """Whether two PNGs show exactly the same, whatever else is written in them."""
    return Image.open(io.BytesIO(first)).tobytes() == Image.open(io.BytesIO(second)).tobytes()


def shape_of(inside):
    """By how much of its bounding box it fills; rows and columns with a stray pixel or two do not count."""
    lines = [numpy.flatnonzero(inside.sum(axis) > STRAY_PIXELS) for axis in (1, 0)]
    if not all(len(line) for line in lines):
        return "other"
    (top, bottom), (left, right) = [(line[0], line[-1] + 1) for line in lines]
    box = inside[top:bottom, left:right]
    if max(box.shape) > 1.25 * min(box.shape):
        return "other"
    # A triangle's weight lies a sixth of its height below the middle.
    off_centre = [abs(places.mean() + 0.5 - extent / 2) / extent for places, extent in zip(numpy.nonzero(box), box.shape)]
    if max(off_centre) > 0.08:
        return "other"
    fill = box.mean()
    if CIRCLE_FILL[0] <= fill <= CIRCLE_FILL[1]:
        return "circle"
    return "square" if fill >= SQUARE_FILL else "other"
