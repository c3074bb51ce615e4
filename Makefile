# make run      make the environment once, then train; the same again resumes
# make test     what has to pass before a change goes in
# make soak     the tests that take minutes
# make lock     resolve the dependencies anew (needs uv)
# make clean    remove the environment and all caches; runs/ stays
#
# ARGS="--mode=pretrain --config.train.num_steps=100"   flags for `make run`
# PYTHON=python3.12    the interpreter that makes the environment
# EXTRA=gpu            with the CUDA libraries
# UV=uv                makes it, where there is uv; else pip does

PYTHON ?= python3
UV ?= uv
ARGS ?=
EXTRA ?=

BIN := .venv/bin
LOCK := requirements$(if $(EXTRA),-$(EXTRA)).txt
# Newer than its lock file = installed from it.
STAMP := .venv/installed-$(LOCK)
# What the tests use beside it.
TOOLS := .venv/installed-requirements-dev.txt
# PyTorch and transformers, apart: only tests of the Hugging Face folder use it.
HUGGINGFACE := .venv-huggingface/installed
INSTALL = if command -v $(UV) >/dev/null; \
	then $(UV) pip install --python .venv --require-hashes --requirement $<; \
	else $(BIN)/python -m pip install --require-hashes --requirement $<; fi
COMPILE := $(UV) pip compile pyproject.toml --quiet --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url --no-header

.PHONY: run test soak lock clean
.DELETE_ON_ERROR:

run: $(STAMP)
	$(BIN)/python -m trainer.main --strategy=mirrored $(ARGS)

test: $(TOOLS) $(HUGGINGFACE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -rs --numprocesses=2 --dist=loadgroup

soak: $(TOOLS)
	$(BIN)/python -m pytest -m soak

$(STAMP): $(LOCK)
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON); name\
	 an interpreter, such as PYTHON=python3.11." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit(None if (3, 11) <= v <= (3, 13) else \
	"Cloze needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is %d.%d; name" \
	" another, such as PYTHON=python3.11." % v)'
	@if command -v $(UV) >/dev/null; \
	then $(UV) venv --quiet --seed --allow-existing --python $(PYTHON) .venv; \
	else $(PYTHON) -m venv .venv; fi
	@$(INSTALL)
	touch $@

$(TOOLS): requirements-dev.txt | $(STAMP)
	@$(INSTALL)
	touch $@

# Best effort: where it cannot be installed, those tests are skipped.
$(HUGGINGFACE): requirements-huggingface.txt | $(STAMP)
	@{ $(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --quiet \
	 --requirement $< && touch $@; } || echo "WARNING: PyTorch and\
	 transformers cannot be installed; the Hugging Face folder is NOT\
	 TESTED." >&2

requirements-%.txt:
	@echo "EXTRA=$* is not known; use EXTRA=gpu or leave it out." >&2; exit 1

# The others repeat the versions of the first, so that one environment can serve
# all of them.
lock:
	$(COMPILE) --output-file requirements.txt
	$(COMPILE) --extra dev --constraint requirements.txt \
		--output-file requirements-dev.txt
	$(COMPILE) --extra gpu --constraint requirements.txt \
		--output-file requirements-gpu.txt

clean:
	rm -rf .venv .venv-huggingface .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find configs input_pipeline trainer tests -name __pycache__ -prune \
		-exec rm -rf {} +
