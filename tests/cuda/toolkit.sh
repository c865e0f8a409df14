#!/usr/bin/env bash
# Prints the path of a CUDA toolkit that can build the runtime (what CUDA_HOME names), fetching it by name from the package index first if
# needed: 400 MB unpacked, under $EMULSION_CACHE, in a folder named by a hash of toolkit.txt. Progress goes to stderr.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${EMULSION_CACHE:-$HOME/.cache/emulsion}
fingerprint=$(cat "$folder/toolkit.txt" "${BASH_SOURCE[0]}" | sha256sum | cut -c1-16)
toolkit=$cache/cuda-toolkit-$fingerprint

mkdir -p "$cache"
exec 9>"$toolkit.lock"
flock 9
if [[ ! -f $toolkit/ready ]]; then
    echo "CUDA toolkit: fetching it into $toolkit (100 MB)" >&2
    rm -rf "$toolkit"
    python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: --require-hashes \
        --root-user-action=ignore --requirement "$folder/toolkit.txt" --target "$toolkit" >&2 9>&-
    root=$toolkit/nvidia/cu13
    ln -s lib "$root/lib64"
    # What cudarc and candle ask the linker for is defined by kernels::cuda, and by the static runtime, before the linker comes to these:
    # they only have to be found.
    for library in cuda cublas cublasLt cudart cudnn curand nvrtc; do
        ar cr "$root/lib/lib$library.a"
    done
    touch "$toolkit/ready"
fi
echo "$toolkit/nvidia/cu13"
