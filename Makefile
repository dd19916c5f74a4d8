# Touchstone: `make help` lists the targets. Needs Python 3.11 and make, nothing else.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
ID ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help env book test validate rerun full arena serve clean
.DEFAULT_GOAL := help

help:            ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

env: $(READY)    ## set up .venv from requirements.lock

# --no-deps: the lock is complete, so nothing outside it (no CUDA package above all) can come along
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "touchstone: $(PYTHON) not found; install Python 3.11 or call make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "touchstone: $(PYTHON) is not Python 3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

book: env        ## build the book and print where it is
	$(BIN)/touchstone book $(if $(CI),--strict)

test: env        ## everything that must hold; ends with pytest's closing line
	$(BIN)/ruff check src tests
	$(BIN)/touchstone check
	$(BIN)/python -m pytest --nbval-sample -q -n auto --dist loadfile

validate: env    ## nbval on every executed notebook
	$(BIN)/python -m pytest --nbval-all -q tests/test_notebooks.py

rerun: env       ## execute every notebook in the quick profile
	$(BIN)/touchstone run --all

full: env        ## full run: make full ID="causal-pinn lightgcn"
	@test -n "$(ID)" || { echo 'touchstone: name the methods: make full ID="causal-pinn lightgcn"' >&2; exit 2; }
	$(BIN)/touchstone run $(ID) --profile full
	$(BIN)/touchstone generate

arena: env       ## compute an arena: make arena PART=pinns
	$(BIN)/touchstone arena $(PART)

serve: book      ## serve the book on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

clean:           ## remove the built book and the caches; records and .venv stay
	rm -rf _build .cache .snakemake .pytest_cache .ruff_cache
