#!/usr/bin/env bash
# Prints the path of a python that has everything in requirements.txt, installing it first if needed.
#
# The environment lives under $EMULSION_CACHE (default ~/.cache/emulsion), its folder named by a hash
# of the requirements and of the python that made it, so a change of either makes a new one. It counts
# only once its `ready` stamp is written: an interrupted installation is thrown away and done again.
# Packages that an older environment of the same python has are linked from there, not fetched again.
# Two runs at once wait for each other. Progress goes to stderr; stdout is the path alone.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${EMULSION_CACHE:-$HOME/.cache/emulsion}
base_python=${EMULSION_PYTHON:-python3}

fail() {
    echo "environment.sh: $1" >&2
    exit 1
}

# numpy's pinned release is what asks for 3.11.
describe_python='import sys, platform; print(platform.machine(), *sys.version_info[:3]); sys.exit(sys.version_info < (3, 11))'
version=$("$base_python" -c "$describe_python" 2>/dev/null) ||
    fail "needs Python 3.11 or later as '$base_python' (found: ${version:-none}); install it or name one in EMULSION_PYTHON"
"$base_python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "this Python cannot make virtual environments; install its venv module (Debian: python3-venv)"
command -v flock >/dev/null || fail "needs flock (Debian: util-linux)"

# Hard links into the new environment, without what the requirements no longer name. pip replaces files and never writes into them,
# so the older environment stays as it is.
link_packages_of_older_environment() {
    local ready older
    for ready in $(ls -t "$cache"/python-*/ready 2>/dev/null); do
        older=${ready%/ready}
        [[ $("$older/bin/python" -c "$describe_python" 2>/dev/null) == "$version" ]] || continue
        echo "Python packages for the tests: taking those that are the same from $older" >&2
        cp -alf "$older"/lib/python*/site-packages/. "$environment"/lib/python*/site-packages/ >&2 || return 0
        "$environment/bin/python" - "$folder/requirements.txt" <<'PYTHON' >&2 9>&-
import importlib.metadata, re, subprocess, sys

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

listed = {plain(line.split("==")[0]) for line in open(sys.argv[1]) if "==" in line}
unlisted = {plain(found.name) for found in importlib.metadata.distributions()} - listed - {"pip", "setuptools"}
if unlisted:
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", *unlisted], check=True)
PYTHON
        return 0
    done
}

fingerprint=$({ echo "$version"; cat "$folder/requirements.txt"; } | sha256sum | cut -c1-16)
environment=$cache/python-$fingerprint
mkdir -p "$cache"

# A shared environment is only ever replaced by the holder of this lock; the lock goes with the process.
exec 9>"$cache/python-$fingerprint.lock"
flock 9

if [[ ! -f $environment/ready ]]; then
    echo "Python packages for the tests: installing into $environment (about 4 GB, unless most of it is there)" >&2
    rm -rf "$environment"
    started=$SECONDS
    "$base_python" -m venv "$environment" >&2 || fail "could not make a virtual environment in $environment"
    link_packages_of_older_environment
    # No resolution: the list is complete. No cache: wheels of 2 GB would be kept twice.
    "$environment/bin/python" -m pip install --disable-pip-version-check --no-deps --no-cache-dir \
        --only-binary=:all: --progress-bar off --requirement "$folder/requirements.txt" >&2 9>&- ||
        fail "could not install the packages of $folder/requirements.txt (the lines above say why)"
    "$environment/bin/python" -c 'import torch, diffusers, peft, transformers, openai, modelslab_py, pytest' >&2 9>&- ||
        fail "the installed packages cannot be imported"
    touch "$environment/ready"
    echo "Python packages for the tests: ready after $((SECONDS - started)) s" >&2
fi

echo "$environment/bin/python"
