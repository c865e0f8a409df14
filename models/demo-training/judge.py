"""Says what a 64 x 64 picture shows, from its pixels alone; knows nothing of what was asked for.

Background: the colour of the border. Shape colour: the middle of what differs from it. Both are
named by the nearest of the eight colours. Shape and size: the rendered outline, over all radii and
small shifts, that overlaps best; below MIN_OVERLAP the picture shows no shape.
"""

from dataclasses import dataclass
from functools import cache

import numpy

from grammar import COLOURS, SHAPES, SIZES, Scene
from render import IMAGE_SIZE, coverage

BORDER_PX = 3  # the largest star reaches to 2 px from the edge, only with its tips
MIN_CONTRAST = 40.0  # RGB distance below which nothing stands out from the background
MIN_OVERLAP = 0.70  # intersection over union
MIN_PLAIN_BORDER = 0.85  # share of the border that has the background's colour
MAX_COLOUR_ERROR = 75.0  # RGB distance to the named colour; beyond it the colour has no name
MAX_SHIFT_PX = 5  # "centred" is this near to the middle, in x and in y
RADII = tuple(numpy.arange(7.0, 29.25, 0.5))
SMALL_BELOW = (SIZES["small"][1] + SIZES["large"][0]) / 2
NUDGES = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


@dataclass(frozen=True)
class Reading:
    """What the pixels show; None where they show nothing that has a name."""

    colour: str | None
    shape: str | None
    background: str | None
    size: str | None
    overlap: float
    centred: bool


@dataclass(frozen=True)
class Verdict:
    """Which parts of a request a picture fulfils; `size` is true where none was asked for."""

    colour: bool
    background: bool
    shape: bool
    size: bool
    centred: bool

    @property
    def colours(self) -> bool:
        return self.colour and self.background

    @property
    def everything(self) -> bool:
        return self.colours and self.shape and self.size and self.centred


def nearest_colour(rgb: numpy.ndarray) -> str | None:
    distances = {name: float(numpy.linalg.norm(rgb - numpy.array(value))) for name, value in COLOURS.items()}
    name = min(distances, key=distances.get)
    return name if distances[name] <= MAX_COLOUR_ERROR else None


@cache
def templates() -> tuple[numpy.ndarray, list[tuple[str, float]], numpy.ndarray]:
    """Masks bool [n, 64, 64] in the middle, their (shape, radius), their centroids [n, 2] (y, x)."""
    labels = [(shape, radius) for shape in SHAPES for radius in RADII]
    masks = numpy.stack([coverage(s, r, IMAGE_SIZE / 2, IMAGE_SIZE / 2) > 0.5 for s, r in labels])
    return masks, labels, numpy.stack([centroid(mask) for mask in masks])


def centroid(mask: numpy.ndarray) -> numpy.ndarray:
    return numpy.argwhere(mask).mean(0)


def shifted(masks: numpy.ndarray, dy: int, dx: int) -> numpy.ndarray:
    """`masks` [n, h, w] moved by whole pixels; what leaves the picture is lost."""
    out = numpy.zeros_like(masks)
    height, width = masks.shape[1:]
    out[:, max(dy, 0):height + min(dy, 0), max(dx, 0):width + min(dx, 0)] = \
        masks[:, max(-dy, 0):height + min(-dy, 0), max(-dx, 0):width + min(-dx, 0)]
    return out


def best_template(mask: numpy.ndarray) -> tuple[str, float, float, int]:
    """(shape, radius in px, overlap, px from the middle) of the outline that overlaps `mask` best."""
    masks, labels, centres = templates()
    middle = centroid(mask)
    best = ("", 0.0, 0.0, IMAGE_SIZE)
    for shift in sorted({tuple(row) for row in numpy.rint(middle - centres).astype(int)}):
        rows = numpy.flatnonzero((numpy.rint(middle - centres).astype(int) == shift).all(1))
        for nudge in NUDGES:
            dy, dx = int(shift[0] + nudge[0]), int(shift[1] + nudge[1])
            moved = shifted(masks[rows], dy, dx)
            overlaps = (moved & mask).sum((1, 2)) / (moved | mask).sum((1, 2))
            top = int(overlaps.argmax())
            if overlaps[top] > best[2]:
                best = (*labels[rows[top]], float(overlaps[top]), max(abs(dy), abs(dx)))
    return best


def stand_out(pixels: numpy.ndarray, background: numpy.ndarray, surely: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The colour of what differs from the background, from where it `surely` does, and where it is: bool [h, w]."""
    inner = numpy.median(pixels[surely], 0)
    axis = inner - background
    return inner, (pixels - background) @ axis / (axis @ axis) > 0.5


def read(image: numpy.ndarray) -> Reading:
    """What `image`, u8 [64, 64, 3], shows."""
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"the judge reads {IMAGE_SIZE} x {IMAGE_SIZE} RGB pictures, not {image.shape}")
    pixels = image.astype(numpy.float32)
    ring = numpy.ones(image.shape[:2], bool)
    ring[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    background = numpy.median(pixels[ring], 0)
    distance = numpy.linalg.norm(pixels - background, axis=2)
    name = nearest_colour(background)
    if (distance[ring] < MIN_CONTRAST).mean() < MIN_PLAIN_BORDER:
        name = None
    contrast = float(numpy.percentile(distance, 98))
    if contrast < MIN_CONTRAST:
        return Reading(None, None, name, None, 0.0, False)
    inner, mask = stand_out(pixels, background, distance > 0.75 * contrast)
    shape, radius, overlap, offset = best_template(mask)
    seen = overlap >= MIN_OVERLAP
    return Reading(
        colour=nearest_colour(inner), shape=shape if seen else None, background=name,
        size=("small" if radius < SMALL_BELOW else "large") if seen else None,
        overlap=overlap, centred=seen and offset <= MAX_SHIFT_PX)


def judge(image: numpy.ndarray, asked: Scene) -> Verdict:
    seen = read(image)
    return Verdict(
        colour=seen.colour == asked.colour,
        background=seen.background == asked.painted_background,
        shape=seen.shape == asked.shape,
        size=asked.size is None or seen.size == asked.size,
        centred=seen.centred)
