"""Writes reference.json: what Pillow leaves of small pictures on the way to open_nsfw's network. Run with the tests' Python:

    $(tests/python/environment.sh) runtime/diffusion/tests/safety/make_reference.py
"""

import hashlib
import io
import json
import pathlib

import numpy
import PIL
import PIL.Image

# Enlarged, shrunk, and one whose sides are already right.
SIZES = [(12, 9), (40, 30), (256, 256), (600, 401), (200, 300), (320, 512)]


def picture(width, height):
    """Ramps, and stripes that overshoot; tests/safety.rs draws the same."""
    rows, columns = numpy.indices((height, width), numpy.int64)
    red = columns * 255 // max(width - 1, 1)
    green = (rows * 7 + columns * 13) % 256
    blue = numpy.where((rows // 3 + columns // 5) % 2 == 0, 255, rows * 255 // max(height - 1, 1))
    return PIL.Image.fromarray(numpy.stack([red, green, blue], axis=-1).astype(numpy.uint8))


def prepared(image):
    file = io.BytesIO()
    image.resize((256, 256), PIL.Image.BILINEAR).save(file, "JPEG")
    return PIL.Image.open(file).crop((16, 16, 240, 240))


def main():
    cases = []
    for width, height in SIZES:
        made = prepared(picture(width, height)).tobytes()
        # A row of the middle helps where the digest differs.
        row = made[112 * 224 * 3 :][: 16 * 3].hex()
        cases.append({"width": width, "height": height, "row": row, "sha256": hashlib.sha256(made).hexdigest()})
    path = pathlib.Path(__file__).parent / "reference.json"
    path.write_text(json.dumps({"made_with": f"Pillow {PIL.__version__}", "prepared": cases}, indent=1) + "\n")


main()
