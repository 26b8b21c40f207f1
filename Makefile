# The commands a user needs. Each sets up .venv by itself, and leaves an up-to-date one alone.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.ready
LOCKS := requirements.txt requirements-dev.txt
CUDA := requirements-cuda.txt
BIN := $(VENV)/bin
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONSAFEPATH PYTHONOPTIMIZE  # stages are found in this folder; transformers reads docstrings

.PHONY: help run test soak lint bench lock clean check-tools browser qemu slurm node

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */make \1\t/' | expand -t 16

run: $(STAMP)  ## fetch, train and evaluate: dvc repro (about 2 minutes)
	@qc doctor --quick --fix
	@echo "make run: dvc repro (runs only what changed)"
	@dvc repro

test: $(STAMP) browser  ## the test suite (about 5 minutes)
	@echo "make test: pytest"
	@python -m pytest $(PARALLEL)

soak: $(STAMP) qemu slurm node  ## slower proofs: kills, machines, processes, exports, fuzzed files (about 11 minutes)
	@echo "make soak: pytest -m soak"
	@python -m pytest $(PARALLEL) -m soak

lint: $(STAMP)  ## ruff: rules and formatting
	@ruff check .
	@ruff format --check .

bench: $(STAMP)  ## time ours and what one would run instead (about 25 minutes); writes benchmarks/results.json
	@python -m benchmarks.run

lock:  ## resolve pyproject.toml again into the requirements files; every stage depends on requirements.txt
	@$(PYTHON) tests/lock.py

clean:  ## remove the environment, tool caches and states of stopped runs; data, models and DVC's cache stay
	rm -rf $(VENV) .state report .pytest_cache .ruff_cache .hypothesis logs dvc_plots build src/*.egg-info
	find src stages tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

check-tools:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@command -v git >/dev/null || { echo "error: git not found; install it (Debian: apt-get install git)" >&2; exit 1; }

# install a Debian package (1) unless one of its programs (2) is there, in which or with which the tests do (3)
APT = $(if $(filter 0,$(shell id -u)),,sudo -n )apt-get
need = for program in $(2); do command -v $$program >/dev/null && exit; done; \
	echo "installing $(1), by which the tests $(3)"; \
	$(APT) update -qq && DEBIAN_FRONTEND=noninteractive $(APT) install -y -qq $(1) >/dev/null \
	|| { echo "error: $(firstword $(2)) not found; install it (Debian: apt-get install $(1))" >&2; exit 1; }

browser: | $(STAMP)
	@$(call need,chromium,chromium google-chrome,open the report)

node: | $(STAMP)
	@$(call need,nodejs npm,npm,open an export in JavaScript)

qemu: | $(STAMP)
	@$(call need,qemu-user,qemu-x86_64,emulate other processors)

slurm: | $(STAMP)
	@$(call need,slurm-wlm,sbatch,run a job of a cluster)

# the environment of a moved or copied folder names the old one in all of its programs
HERE = grep -qsF '$(CURDIR)/$(BIN)/' $(BIN)/pip
ifneq ($(shell $(HERE) && echo here),here)
.PHONY: $(STAMP)
endif

$(STAMP): $(LOCKS) $(CUDA) pyproject.toml | check-tools
	@exec 9<requirements.txt; $(PYTHON) -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'; \
		for file in $^; do test $(STAMP) -nt $$file || old=$$file; done; \
		if test -z "$$old" && $(HERE); then exit; fi; `# another make did it` \
		echo "setting up $(VENV) from $(LOCKS) (about two minutes the first time)" \
		&& { $(HERE) || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }; } \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix --requirement ,$(LOCKS)) --constraint $(CUDA) \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . \
		&& touch $(STAMP) && echo "$(VENV) is ready"
