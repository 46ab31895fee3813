# One word per task; `make` alone lists them. Needs make and Python 3.11 or newer, nothing else.
#
#   PYTHON   the interpreter that makes the environments
#   TORCH    which torch `make` installs; set PIP_EXTRA_INDEX_URL for another build of it, such as CPU only
#   VENV     where the environment goes

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BARE ?= .venv-bare
WORKERS ?= 2
SECONDS ?= 60
KILLS ?= 300
TARGETS ?=
BIN := $(VENV)/bin
BARE_TESTS := tests/unpickling tests/formats tests/verbs tests/cli
PIP_FLAGS := --disable-pip-version-check --quiet
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help train test lint types suite bare soak fuzz bench gpu-check integrations readme clean

help:
	@echo "make train      install what training needs, then train LeNet on handwritten digits"
	@echo "make test       lint, types, the whole suite, and the file side without torch"
	@echo "make soak       kill trainings hundreds of times; KILLS=1000 for more, then the long tests; takes an hour"
	@echo "make fuzz       fuzz every reader, a minute each; SECONDS=3600 for longer, TARGETS=\"scan program\" for some"
	@echo "make bench      measure against the budgets; results go to benchmarks/results"
	@echo "make gpu-check  the tests and measurements that need a GPU"
	@echo "make integrations  the tests under Lightning, Hugging Face and Accelerate, which it installs"
	@echo "make readme     run the commands of the README again and paste their output"
	@echo "make clean      remove the environments and caches; runs/ stays"

train: $(VENV)/.train
	$(BIN)/rekindle train digits
	@echo "(before these, once in this shell: . $(BIN)/activate)"

test: lint types suite bare

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Tests that kill real processes depend on when the kernel runs them: what failed beside others is run once more alone.
suite: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q || \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -q

# The package as users without torch get it: built, installed and used, first with nothing beside it. The tools for the
# tests of the file side come after that.
bare: | $(BARE)/.made
	$(BARE)/bin/python -m pip $(PIP_FLAGS) install --force-reinstall --no-deps .
	$(BARE)/bin/python scripts/bare_check.py
	$(BARE)/bin/python -m pip $(PIP_FLAGS) install pytest pytest-timeout pytest-xdist hypothesis
	$(BARE)/bin/python -m pytest -n $(WORKERS) --dist worksteal -q -rN $(BARE_TESTS)

soak: $(VENV)/.dev
	$(BIN)/python scripts/soak.py --kills $(KILLS)
	$(BIN)/python -m pytest -m soak -n $(WORKERS) --dist worksteal --timeout 3600 -q

# atheris is an extra of its own: it has wheels for x86-64 Linux only. Without it the command says so.
fuzz: $(VENV)/.dev
	-$(BIN)/pip install $(PIP_FLAGS) -e ".[fuzz]"
	$(BIN)/python scripts/fuzz.py $(TARGETS) --seconds $(SECONDS)

bench: $(VENV)/.dev
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

gpu-check: $(VENV)/.dev
	@$(BIN)/python scripts/gpu_check.py

# Heavy libraries, in the same environment: `make test` skips these tests where the libraries are not installed.
integrations: $(VENV)/.dev
	$(BIN)/python -m pip $(PIP_FLAGS) install -e '.[integrations]'
	$(BIN)/python -m pytest tests/integrations -q

readme: $(VENV)/.dev
	$(BIN)/python scripts/readme_output.py

clean:
	rm -rf $(VENV) $(BARE) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by itself, so that the build chosen here is the one that stays.
$(VENV)/.train: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip $(PIP_FLAGS) install "$(TORCH)"
	$(BIN)/python -m pip $(PIP_FLAGS) install -e '.[train]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.train
	$(BIN)/python -m pip $(PIP_FLAGS) install -e '.[dev]'
	@touch $@

$(VENV)/.made $(BARE)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rekindle needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
	  echo "  do      make train PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: its venv module is not installed"; \
	  echo "  do      apt install python3-venv    (Debian, Ubuntu; other systems name it python3-venv as well)"; exit 2; }
	$(PYTHON) -m venv --clear $(@D)
	@$(if $(filter $(BARE)/%,$@),$(@D)/bin/python -m pip $(PIP_FLAGS) install "rich>=13.7",:)
	@touch $@
