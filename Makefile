# `make` alone lists the targets. PYTHON=… chooses the interpreter (3.11 or newer).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# each program that a test starts would compile stackd anew
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
JS := .ci/js
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, ensurepip, venv, sqlite3, ssl; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v $$python && break; done)
# Most of what pip would compile is never imported; the rest is compiled when it is.
PIP_INSTALL := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile
SECONDS_TO_SOAK ?= 600
PREFIX ?= /usr/local
DIST ?= dist

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime  ## run stackd on an embedded cluster with throw-away state
	@$(BIN)/stackd demo

demo-ctfd: ctfd-or-docker $(VENV)/.runtime  ## run it with a CTFd that has the plugin (CTFD=checkout, else by Docker)
	@CTFD='$(CTFD)' $(BIN)/python integrations/ctfd/demo.py

ctfd-or-docker:  # before anything is installed
	@if [ -n '$(CTFD)' ]; then [ -f '$(CTFD)/CTFd/__init__.py' ] && [ -x "$${CTFD_PYTHON:-$(CTFD)/.venv/bin/python}" ]; \
	  else docker info >/dev/null 2>&1; fi || { \
	  echo 'name a checkout of CTFd 3.7 or 3.8 with its environment in .venv (make demo-ctfd CTFD=…), or have Docker run'; exit 1; }

test: $(VENV)/.dev  ## run the tests, in two processes for each CPU: many wait most of the time
	@$(BIN)/python -m pytest --numprocesses logical --dist worksteal

check: lint types layers js api test  ## all that CI runs: format, lint, types, layers, the pages' JavaScript, OpenAPI, tests

lint: $(VENV)/.dev  ## format and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## mypy, strict, tests too
	$(BIN)/mypy

collect: $(VENV)/.dev  ## find the tests; compiles them once, and not in each of the processes that run them
	@$(BIN)/python -m pytest --collect-only --quiet >/dev/null

layers: $(VENV)/.dev  ## who may import whom
	$(BIN)/lint-imports --no-logo

document: $(VENV)/.dev $(JS)/node_modules/.installed  # the API's description, and its types
	@$(BIN)/python .ci/openapi.py >$(JS)/node_modules/.openapi.json
	@npm --prefix $(JS) run --silent document

js: document  ## format, lint and types of the pages' JavaScript and CSS
	@npm --prefix $(JS) run --silent check

api: document  ## the API's description, by Redocly and openapi-typescript
	@npm --prefix $(JS) run --silent api

js-fix: $(JS)/node_modules/.installed  ## format them, and fix what can be fixed safely
	@npm --prefix $(JS) run --silent fix

bench: $(VENV)/.dev  ## measure against the floors (benchmarks/README.md)
	@$(BIN)/python -m benchmarks

soak: $(VENV)/.dev  ## fault schedules for SECONDS_TO_SOAK=600 seconds
	@$(BIN)/python -m tests.faults --seconds $(SECONDS_TO_SOAK)

install:  ## install on this machine (PREFIX=/usr/local, DESTDIR=, WHEEL=), as root
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' WHEEL='$(WHEEL)' PYTHON='$(if $(filter command line environment,$(origin PYTHON)),$(PYTHON))' \
		systemd/install.sh install

uninstall:  ## remove what install put there; keeps configuration and state
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' systemd/install.sh uninstall

deb:  ## build dist/stackd_VERSION_ARCH.deb for this distribution (DIST=dist)
	@DIST='$(DIST)' PYTHON='$(if $(filter command line environment,$(origin PYTHON)),$(PYTHON))' deb/build.sh

release:  ## all that is published, in dist/: package, image, wheel, source archive, plugin for CTFd, SBOMs and SHA256SUMS
	@PYTHON='$(PYTHON)' .ci/release

reference: $(VENV)/.dev  ## write the generated pages again: docs/errors.md and docs/api-reference.md
	@$(BIN)/python deb/manpage.py errors >docs/errors.md
	@$(BIN)/python -m tests.docs.reference

lock: $(VENV)/.dev  ## write requirements.lock again, after a change of pyproject.toml or constraints.txt
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' | \
	  $(BIN)/uv pip compile pyproject.toml - --extra server --constraints constraints.txt --universal --python-version 3.11 --quiet \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --output-file requirements.lock

venv: $(VENV)/.dev  ## make .venv with everything, pinned

clean:  ## remove .venv, caches and build results
	rm -rf $(VENV) $(JS)/node_modules build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@[ -n "$(PYTHON)" ] || { echo "stackd needs Python 3.11 or newer with venv (Debian: python3-venv); name one with PYTHON=…" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "installing the pinned packages" >&2
	@$(PIP_INSTALL) --constraint constraints.txt setuptools
	@$(PIP_INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[server]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing the pinned packages for tests and checks" >&2
	@$(PIP_INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[server,test,dev]'
	@touch $@

$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json
	@for command in node npm; do command -v $$command >/dev/null || { \
		echo "$$command is not installed; the checks of the pages' JavaScript need node 20 or newer and npm (Debian: apt-get install nodejs npm)" >&2; \
		exit 1; }; done
	@echo "installing the pinned packages for the checks of the pages" >&2
	@npm --prefix $(JS) ci --loglevel=error
	@touch $@

.PHONY: help demo demo-ctfd ctfd-or-docker test check lint types collect layers document js js-fix api bench soak install uninstall deb release reference lock venv clean
