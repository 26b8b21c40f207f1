# The commands a user needs. Each sets up .venv by itself, and leaves an up-to-date one alone.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.ready
LOCKS := requirements.txt requirements-dev.txt
TOOLS := build/tools/.ready
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help run test lint check report seeds sweep verify fuzz soak licences audit cache bench readme lock clean check-tools browser

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */make \1\t/' | expand -t 16

run: $(STAMP)  ## fetch, train and evaluate: dvc repro
	@python -m stages.entry
	@python -m stages.mend
	@echo "make run: dvc repro (runs only what changed)"
	@dvc repro

test: $(STAMP) browser  ## the whole test suite
	@echo "make test: pytest"
	@python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## ruff: rules and formatting
	@ruff check .
	@ruff format --check .

check: $(STAMP)  ## did metrics get worse? BASE=REV names another base than main, SPLIT=test test's, MARKDOWN=FILE a place for the table
	@qc check $(if $(BASE),--base '$(BASE)') $(if $(SPLIT),--split '$(SPLIT)') $(if $(MARKDOWN),--markdown '$(MARKDOWN)')

report: run  ## the last run on one page: report/index.html
	@python -m stages.report

seeds: $(STAMP)  ## the pipeline with training seeds 1 to 5, as DVC experiments; writes metrics/seeds.json
	@python -m stages.seeds

sweep: $(STAMP)  ## search the parameters of each model, by validation (about an hour); writes docs/sweep.md
	@python -m stages.sweep

verify: $(STAMP)  ## run the last commit twice from nothing, and compare every byte
	@python -m stages.verify

fuzz: $(STAMP) $(TOOLS)  ## bad input at random: whatever a file may hold, and a million inputs to the parser of questions
	@python -m pytest -n auto --quiet --hypothesis-profile search tests/test_fuzz.py
	@PYTHONPATH=src build/tools/bin/python -m tests.fuzz_parser $(or $(RUNS),1000000)

soak: $(STAMP) $(TOOLS)  ## damage, kill and change a small pipeline, for about 35 minutes; writes docs/reliability.md
	@python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES))

licences: $(STAMP) $(TOOLS)  ## the licence of every package of the environment
	@build/tools/bin/pip-licenses --python=$(BIN)/python --from=mixed --order=license

audit: $(TOOLS)  ## known vulnerabilities of the pinned packages, by a database on the network
	@build/tools/bin/pip-audit --strict --no-deps --disable-pip $(foreach file,$(LOCKS),--requirement $(file)) \
		|| { echo "error: make audit: not clean, or the database was not to be had (then nothing is known); see above" >&2; exit 1; }

cache: $(STAMP)  ## look for damaged bytes in DVC's cache and the outputs; what is damaged is removed from the cache
	@python -m stages.cache

bench: $(STAMP)  ## time ours against what one would run instead (about half an hour); writes benchmarks/results.json
	@python -m benchmarks.run

readme: $(STAMP)  ## write the result tables of the last run into README.md
	@python -m stages.results

lock:  ## resolve pyproject.toml anew into requirements.txt, which every stage depends on, and requirements-dev.txt
	@echo "resolving pyproject.toml in a fresh environment (about three minutes)"
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder" \
		&& freeze() { "$$folder/bin/pip" list --format=freeze | grep -viE '^(pip|qc)==' | sed 's/+cpu$$//' | sort -f; } \
		&& "$$folder/bin/pip" install --quiet "$$(sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml)" . \
		&& freeze > "$$folder/run" && "$$folder/bin/pip" install --quiet ".[dev]" && freeze > "$$folder/all" \
		&& if grep -Fxvf "$$folder/all" "$$folder/run" >&2; then \
			echo "error: make lock: with [dev] these packages are of other versions" >&2; exit 1; fi \
		&& { echo "# What the stages run with: every package of \`pip install .\`, as pip resolved pyproject.toml. Made by: make lock"; \
			cat "$$folder/run"; } > requirements.txt \
		&& { echo "# What the tests and tools take besides. Made by: make lock"; \
			grep -Fxvf "$$folder/run" "$$folder/all"; } > requirements-dev.txt

clean:  ## remove the environment, tool caches and states of stopped runs; data, models and DVC's cache stay
	rm -rf $(VENV) .state report .pytest_cache .ruff_cache .hypothesis logs dvc_plots build src/*.egg-info
	find src stages tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

check-tools:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@command -v git >/dev/null || { echo "error: git not found; install it (Debian: apt-get install git)" >&2; exit 1; }

$(TOOLS): Makefile | check-tools
	@echo "setting up build/tools: atheris, pip-audit, pip-licenses"
	@$(PYTHON) -m venv build/tools
	@build/tools/bin/pip install --quiet --disable-pip-version-check atheris==3.0.0 pip-audit==2.10.1 pip-licenses==5.5.5
	@touch $(TOOLS)

browser: APT := $(if $(filter 0,$(shell id -u)),,sudo -n )apt-get
browser: | $(STAMP)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		echo "installing chromium, in which the tests open the report"; \
		$(APT) update -qq && DEBIAN_FRONTEND=noninteractive $(APT) install -y -qq chromium >/dev/null; \
		} || { echo "error: chromium not found; install it (Debian: apt-get install chromium)" >&2; exit 1; }

$(STAMP): $(LOCKS) pyproject.toml | check-tools
	@exec 9<requirements.txt; $(PYTHON) -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'; \
		for file in $^; do test $(STAMP) -nt $$file || old=$$file; done; \
		if test -z "$$old"; then exit; fi; `# another make did it` \
		echo "setting up $(VENV) from $(LOCKS) (about two minutes the first time)" \
		&& { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check $(foreach file,$(LOCKS),--requirement $(file)) \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . \
		&& touch $(STAMP) && echo "$(VENV) is ready"
