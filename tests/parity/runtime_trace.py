"""Calls `emulsion-runtime trace`, the door for comparisons."""

import json
import pathlib
import subprocess

import safetensors.numpy

TRACE_SECONDS = 120  # a hung trace fails its case instead of the whole run; an honest one takes a second or two


def trace(binary: pathlib.Path, model: pathlib.Path, request: dict, tensors: dict, scratch: pathlib.Path, name: str, options=()):
    """Runs one request and returns its tensors by name; a failure raises with what the runtime said."""
    request_file = scratch / f"{name}.request.json"
    input_file = scratch / f"{name}.in.safetensors"
    output_file = scratch / f"{name}.out.safetensors"
    request_file.write_text(json.dumps(request))
    safetensors.numpy.save_file(tensors, input_file)
    command = [binary, "trace", "--model", model, "--request", request_file, "--tensors", input_file, "--output", output_file]
    command += options
    finished = subprocess.run(command, capture_output=True, text=True, timeout=TRACE_SECONDS)
    if finished.returncode != 0:
        raise TraceFailed(finished.stderr.strip() or finished.stdout.strip())
    return safetensors.numpy.load_file(output_file)


class TraceFailed(Exception):
    """The runtime refused the request; the message is its standard error."""
