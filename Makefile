# `make run` and `make test` are all that a newcomer needs; both may be repeated at any time.
SETUP = sh loraportal/setup/python.sh
VENV ?= .venv
BIN = $(VENV)/bin
export VENV

.PHONY: run test test-fleet test-lm-eval lint types format demo css screenshots tools help

run:  ## Set up what is missing and serve the portal (PORT=8001 VAR_DIR=/elsewhere make run: a second one beside it)
	@exec $(SETUP) run

test:  ## Set up what is missing and run the tests (ARGS="-k tokens" chooses)
	@exec $(SETUP) test $(ARGS)

test-fleet: tools demo  ## The gateway against real vLLM replicas and their router, in an environment of their own (3.5 GB, once)
	@$(BIN)/python -m tests.real_fleet $(ARGS)

test-lm-eval: tools demo  ## lm-evaluation-harness against the portal and against PEFT, in an environment of its own (0.6 GB, once)
	@$(BIN)/python -m tests.lm_harness $(ARGS)

lint: tools  ## Ruff's checks and formatting, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

types: tools  ## mypy, untyped definitions disallowed
	@$(BIN)/mypy .

format: tools  ## Rewrite the code in ruff's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

demo:  ## Write the demo's base model and adapters under VAR_DIR
	@exec $(SETUP) demo

css:  ## Build the style sheet, icons and script libraries anew (needs Node.js; what is built is in the repository)
	@npm install --no-save --no-audit --no-fund
	@npm run build

screenshots: tools demo  ## Pictures of every page into screenshots/, and anew those of the README (needs Chromium)
	@$(BIN)/python -m docs.screenshots --images

tools:
	@$(SETUP) tools

help:
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## */	/' | expand -t 10
