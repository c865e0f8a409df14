#!/usr/bin/env bash
# Builds the cluster's programs, once for each state of their sources, and prints the folder they lie in.
# The first time this compiles a whole Kubernetes: minutes. What Go keeps below the cache makes later builds seconds.
set -euo pipefail
cd "$(dirname "$0")"
cache="${EMULSION_CACHE:-$HOME/.cache/emulsion}"
export GOCACHE="$cache/go/build" GOMODCACHE="$cache/go/mod" GOFLAGS="-mod=readonly -modcacherw" CGO_ENABLED=0
# Exit status where sources cannot be fetched.
NO_SOURCES=69
# How many older builds stay, for clusters that still run on them.
KEEP=2

key=$({ go env GOVERSION GOARCH; cat build.sh go.mod go.sum; find cmd internal -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c 1-16)
programs="$cache/cluster/programs"
made="$programs/$key"
mkdir -p "$programs"
exec 9>"$programs/lock"
flock 9
if [ ! -d "$made" ]; then
  version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes) || exit "$NO_SOURCES"
  # What the components say they are; the API server derives from it which of its APIs are served.
  stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1"
  stamp="$stamp -X k8s.io/component-base/version.gitMinor=$(echo "$version" | cut -d . -f 2) -X k8s.io/client-go/pkg/version.gitVersion=$version"
  rm -rf "$made.part"
  mkdir "$made.part"
  go list -deps ./cmd/... >/dev/null || exit "$NO_SOURCES"
  echo "building Kubernetes $version; the first time takes minutes" >&2
  go build -ldflags "-s -w $stamp" -o "$made.part/" ./cmd/... >&2
  mv "$made.part" "$made"
fi
touch "$made"
(cd "$programs" && ls -1td -- */ | tail -n "+$((KEEP + 2))" | xargs -r rm -rf --)
echo "$made"
