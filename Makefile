# Everything is made from a clone by `make demo` or `make test`, with nothing else typed. A second run re-does only what changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# A path set for another Python must not reach the virtual environment's.
unexport PYTHONHOME PYTHONPATH

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
BPF_SOURCES := $(wildcard live/dataplane/*.bpf.c)
BPF_OBJECTS := $(BPF_SOURCES:.c=.o)
SHARED_OBJECTS := core/lb/libmaglev.so
UV_VERSION := 0.13.9

.PHONY: help setup demo test lint types contracts check lock clean packages kube-assets

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(BPF_OBJECTS) $(SHARED_OBJECTS) ## make .venv from the locked versions, install missing Debian packages, compile what is in C
	@$(if $(filter setup,$(MAKECMDGOALS)),echo "setup: done" >&2,:)

demo: setup ## run the stateless load balancer in the virtual network
	@$(BIN)/tidegate run poc2-stateless --on mininet

test: setup ## run all tests, as many at a time as there are cores; `make test ARGS='-k maglev -n 0'` runs some, one by one
	@$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: setup ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## check types
	@$(BIN)/mypy

contracts: setup ## check that the layers import only what they may
	@$(BIN)/lint-imports

check: lint types contracts test ## all of the four above

kube-assets: ## build a real Kubernetes API server (needs Go), print the line that makes tests and runs use it
	@tools/kube-assets

# Installed first: python3-venv makes the virtual environment, clang what is in C. Checking takes milliseconds.
packages:
	@tools/install-debian-packages

$(BIN)/python: | packages
	@python=$$(tools/find-python) && echo "setup: making $(VENV) with $$python" >&2 && "$$python" -m venv --clear $(VENV)

# Nothing is downloaded that constraints.txt does not know by its hash, build tools included: they come first, and no build is isolated from them.
$(LOCKED): constraints.txt $(BIN)/python
	@echo "setup: installing the locked versions into $(VENV)" >&2
	@sed -n '/^\(pip\|setuptools\)==/,/[^\\]$$/p' constraints.txt > $(VENV)/build-tools.txt
	@$(PIP) install --require-hashes --only-binary :all: -r $(VENV)/build-tools.txt
	@$(PIP) install --require-hashes --use-pep517 --no-build-isolation -r constraints.txt
	@touch $@

$(INSTALLED): pyproject.toml $(LOCKED)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

%.bpf.o: %.bpf.c $(wildcard live/dataplane/*.h) | packages
	@tools/compile-bpf $< $@

core/lb/libmaglev.so: core/lb/maglev.c | packages
	@tools/compile-shared $< $@

lock: ## write constraints.txt anew: the newest versions that pyproject.toml allows
	@test -x build/lock/bin/uv || { python=$$(tools/find-python) && "$$python" -m venv --clear build/lock; }
	@build/lock/bin/python -m pip --disable-pip-version-check --no-input --quiet install uv==$(UV_VERSION)
	@build/lock/bin/uv pip compile --quiet --no-config --system-certs --upgrade --universal --python-version 3.11 --group dev --group build \
		--generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --output-file constraints.txt pyproject.toml

clean: ## remove all that make has made; results/ stays
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache $(BPF_OBJECTS) $(SHARED_OBJECTS)
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
