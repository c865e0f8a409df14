"""Writes reference.json: what Pillow and diffusers make of small pictures. Run with the tests' Python:

    $(tests/python/environment.sh) runtime/diffusion/tests/pictures/make_reference.py
"""

import json
import pathlib

import numpy
import PIL
import PIL.Image
from diffusers.image_processor import VaeImageProcessor

# From size and to size, in pixels: enlarged, shrunk, both at once, one side alone, to a single pixel, unchanged; then those where Pillow
# begins with columns or just not.
SIZES = [
    ((7, 5), (16, 24)),
    ((37, 29), (8, 8)),
    ((23, 4), (5, 40)),
    ((16, 9), (16, 24)),
    ((16, 9), (40, 9)),
    ((11, 13), (1, 1)),
    ((1, 1), (3, 2)),
    ((6, 6), (6, 6)),
    ((10, 24), (16, 9)),
    ((12, 20), (11, 17)),
    ((12, 20), (11, 18)),
    ((20, 12), (17, 11)),
    ((9, 30), (20, 29)),
]
BLURS = [((16, 12), 1), ((16, 12), 2), ((31, 9), 4), ((5, 40), 7), ((9, 7), 30), ((1, 6), 3), ((40, 1), 5), ((8, 8), 0)]


def picture(generator, size, shape):
    """Half noise, half pure black and white, where rounding and clipping show."""
    values = generator.integers(0, 256, (size[1], size[0], *shape), numpy.uint8)
    hard = generator.integers(0, 2, values.shape).astype(numpy.uint8) * 255
    return PIL.Image.fromarray(numpy.where(generator.integers(0, 2, values.shape) == 0, values, hard))


def described(source, made):
    return {
        "width": source.width,
        "height": source.height,
        "source": source.tobytes().hex(),
        "new_width": made.width,
        "new_height": made.height,
        "made": made.tobytes().hex(),
    }


def main():
    generator = numpy.random.default_rng(20)
    processor = VaeImageProcessor()
    resized, resized_gray, blurred = [], [], []
    for size, (width, height) in SIZES:
        for shape, cases in [((3,), resized), ((), resized_gray)]:
            source = picture(generator, size, shape)
            cases.append(described(source, processor.resize(source, height=height, width=width)))
    for size, radius in BLURS:
        source = picture(generator, size, ())
        blurred.append(described(source, processor.blur(source, radius)) | {"radius": radius})
    colours = picture(generator, (32, 16), (3,))
    reference = {
        "made_with": f"Pillow {PIL.__version__}",
        "resized": resized,
        "resized_gray": resized_gray,
        "blurred": blurred,
        "gray": [described(colours, colours.convert("L"))],
    }
    path = pathlib.Path(__file__).parent / "reference.json"
    path.write_text(json.dumps(reference, indent=1) + "\n")


main()
