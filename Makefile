# `make help` lists what there is. Everything sets itself up first (scripts/bootstrap), and only once.

BIN := .venv/bin
PPML := $(BIN)/ppml
NAME ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test check images all-images format unit e2e slow kill container docs bench constraints

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install everything that the rest needs (done by the others, too)
	@scripts/bootstrap

demo: setup ## run the nightly pipeline once; ARGS="--source visits=FILE --sql FILE" for your own data
	@$(PPML) demo $(ARGS)

up: setup ## start Airflow's UI, broker and agents, and say where they are
	@$(PPML) up $(ARGS)

down: ## stop what `make up` started
	@if [ -x $(PPML) ]; then $(PPML) down; fi

test: setup check images unit e2e ## format, lint, types, import layers, unit, conformance, end to end: all but slow and container

check: setup ## format check, lint, types, import layers
	@$(BIN)/ruff format --check ppml_airflow operators plugins $(wildcard tests dags images benchmarks jvm)
	@$(BIN)/ruff check ppml_airflow operators plugins $(wildcard tests dags images benchmarks jvm)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

images: setup ## set up the images that the tests run in
	@$(PPML) domain create >/dev/null
	@$(PPML) image set-up spark python inference flink

all-images: setup ## set up every image that this machine has the parts for
	@$(PPML) domain create >/dev/null
	@$(PPML) image set-up --all

unit: setup ## unit and conformance tests only
	@$(BIN)/pytest -q -n auto --dist loadfile -m "not e2e and not slow and not container" $(ARGS)

e2e: setup ## whole pipelines with real processes
	@$(BIN)/pytest -q -n 2 --dist loadfile -m "e2e and not slow and not container" $(ARGS)

slow: all-images ## the tests that take longer: training, Airflow's services, attacks on a running installation, kills
	@$(BIN)/pytest -q -n 2 --dist loadfile -m "slow and not container" $(ARGS)

kill: images ## kill processes in the middle of their work
	@$(BIN)/pytest -q -m "kill and not container" $(ARGS)

container: setup ## the docker runtime, with a Docker daemon of its own (needs root) or the one that DOCKER_HOST names
	@scripts/docker-daemon $(BIN)/pytest -q -m container $(ARGS)

format: setup ## format and repair what can be repaired
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: setup ## write the generated parts of docs/ anew
	@$(BIN)/python -m ppml_airflow.broker.openapi docs/reference/broker-api.json

bench: setup ## run benchmarks/$(NAME).py
	@$(BIN)/python benchmarks/$(or $(NAME),$(error which one? make bench NAME=...)).py $(ARGS)

constraints: setup ## lock the newest versions that pyproject.toml allows
	@$(BIN)/uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --custom-compile-command "make constraints" -q -o constraints.txt
	@scripts/lock-images $(BIN)/uv
