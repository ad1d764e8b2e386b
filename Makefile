# Every command is one script or one tool call; `make help` lists them. Bare `make` prints the help.
SHELL := /bin/sh
BIN := .venv/bin
PY := $(BIN)/python
RUNTIME := requirements/runtime
DEV := requirements/dev
COMPOSE := docker compose --env-file .run/compose/compose.env
.DEFAULT_GOAL := help

.PHONY: help venv setup up down restart status logs demo topics test test-unit test-integration test-e2e chaos bench-consume bench-gateway bench-ledger \
	bench-outbound bench-health simulate-health \
	fmt lint providers-check schemas docs lock new-provider compose-env compose-up compose-down

help:  ## Print this help
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv:
	@sh tools/bootstrap.sh

##@ Local stack (no Docker)

setup: venv  ## Virtual environment, system packages and Kafka's jars; a no-op when all is there
	@$(PY) -m tools.dev setup --with-checks

up: venv  ## Start Kafka, PostgreSQL, Redis, the services and the sandbox; wait until all are ready
	@$(PY) -m tools.dev up

restart: venv  ## Restart one service with changed code: S=name; the gateway refuses no request meanwhile
	@$(PY) -m tools.dev restart $(S)

down: venv  ## Stop exactly what `make up` started
	@$(PY) -m tools.dev down

status: venv  ## Print URLs, states, pids and log files
	@$(PY) -m tools.dev status

logs: venv  ## Follow the logs; S=name for one process
	@$(PY) -m tools.dev logs $(S)

topics: venv  ## Create the topics that are missing on the running broker
	@set -a; . .run/env; PATCHBAY_KAFKA_BOOTSTRAP="$$KAFKA_BOOTSTRAP" $(PY) -m chassis.kafka.topics

demo: up  ## A day in the life of a business, told station by station
	@$(BIN)/patchbay demo

##@ Docker

compose-env: venv  ## Make the keys and passwords that docker-compose.yml reads from .run/compose
	@$(PY) -m tools.compose_env

compose-up: compose-env  ## Start the same system with Docker Compose, Prometheus and Grafana included
	$(COMPOSE) up --build --detach --wait

compose-down:  ## Stop the containers; volumes stay
	$(COMPOSE) down

##@ Tests (T=path runs only that path)

ifdef T
test test-unit test-integration test-e2e: setup
	$(BIN)/pytest $(T)
else
test: setup  ## Everything that CI checks, but for the linters
	@status=0; \
	$(BIN)/pytest -m "not e2e and not chaos" -n 2 || status=$$?; \
	$(BIN)/pytest -m "e2e or chaos" || status=$$?; \
	exit $$status

test-unit: venv  ## No broker, no database: every provider's conformance, all rules; T=path for a part in seconds
	$(BIN)/pytest -m "not integration and not e2e and not chaos" -n 2

test-integration: setup  ## One service or library against a real Kafka, PostgreSQL and Redis
	$(BIN)/pytest -m integration -n 2

test-e2e: setup  ## The whole platform
	$(BIN)/pytest -m e2e
endif

chaos: setup  ## The chaos tests with a million deliveries and 100,000 commands: kills everything, then compares all sets
	PATCHBAY_CHAOS_DELIVERIES=$${PATCHBAY_CHAOS_DELIVERIES:-1000000} \
	PATCHBAY_CHAOS_COMMANDS=$${PATCHBAY_CHAOS_COMMANDS:-100000} $(BIN)/pytest -m chaos -o timeout=0

bench-gateway: setup  ## The webhook gateway under load, beside a bare handler in the same run; SCENARIO= for one of them
	$(PY) -m bench.gateway $(SCENARIO)

bench-ledger: setup  ## Searches of ten million deliveries, beside a table without our partitions and indexes; 25 GB of disk
	$(PY) -m bench.ledger_search --rows $(or $(ROWS),10000000)

bench-consume: setup  ## Events per second of the consuming loop, beside a baseline of the same run
	$(PY) -m bench.consume

bench-outbound: setup  ## Commands through the outbound path beside bare calls, and the limiter beside two libraries
	$(PY) -m bench.outbound
	$(PY) -m bench.limiter

bench-health: setup  ## Detection, propagation and return, beside a detector that counts five failures in a row
	$(PY) -m bench.health

simulate-health: setup  ## Thresholds, calls to detect and false alarms of the shipped detector, re-derived
	$(PY) -m tools.simulate_health

##@ Code

fmt: venv  ## Format and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lint: setup  ## Every rule that has a tool
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy libs services/*/src sandbox cli tools tests bench
	@# One run per service: folders with a hyphen are no packages, so their tests' module names would collide.
	@for tests in services/*/tests; do echo "mypy $$tests"; $(BIN)/mypy $$tests || exit 1; done
	$(BIN)/lint-imports
	$(PY) -m tools.linters
	$(PY) -m tools.providers_check
	$(PY) -m tools.schemas --check
	$(PY) -m tools.gen_docs --check
	$(PY) -m tools.compose_check
	promtool check config --syntax-only deploy/prometheus/prometheus.yml
	promtool check rules deploy/prometheus/rules/*.yml
	promtool test rules deploy/prometheus/tests/*.yml
	@$(MAKE) --no-print-directory host-free

providers-check: venv  ## The shape of every provider folder
	$(PY) -m tools.providers_check

schemas: venv  ## Write the JSON Schema and AsyncAPI goldens
	$(PY) -m tools.schemas

docs: venv  ## Write docs/reference and CODEOWNERS from the code
	$(PY) -m tools.gen_docs

lock: venv  ## Recompile the hashed requirement files; UPGRADE=1 takes newer versions
	$(BIN)/uv pip compile --quiet --no-config $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--output-file $(RUNTIME).txt $(RUNTIME).in
	$(BIN)/uv pip compile --quiet --no-config $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--constraint $(RUNTIME).txt --output-file $(DEV).txt $(DEV).in
	@$(MAKE) --no-print-directory host-free

.PHONY: host-free
host-free:
	@grep -n '://' $(RUNTIME).txt $(DEV).txt; \
	test $$? -eq 1 || { echo "requirements/ must exist and name no host, so that it works with any index"; exit 1; }

new-provider: venv  ## Scaffold a provider folder: make new-provider NAME=slug
	$(PY) -m tools.new_provider $(NAME)
