#!/usr/bin/env bash
# Trains the demo LoRA on the frozen demo model and judges it; arguments go to train_lora.py.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$folder/../../tests/python/environment.sh")
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec "$python" "$folder/train_lora.py" "$@"
