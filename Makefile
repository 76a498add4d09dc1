# SPDX-License-Identifier: MPL-2.0
# `make demo` shows the plugin at work, `make test` proves it. Both set up what they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
GO     ?= go
FLOOR  ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python3.10 /usr/bin/python3.10))
NOMAD_DIR := build/nomad
NOMAD  ?=
# Most tests wait most of the time, for processes and deadlines: more of them run than there are cores.
JOBS   ?= $(shell echo $$((2 * $$(nproc))))
PYTEST := pytest -n $(JOBS) --dist worksteal
# Agents work more, and those of one file are shared by its tests.
E2E_JOBS ?= $(shell echo $$(($$(nproc) + 1)))
AUDIT  := build/audit

.PHONY: help setup demo test lint types unit contract e2e floor nomad mps-tool gpu-test gpu-carry soak mutations bench dist aarch64 audit proto proto-check eval docs lock clean

help:            ## what the targets do
	@sed -n 's/^\([a-z0-9-]*\): .*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP)  ## .venv with everything pinned

$(STAMP): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; say which: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup      ## the plugin on simulated GPUs, in a real Nomad if there is one
	scripts/demo.sh

test: lint types proto-check unit contract e2e  ## everything that can fail

lint: setup      ## ruff and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --verbose | tail -n 8

types: setup     ## mypy, strict
	$(BIN)/mypy --cache-dir build/mypy

unit: setup mps-tool ## pure code, the fake driver and the fake MPS
	$(BIN)/$(PYTEST) tests/unit tests/libnvidia_ml tests/mps_control tests/gpu_client

contract: setup mps-tool ## the installed program, spoken to as Nomad would
	$(BIN)/$(PYTEST) tests/contract

e2e: setup nomad ## real Nomad agents; of another version: NOMAD=/usr/bin/nomad
	NVIDIA_VGPU_NOMAD_DIR=$(abspath $(NOMAD_DIR)) NVIDIA_VGPU_NOMAD=$(abspath $(NOMAD)) \
	  $(BIN)/pytest -n $(E2E_JOBS) --dist loadfile tests/e2e --timeout 600

nomad:           ## builds Nomad and its launcher for e2e, unless there is no Go
	@NOMAD_DIR=$(NOMAD_DIR) scripts/build-nomad.sh

mps-tool:        ## NVIDIA's MPS control tools for the tests, if a Debian mirror has them
	@MPS_TOOL_DIR=build/mps-tool scripts/mps-tool.sh

floor:           ## unit tests and a start of the program on the oldest Python that is supported
	@if $(or $(FLOOR),false) -c '' 2>/dev/null; then $(MAKE) build/floor/.ready; \
	else echo "no Python 3.10 here: say where, make floor FLOOR=..."; exit 0; fi && \
	build/floor/bin/$(PYTEST) tests/unit tests/contract/test_base_service.py

build/floor/.ready: requirements/dev.txt
	$(FLOOR) -m venv build/floor
	build/floor/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	build/floor/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

gpu-test: setup  ## on a real GPU, in nine minutes; GPU_TEST_ARGS="--only shares"
	GPU_PYTHON=$(abspath $(BIN))/python scripts/gpu-session.sh $(GPU_TEST_ARGS)

gpu-carry: setup ## what gpu-test needs where there is no network; PYTHONS=3.12
	$(BIN)/python -m scripts.gpu_carry $(PYTHONS)

soak: setup nomad ## random states of GPUs, random faults, 200 rounds of killed and frozen plugin, agent and MPS daemon
	PYTHONPATH=tests $(BIN)/python -m scripts.soak
	NVIDIA_VGPU_NOMAD_DIR=$(abspath $(NOMAD_DIR)) NVIDIA_VGPU_NOMAD=$(abspath $(NOMAD)) \
	  PYTHONPATH=tests $(BIN)/python -m scripts.soak_rounds

mutations: setup ## takes protections out of a copy, and sees that their tests fail; ARGS="sweep audit"
	$(BIN)/python -m scripts.mutations $(ARGS)

bench: setup     ## the figures of docs/performance.md; fails when a budget is missed
	$(BIN)/python -m bench

dist: setup      ## wheel, single files, SBOMs and SHA256SUMS in dist/: docs/packaging.md
	$(BIN)/python -m scripts.dist $(ARGS)

aarch64: dist    ## the aarch64 file and wheel under qemu-user; needs Debian's apt and the network
	scripts/aarch64.sh

audit: $(AUDIT)/.ready  ## known vulnerabilities of what is pinned; asks a service on the network
	$(AUDIT)/bin/python -m scripts.audit $(ARGS)

$(AUDIT)/.ready: requirements/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

proto: setup     ## generated code from proto/
	scripts/proto.sh src

proto-check: setup
	@rm -rf build/proto && mkdir -p build/proto && scripts/proto.sh build/proto
	diff -r -x __pycache__ -x __init__.py build/proto/nomad_nvidia_vgpu/rpc/generated src/nomad_nvidia_vgpu/rpc/generated

eval: setup nomad ## Nomad's own plugin launcher against the plugin
	scripts/eval.sh $(NOMAD_DIR)

docs: setup      ## the generated parts of docs/
	$(BIN)/python -m scripts.option_table
	$(BIN)/python -m scripts.metric_table
	$(BIN)/python -m scripts.pictures
	$(BIN)/python -m scripts.evidence_table

lock:            ## pins requirements again (needs uv)
	scripts/lock.sh --upgrade

clean:
	rm -rf build dist .venv
