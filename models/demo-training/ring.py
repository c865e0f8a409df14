"""A shape that the demo model was never taught, for its LoRA: words, pictures and judge.

A ring is a disc with a round hole. The judge tells it from every shape of the base by pixels alone.
"""

import random

import numpy

from grammar import ANY_SIZE, CENTRE_JITTER, COLOURS, SIZES, Scene, canonical_prompt, loose_prompt
from judge import BORDER_PX, MIN_CONTRAST, MIN_OVERLAP, RADII, best_template, nearest_colour, shifted, stand_out
from render import IMAGE_SIZE, coverage, finish, paint, plain

SHAPE = "ring"
HOLE = 0.55  # the hole's radius as a share of the ring's
MAX_SHIFT_PX = 5
# Left out of the training: rings of these colours on these backgrounds are drawn from what colours and rings have in common.
HELD_OUT = {("red", "white"), ("blue", "yellow"), ("green", "black"), ("white", "purple")}


def training_scene(rng: random.Random) -> Scene:
    """A ring in any colours but the held-out ones; sizes and backgrounds are left unsaid as often as for the base."""
    while True:
        colour, background = rng.sample(list(COLOURS), 2)
        scene = Scene(colour, SHAPE, None if rng.random() < 0.15 else background, rng.choice((None, "small", "large")))
        if (colour, scene.painted_background) not in HELD_OUT:
            return scene


def training_prompt(scene: Scene, rng: random.Random) -> str:
    """Without empty prompts: what an adapter says to nothing at all is the base's affair."""
    return canonical_prompt(scene) if rng.random() < 0.75 else loose_prompt(scene, rng)


def ring(radius: float, x: float, y: float) -> numpy.ndarray:
    """How much of each pixel the ring covers: f32 [64, 64] in 0...1."""
    return coverage("circle", radius, x, y) - coverage("circle", HOLE * radius, x, y)


def render(scene: Scene, rng: random.Random) -> numpy.ndarray:
    """One picture of the scene, u8 [64, 64, 3]; its exact size and place are drawn from `rng`."""
    radius = rng.uniform(*(SIZES[scene.size] if scene.size else ANY_SIZE))
    x, y = (IMAGE_SIZE / 2 + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER) for _ in range(2))
    return finish(paint(plain(COLOURS[scene.painted_background]), ring(radius, x, y), COLOURS[scene.colour]))


def ring_overlap(mask: numpy.ndarray) -> float:
    """Intersection over union of `mask` with the best ring, over all radii and small shifts."""
    middle = IMAGE_SIZE / 2
    masks = numpy.stack([ring(radius, middle, middle) > 0.5 for radius in RADII])
    best = 0.0
    for dy in range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1):
        for dx in range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1):
            moved = shifted(masks, dy, dx)
            best = max(best, float(((moved & mask).sum((1, 2)) / (moved | mask).sum((1, 2))).max()))
    return best


def judge(image: numpy.ndarray, asked: Scene) -> tuple[bool, bool]:
    """Whether `image`, u8 [64, 64, 3], shows a ring, better than any shape of the base; and whether in the colours asked for."""
    pixels = image.astype(numpy.float32)
    border = numpy.ones(image.shape[:2], bool)
    border[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    background = numpy.median(pixels[border], 0)
    distance = numpy.linalg.norm(pixels - background, axis=2)
    contrast = float(numpy.percentile(distance, 98))
    if contrast < MIN_CONTRAST:
        return False, False
    inner, mask = stand_out(pixels, background, distance > 0.75 * contrast)
    overlap = ring_overlap(mask)
    is_ring = overlap >= MIN_OVERLAP and overlap > best_template(mask)[2]
    return is_ring, (nearest_colour(inner), nearest_colour(background)) == (asked.colour, asked.painted_background)
