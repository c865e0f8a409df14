# Two commands matter: `make run` and `make test`. `make help` lists the rest.

# One cache for builds and environments, so that a second run is short; a clean checkout finds it, too.
EMULSION_CACHE ?= $(HOME)/.cache/emulsion
export EMULSION_CACHE
export CARGO_TARGET_DIR ?= $(EMULSION_CACHE)/target
BIN := $(CARGO_TARGET_DIR)/debug

# Where `make run` listens, and what it may be told: make run LISTEN=0.0.0.0:8080
LISTEN ?= 127.0.0.1:8080
DATA_DIR ?= data
# The safety checker's weights: used where they are, made by `make safety-checker`.
SAFETY_CHECKER ?= $(EMULSION_CACHE)/safety-checker/open_nsfw.safetensors

.DEFAULT_GOAL := help
.PHONY: help build run safety-checker test test-unit lint test-rust test-parity test-acceptance test-cluster check-cuda soak bench-models cluster-up cluster-down crates-alone generate evaluate-demo clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# For tests always the whole workspace: building single packages would compile their dependencies again, with other features.
build: ## build everything
	cargo build --locked --workspace --all-targets

run: ## build and start everything on this machine: no cluster, no database server, no GPU
	cargo build --locked -p router -p runtime
	@exec $(BIN)/emulsion-router local --listen $(LISTEN) --data-dir $(DATA_DIR) --manifests models \
	  $$(test -f $(SAFETY_CHECKER) && echo --safety-checker $(SAFETY_CHECKER))

safety-checker: ## fetch the safety checker's weights (22 MB, python3 with pip); `make run` then uses them
	@models/safety-checker/fetch.sh $(SAFETY_CHECKER)

test: lint crates-alone test-rust check-cuda test-parity test-cluster test-acceptance ## everything; says what it skipped and why

lint: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

crates-alone: ## every crate builds without what the others happen to switch on
	tests/check-each-crate-alone.sh

test-unit: ## the tests of single crates: seconds, once built
	cargo test --locked --workspace --lib --bins

test-rust: build ## all Rust tests
	cargo test --locked --workspace

# Clients and diffusers are Python: without it these two say so, and the rest of the tests count.
NEEDS_PYTHON = python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "skipped $@: it needs python3 with its venv module"; exit 0; };

test-parity: build ## against diffusers, step by step
	@$(NEEDS_PYTHON) EMULSION_RUNTIME=$(BIN)/emulsion-runtime tests/parity/run.sh

test-acceptance: build ## real clients against the real binaries, and kills
	@$(NEEDS_PYTHON) EMULSION_ROUTER=$(BIN)/emulsion-router EMULSION_RUNTIME=$(BIN)/emulsion-runtime tests/acceptance/run.sh

CLUSTER_TESTS = EMULSION_OPERATOR=$(BIN)/emulsion-operator EMULSION_ROUTER=$(BIN)/emulsion-router EMULSION_RUNTIME=$(BIN)/emulsion-runtime tests/cluster/run.sh

test-cluster: build ## on a real Kubernetes: root and Go, or EMULSION_TEST_KUBECONFIG
	@$(CLUSTER_TESTS)

# How often `make soak` runs all of it.
ROUNDS ?= 10

soak: build ## kills, rollouts and faults on a real Kubernetes, again and again with other seeds: make soak ROUNDS=10
	@for round in $$(seq $(ROUNDS)); do echo "round $$round of $(ROUNDS)"; $(CLUSTER_TESTS) kills rollouts faults || exit 1; done

bench-models: build ## ten thousand ModelDeployments on a real Kubernetes: until all are Ready, beside the bare writes of the same objects; and how soon changes are in force
	@EMULSION_TEST_MODELS=10000 $(CLUSTER_TESTS) many changes --nocapture

check-cuda: ## the build for NVIDIA GPUs, on any machine; at once where nothing of it changed
	@tests/cuda/check.sh

# Which cluster `make cluster-up` and `make cluster-down` mean; several can run side by side.
CLUSTER ?= default

cluster-up: ## a real Kubernetes of two nodes on this machine; prints the path of its kubeconfig
	@programs=$$(tests/cluster/build.sh) && "$$programs/emulsion-cluster" up --name "$(CLUSTER)"

cluster-down: ## end it and remove all of it, also what killed processes left
	@programs=$$(tests/cluster/build.sh) && "$$programs/emulsion-cluster" down --name "$(CLUSTER)"

generate: ## write the CRDs and docs/resources.md again
	cargo run --locked -p crds --example generate

evaluate-demo: build ## the demo model's figures, measured again with our own runtime
	EMULSION_RUNTIME=$(BIN)/emulsion-runtime models/demo-training/evaluate.sh

clean: ## remove what `make run` keeps; caches under $(EMULSION_CACHE) stay
	rm -rf data
