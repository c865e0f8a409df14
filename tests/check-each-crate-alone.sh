#!/usr/bin/env bash
# Builds each crate of the workspace on its own. In a build of everything, cargo switches a dependency's features on for
# all as soon as one crate asks for them, so a crate that forgot to ask is found only here.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/emulsion/target}"

packages=$(cargo tree --workspace --depth 0 --prefix none --format '{p}' --offline | awk 'NF {print $1}' | sort -u)
[ -n "$packages" ] || { echo "cargo names no package" >&2; exit 1; }
failed=""
for package in $packages; do
  echo "checking $package alone"
  cargo check --quiet --locked --package "$package" || failed="$failed $package"
done
if [ -n "$failed" ]; then
  echo "these do not build alone:$failed" >&2
  echo "a missing feature of a dependency is the usual reason: ask for it in that crate's Cargo.toml" >&2
  exit 1
fi
