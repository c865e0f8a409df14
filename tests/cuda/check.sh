#!/usr/bin/env bash
# Builds the runtime for NVIDIA GPUs on a machine that needs none, and checks that the one binary starts with and without a driver.
#
# The build takes ten minutes on two cores, so what was built and checked is remembered by a hash over all that decides it: in checked.txt,
# which is committed, and in the cache. Where that is still true there is nothing to do. Only a run that ends well writes it.
set -euo pipefail
export LC_ALL=C

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$folder/../.." && pwd)
cache=${EMULSION_CACHE:-$HOME/.cache/emulsion}
record=$folder/checked.txt
features=runtime/cuda
MAX_BUILD_SECONDS=3600
# Ampere, and by the driver's own translation everything after it.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}

say() { echo "check-cuda: $*"; }
skip() {
    echo "skipped check-cuda: $*"
    exit 0
}
fail() {
    echo "check-cuda: $*" >&2
    exit 1
}

# The packages of Cargo.lock between our code and the GPU, with versions and checksums.
locked() {
    awk -v RS= '/name = "(candle-core|candle-kernels|cudarc|cudaforge|libloading)"/' "$repository/Cargo.lock"
}
fingerprint() {
    cd "$repository"
    {
        locked
        echo "$features $CUDA_COMPUTE_CAP"
        cat rust-toolchain.toml tests/cuda/*.sh tests/cuda/*.c tests/cuda/toolkit.txt
        find runtime/kernels -type f | LC_ALL=C sort | xargs cat
        sed -n '/^\[features\]/,/^$/p' runtime/Cargo.toml runtime/diffusion/Cargo.toml
    } | sha256sum | cut -d ' ' -f 1
}

state=$(fingerprint)
remembered=$cache/cuda-checked-$state
if grep -q "^$state$" "$record" 2>/dev/null; then
    say "nothing changed since it was built and checked (tests/cuda/checked.txt)"
    exit 0
fi
remember() {
    cp "$remembered" "$record"
    say "wrote tests/cuda/checked.txt; commit it with the change"
    exit 0
}
[[ -f $remembered ]] && remember

[[ $(uname -sm) == "Linux x86_64" ]] || skip "it is written for Linux on x86-64"
python3 -c 'import pip' 2>/dev/null || skip "it needs python3 with pip"
for tool in cc ar readelf flock; do
    command -v $tool >/dev/null || skip "it needs $tool"
done
CUDA_HOME=$("$folder/toolkit.sh") || skip "the toolkit cannot be had (the lines above say why)"
export CUDA_HOME PATH=$CUDA_HOME/bin:$PATH CUDAFORGE_HOME=$cache/cudaforge
# What is compiled alike for processors alone is taken from there; the program itself goes elsewhere.
export CARGO_BUILD_BUILD_DIR=${CARGO_TARGET_DIR:-$cache/target} CARGO_TARGET_DIR=${EMULSION_CUDA_TARGET_DIR:-$cache/target-cuda}
# The kernels are compiled for what is checked here, that they compile: a twentieth of the time, and slow if they were ever run.
export NVCC_APPEND_FLAGS=--Ofast-compile=max

say "building; the first time takes some ten minutes"
cd "$repository"
timeout --foreground "$MAX_BUILD_SECONDS" cargo build --locked --workspace --features "$features" --bin emulsion-runtime
binary=$CARGO_TARGET_DIR/debug/emulsion-runtime

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the loader would have to find before the program starts.
readelf --dynamic --wide "$binary" > "$work/dynamic"
! grep NEEDED "$work/dynamic" | grep -iE 'cuda|cublas|curand|cudnn|nvrtc' || fail "the lines above keep it from starting without CUDA"
readelf --dyn-syms --wide "$binary" > "$work/symbols"
! grep -E ' UND (cu|__cuda|nvrtc)' "$work/symbols" || fail "the functions above are left to the loader; kernels::gpu has no door for them"

draw() { # output, arguments: in an environment of its own
    local output=$1
    shift
    env -i HOME="$work" PATH="$PATH" LD_LIBRARY_PATH="${libraries:-}" "$binary" generate --model models/demo --prompt "a red ring" \
        --seed 1 --steps 2 --output "$work/$output" "$@" > "$work/said" 2>&1
}
refused() { # what it says, arguments
    local words=$1
    shift
    ! draw none.png "$@" || fail "$* works where it must not"
    grep -q "$words" "$work/said" || fail "$* does not say \"$words\" but: $(cat "$work/said")"
    ! grep -q panicked "$work/said" || fail "$* panics: $(cat "$work/said")"
}

draw cpu.png --device cpu || fail "it draws nothing on the processor: $(cat "$work/said")"
if ldconfig -p | grep -q 'libcuda\.so\.1'; then
    say "this machine has a driver, so nothing is said about machines without one"
else
    draw auto.png || fail "it draws nothing without a driver: $(cat "$work/said")"
    cmp "$work/cpu.png" "$work/auto.png" || fail "without a GPU, auto is not the processor"
    refused "libcuda.so.1 is not found" --device cuda
fi

# A driver of two functions: the doors lead into a library that is there, and say what is missing behind it.
libraries=$work/driver
mkdir "$libraries"
cc -shared -o "$libraries/libcuda.so.1" "$folder/driver.c"
refused "no GPU 3: the driver shows 1" --device cuda:3
refused "libcublas.so.13 is not found" --device cuda
refused "libcublas.so.13 is not found" --device auto

[[ $(fingerprint) == "$state" ]] || fail "something changed while it was built; run it again"
{
    echo "# What \`make check-cuda\` last built and checked; it writes this file, nobody else does."
    echo "$state"
    echo "features $features, compute capability $CUDA_COMPUTE_CAP, $(nvcc --version | sed -n 4p)"
} > "$remembered"
remember
