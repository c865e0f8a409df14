#!/usr/bin/env bash
# Draws the held-out prompts and judges them; arguments go to evaluate.py.
# With EMULSION_RUNTIME the product's own engine draws, otherwise diffusers does.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$folder/../../tests/python/environment.sh")
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec "$python" "$folder/evaluate.py" ${EMULSION_RUNTIME:+--runtime "$EMULSION_RUNTIME"} "$@"
