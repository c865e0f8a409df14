#!/usr/bin/env bash
# Compares the runtime with diffusers, step by step. Arguments go to pytest, for example: -k "euler a".
# On a GPU with EMULSION_DEVICE=cuda and an EMULSION_RUNTIME that was built for one, to wider limits (comparison.py).
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$folder/../.." && pwd)
python=$("$folder/../python/environment.sh")

# The safety checker's tests are skipped where its weights cannot be had.
weights=${EMULSION_CACHE:-$HOME/.cache/emulsion}/safety-checker/open_nsfw.safetensors
if "$repository/models/safety-checker/fetch.sh" "$weights" >/dev/null; then
    export EMULSION_SAFETY_CHECKER=$weights
fi

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target}
export EMULSION_RUNTIME=${EMULSION_RUNTIME:-$CARGO_TARGET_DIR/debug/emulsion-runtime}
if [[ ! -x $EMULSION_RUNTIME ]]; then
    echo "parity: building emulsion-runtime, which is not at $EMULSION_RUNTIME" >&2
    (cd "$repository" && cargo build --package runtime)
fi

# Nothing is fetched: a model that is not on disk is an error.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
cd "$folder"
exec "$python" -m pytest -p no:cacheprovider -q "$@"
