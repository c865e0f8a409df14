"""Draws scenes with antialiased edges; the ground truth for training and for the judge."""

import math
import random

import numpy
from PIL import Image, ImageDraw

from grammar import ANY_SIZE, CENTRE_JITTER, COLOURS, HELD_OUT_SET, SHAPES, SIZES, Scene

IMAGE_SIZE = 64
SUPERSAMPLING = 4  # each pixel is the mean of 4 x 4 samples


def outline(shape: str, radius: float, x: float, y: float, turn: float = 0.0) -> list[tuple[float, float]]:
    """Corners of a polygonal shape around (x, y), in pixels; `turn` in radians."""
    if shape == "square":
        polar = [(1.24 * radius, math.pi / 4 + k * math.pi / 2) for k in range(4)]
    elif shape == "triangle":
        # Lowered a little, so that the triangle's bounding box is centred.
        y += 0.29 * radius * math.cos(turn)
        polar = [(1.2 * radius, -math.pi / 2 + k * 2 * math.pi / 3) for k in range(3)]
    elif shape == "star":
        lengths = (1.16 * radius, 0.48 * radius)
        polar = [(lengths[k % 2], -math.pi / 2 + k * math.pi / 5) for k in range(10)]
    elif shape == "cross":
        arm, half = radius, 0.34 * radius
        corners = [(half, -arm), (half, -half), (arm, -half), (arm, half), (half, half), (half, arm),
                   (-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half), (-half, -arm)]
        polar = [(math.hypot(a, b), math.atan2(b, a)) for a, b in corners]
    else:
        raise ValueError(f"no outline for {shape!r}: a circle is drawn as an ellipse, the rest are {SHAPES}")
    return [(x + r * math.cos(a + turn), y + r * math.sin(a + turn)) for r, a in polar]


def coverage(shape: str, radius: float, x: float, y: float, turn: float = 0.0) -> numpy.ndarray:
    """How much of each pixel the shape covers: f32 [64, 64] in 0...1; positions in pixels."""
    scale = SUPERSAMPLING
    canvas = Image.new("L", (IMAGE_SIZE * scale, IMAGE_SIZE * scale), 0)
    draw = ImageDraw.Draw(canvas)
    if shape == "circle":
        box = [x - radius, y - radius, x + radius, y + radius]
        draw.ellipse([value * scale - 0.5 for value in box], fill=255)
    else:
        points = outline(shape, radius, x, y, turn)
        draw.polygon([(a * scale - 0.5, b * scale - 0.5) for a, b in points], fill=255)
    small = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return numpy.asarray(small, dtype=numpy.float32) / 255.0


def paint(canvas: numpy.ndarray, mask: numpy.ndarray, colour: tuple[int, int, int]) -> numpy.ndarray:
    """`canvas` f32 [64, 64, 3] in 0...255 with `colour` laid over it where `mask` covers."""
    return canvas + mask[:, :, None] * (numpy.array(colour, dtype=numpy.float32) - canvas)


def plain(colour: tuple[int, int, int]) -> numpy.ndarray:
    canvas = numpy.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=numpy.float32)
    canvas[:] = colour
    return canvas


def finish(canvas: numpy.ndarray) -> numpy.ndarray:
    return numpy.clip(numpy.rint(canvas), 0, 255).astype(numpy.uint8)


def render(scene: Scene, rng: random.Random) -> numpy.ndarray:
    """One picture of the scene, u8 [64, 64, 3]; its exact size and place are drawn from `rng`."""
    radius = rng.uniform(*(SIZES[scene.size] if scene.size else ANY_SIZE))
    x, y = (IMAGE_SIZE / 2 + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER) for _ in range(2))
    mask = coverage(scene.shape, radius, x, y)
    return finish(paint(plain(COLOURS[scene.painted_background]), mask, COLOURS[scene.colour]))


def render_free(rng: random.Random) -> numpy.ndarray:
    """One to three shapes of any colour, size, place and turn, u8 [64, 64, 3].

    Only the autoencoder learns from these, so that it is not lost on pictures outside the grammar.
    Held-out triples stay out of them too.
    """
    def colour() -> tuple[str | None, tuple[int, int, int]]:
        if rng.random() < 0.5:
            return rng.choice(list(COLOURS.items()))
        return None, tuple(rng.randint(0, 255) for _ in range(3))

    background, background_rgb = colour()
    canvas = plain(background_rgb)
    for _ in range(rng.randint(1, 3)):
        name, rgb = colour()
        shape = rng.choice(SHAPES)
        if (name, shape, background) in HELD_OUT_SET:
            continue
        x, y = rng.uniform(8, 56), rng.uniform(8, 56)
        mask = coverage(shape, rng.uniform(6, 22), x, y, rng.uniform(0, 2 * math.pi))
        canvas = paint(canvas, mask, rgb)
    return finish(canvas)
