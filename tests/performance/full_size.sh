#!/usr/bin/env bash
# Measures one image of a family's full size, with random weights: seconds for each step, and for all else (start, weights, prompt, decoding).
#
#   tests/performance/full_size.sh [FAMILY] [SIDE] [STEPS]      of EMULSION_RUNTIME, on EMULSION_DEVICE in EMULSION_DTYPE
#
# The runtime is run with one step, which also warms the disk's cache, and then with one step and with STEPS more: the difference is theirs.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${EMULSION_CACHE:-$HOME/.cache/emulsion}
runtime=${EMULSION_RUNTIME:?the emulsion-runtime to measure, of a release build}
family=${1:-sdxl} side=${2:-1024} steps=${3:-20}
export EMULSION_DEVICE=${EMULSION_DEVICE:-auto} EMULSION_DTYPE=${EMULSION_DTYPE:-auto}

checkpoint=$cache/random-$family.safetensors
if [[ ! -f $checkpoint ]]; then
    echo "writing $checkpoint" >&2
    "$("$folder/../python/environment.sh")" "$folder/random_checkpoint.py" "$runtime" "$family" "$checkpoint"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

seconds() { # steps
    local started=$EPOCHREALTIME
    "$runtime" generate --model "$checkpoint" --prompt "a red boat on a lake" --seed 1 --width "$side" --height "$side" --steps "$1" \
        --sampler EulerDiscreteScheduler --output "$work/image.png" > "$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
    awk -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }'
}

seconds 1 > /dev/null
one=$(seconds 1)
all=$(seconds $((steps + 1)))
awk -v one="$one" -v all="$all" -v steps="$steps" -v what="$family, ${side}×$side, $EMULSION_DEVICE, $EMULSION_DTYPE" 'BEGIN {
    step = (all - one) / steps
    printf "%s: %.3f s a step, %.2f s for all else\n", what, step, one - step
}'
