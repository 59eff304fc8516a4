PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
HARDENING := $(VENV)/.hardening
LITSERVE := $(VENV)/litserve
TRITON := $(VENV)/triton
ATTACKS := $(addprefix tests/robustness/test_,threads.py faults.py power_loss.py beside.py edited.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-numerics test-runtime test-install lint format bench bench-data bench-dynamic \
	bench-deploy bench-monitor bench-parity bench-posterior bench-service bench-variation models hardening check-all test-all test-numerics-all
.NOTPARALLEL:

help:  ## Show what can be done here
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(READY)  ## Create the virtual environment with the tested versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# torchvision comes with a peer; it must match the build of torch, which a CPU build has no match for.
$(PEERS): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,peers,hf]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $@

$(HARDENING): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,hardening]'
	touch $@

# Servers of others have environments of their own: one brings a faster event loop, the other needs NumPy 1.
$(LITSERVE)/.ready: constraints.txt
	$(PYTHON) -m venv $(LITSERVE)
	$(LITSERVE)/bin/python -m pip install --quiet --constraint constraints.txt litserve onnxruntime
	touch $@

$(TRITON)/.ready: benchmarks/service/constraints-triton.txt
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet --constraint $< nvidia-pytriton onnxruntime
	touch $@

demo: $(READY)  ## Train, calibrate, budget and report on handwritten digits (a minute or two)
	$(BIN)/suffice demo --out demo-out

test: $(READY)  ## Run the fast tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-numerics: $(READY)  ## Run the tests of bytes and tolerances under other instruction sets and numbers of threads
	.ci/numerics

test-runtime:  ## Install the runtime in an environment without torch, and run its tests there
	PYTHON=$(PYTHON) .ci/runtime

lint: $(READY)  ## Check style, docstrings, types and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure speed, beside a peer or the plain pass
	$(BIN)/python -m benchmarks

bench-dynamic: $(PEERS)  ## Measure examples that leave early, beside the full network and earlyon
	$(BIN)/python -m benchmarks.dynamic

bench-parity: $(READY)  ## Compare bundles with their networks on 10,000 images, clicks and texts
	PYTHONPATH=runtime/src $(BIN)/python -m benchmarks.parity

bench-deploy: $(READY)  ## Measure bundles against the plain network in PyTorch and in ONNX Runtime
	PYTHONPATH=runtime/src $(BIN)/python -m benchmarks.deploy

bench-monitor: $(READY)  ## Simulate how soon the runtime's alarms find a loss above its bound
	PYTHONPATH=runtime/src $(BIN)/python -m benchmarks.monitor

bench-posterior: $(PEERS)  ## Measure last-layer posteriors beside laplace-torch
	$(BIN)/python -m benchmarks.posterior

bench-service: $(READY) $(LITSERVE)/.ready $(TRITON)/.ready  ## Measure the service under load, beside LitServe and Triton
	PYTHONPATH=runtime/src $(BIN)/python -m benchmarks.service --litserve $(LITSERVE)/bin/python --triton $(TRITON)/bin/python

bench-variation: $(READY)  ## Measure estimates of the dropout variation beside plain passes
	$(BIN)/python -m benchmarks.variation

bench-data: $(READY)  ## Measure how fast data come, beside the training step that they feed
	$(BIN)/python -m benchmarks.data

models: $(PEERS)  ## Run every family of models, and write docs/models.md
	$(BIN)/python -m tests.gauntlet

hardening: $(HARDENING)  ## Attack the library: threads, faults, kills, power losses, edits, mutants
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow $(ATTACKS)
	$(BIN)/python -m hardening.mutants --each 1 --at-least 0.85

test-install: $(HARDENING)  ## Install wheel and source archive in fresh environments, with the newest and the oldest versions
	$(BIN)/python -m hardening.install

check-all: lint test-all test-numerics-all test-runtime bench  ## Run everything (with `make -k` also after a failure)

test-all: $(PEERS)
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not exhaustive'

test-numerics-all: $(READY)
	.ci/numerics all
