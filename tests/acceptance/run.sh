#!/usr/bin/env bash
# The real binaries as people use them. Arguments go to pytest, for example: -k openai.
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
export EMULSION_ROUTER=${EMULSION_ROUTER:-$CARGO_TARGET_DIR/debug/emulsion-router}
if [[ ! -x $EMULSION_ROUTER || ! -x $(dirname "$EMULSION_ROUTER")/emulsion-runtime ]]; then
    echo "acceptance: building the binaries, which are not at $EMULSION_ROUTER and beside it" >&2
    (cd "$repository" && cargo build --package router --package runtime --bins --examples)
fi

# A proxy of the caller's must not stand between a test and its own machine.
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost PYTHONDONTWRITEBYTECODE=1
cd "$folder"
exec "$python" -m pytest -p no:cacheprovider -q "$@"
