#!/usr/bin/env bash
# Trains the demo model from nothing; arguments go to train.py.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$folder/../../tests/python/environment.sh")
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec "$python" "$folder/train.py" "$@"
