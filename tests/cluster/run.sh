#!/usr/bin/env bash
# Runs the tests that need a real Kubernetes. Where none can run, one line says why, and that is no failure.
set -euo pipefail
cd "$(dirname "$0")"

skip() {
  echo "skipped test-cluster: $1"
  exit 0
}
command -v go >/dev/null || skip "it needs Go"
case "$(GOTOOLCHAIN=local go env GOVERSION)" in
  go1.1?* | go1.20*) skip "it needs Go 1.21 or later, which fetches the version that it asks for" ;;
esac
tests=(--test templates --test leftovers --test real)
if [ -n "${EMULSION_TEST_KUBECONFIG:-}" ]; then
  tests=(--test templates --test real)
else
  [ "$(id -u)" = 0 ] || skip "it needs root, for namespaces and mounts; or EMULSION_TEST_KUBECONFIG, for another cluster"
  for program in containerd ctr runc nft nsenter docker-registry; do
    command -v "$program" >/dev/null || skip "it needs $program (Debian: containerd runc nftables util-linux docker-registry)"
  done
  [ -x /usr/lib/cni/ptp ] || skip "it needs /usr/lib/cni (Debian: containernetworking-plugins)"
  unshare --net --mount --pid --fork true 2>/dev/null || skip "namespaces cannot be made here"
fi

programs=$(./build.sh) || case $? in
  69) skip "the Go modules of Kubernetes cannot be fetched: the messages above say why" ;;
  *) exit 1 ;;
esac
export EMULSION_CLUSTER="$programs/emulsion-cluster" EMULSION_CLUSTER_NAME="test-$$"
# The cluster ends with the tests; this waits for it, and removes what a killed supervisor left.
trap '"$EMULSION_CLUSTER" down --name "$EMULSION_CLUSTER_NAME"' EXIT
cargo test --locked --workspace "${tests[@]}" -- "$@"
