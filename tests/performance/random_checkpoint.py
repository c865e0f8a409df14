"""Writes a checkpoint of a family's full size with random weights: speed and memory do not depend on what the weights are."""

import argparse
import json
import math
import pathlib
import subprocess

import numpy

BYTES_OF_F16 = 2


def expected_tensors(runtime: pathlib.Path, family: str):
    """Names and shapes of a single file of the family, as the runtime says it."""
    command = [runtime, "inspect", "--expect", family, "--layout", "original", "--json"]
    expectation = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [(tensor["name"], tensor["shape"]) for part in expectation["parts"] for tensor in part["tensors"]]


def values(random: numpy.random.Generator, name: str, shape: list[int]):
    """Numbers with which signals keep their size: ones and zeros in vectors, elsewhere as wide as a layer's inputs ask for."""
    if len(shape) < 2:
        return numpy.full(shape, 1.0 if name.endswith("weight") else 0.0, numpy.float16)
    deviation = 1 / math.sqrt(math.prod(shape[1:]))
    return (random.standard_normal(shape, numpy.float32) * numpy.float32(deviation)).astype(numpy.float16)


def write(path: pathlib.Path, tensors):
    """One tensor after another, so that no more than one is in memory."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        begin, end = end, end + math.prod(shape) * BYTES_OF_F16
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    random = numpy.random.default_rng(1)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in tensors:
            file.write(values(random, name, shape).tobytes())
    unfinished.rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtime", type=pathlib.Path, help="the emulsion-runtime that says what the checkpoint holds")
    parser.add_argument("family", help="sd15, sdxl, …")
    parser.add_argument("file", type=pathlib.Path, help="the .safetensors file to write")
    arguments = parser.parse_args()
    write(arguments.file, expected_tensors(arguments.runtime, arguments.family))


if __name__ == "__main__":
    main()
