# Each target sets up what it needs: a .venv from requirements.lock, made once and again when the lock changes.
PYTHON ?= python3
VENV ?= .venv
PROFILE ?= full
RUN ?= runs/$(PROFILE)
COHORT ?=
BENCH ?=
BIN := $(VENV)/bin
SAMPLE := $${NSCLC_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nsclc_radiomics}
BUILD := $(VENV)/build
ARCHIVE := $(SAMPLE)/archive/pyradiomics-3.0.1.tar.gz

# glibc gives the memory of each large array back to the system at once, and the page faults of the next one cost up to a fifth of the time.
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824

.PHONY: help setup install paper test lab docs verify bench sync readme publish clean

help:
	@echo "make paper    execute the paper's notebooks into $(RUN)  (PROFILE=full|smoke RUN=folder COHORT=folder)"
	@echo "make test     library in sync, notebooks' asserts, pytest, a smoke run of the paper"
	@echo "make lab      JupyterLab with the right kernel"
	@echo "make docs     the executed notebooks as a site in _docs/"
	@echo "make verify   run the smoke profile twice and compare; compare the committed notebooks with the newest full run"
	@echo "make bench    every comparison of speed, into runs/bench/bench.json  (BENCH=\"features image\" for some)"
	@echo "make sync     export the library from the notebooks, clean them, and remake README.md"
	@echo "make publish  copy the newest full run's executed notebooks, normalised, into nbs/paper"
	@echo "make clean    remove .venv, runs and built files"

setup:
	@cmp -s requirements.lock $(VENV)/installed.lock || $(MAKE) --no-print-directory install

# PyRadiomics 3.0.1 has no wheel for current Pythons; its source build needs numpy present and, from Python 3.12 on, a class that was taken out.
install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version`: try make PYTHON=python3.11" >&2; exit 2; }
	@echo "== setting up $(VENV) from requirements.lock (some minutes, once)"
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check `grep '^pip==' requirements.lock`  # an old one takes three times as long
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@$(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib nsclc_radiomics >/dev/null || true  # on all cores, which pip does on one; a package's templates may not compile
	@mkdir -p $(BUILD)
	@echo "import configparser as c; c.SafeConfigParser = c.ConfigParser; c.ConfigParser.readfp = c.ConfigParser.read_file" > $(BUILD)/sitecustomize.py
	@test -f $(ARCHIVE) || { mkdir -p $(SAMPLE)/archive && \
	  PYTHONPATH=$(BUILD) $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
	    --dest $(SAMPLE)/archive pyradiomics==3.0.1; }
	PYTHONPATH=$(BUILD) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(ARCHIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -c "from nsclc_radiomics.cohort import fetch_sample; fetch_sample('$(ARCHIVE)')"
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	  git config merge.nbdev-merge.name "notebooks are merged cell by cell"; \
	  git config merge.nbdev-merge.driver "$(abspath $(BIN))/nbdev_merge %O %A %B %P"; fi
	@cp requirements.lock $(VENV)/installed.lock
	@echo "== $(VENV) is ready"

paper: setup
	$(BIN)/nsclc-radiomics paper --run $(RUN) --profile $(PROFILE) $(if $(COHORT),--cohort $(COHORT))

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

lab: setup
	$(BIN)/jupyter lab nbs

docs: setup
	$(BIN)/nsclc-radiomics docs _docs

verify: setup
	$(BIN)/nsclc-radiomics paper --run runs/verify-a --profile smoke --fresh
	$(BIN)/nsclc-radiomics paper --run runs/verify-b --profile smoke --fresh
	$(BIN)/nsclc-radiomics verify runs/verify-a runs/verify-b
	$(if $(wildcard runs/full/numbers.json),$(BIN)/nsclc-radiomics verify runs/full nbs/paper --numbers)

bench: setup
	$(BIN)/python tests/bench.py $(BENCH)

sync: setup
	$(BIN)/nbdev_export
	$(BIN)/python -c 'from glob import glob; from nbdev.clean import nbdev_clean; [nbdev_clean(f) for f in glob("nbs/[!i]*.ipynb")]'  # executed notebooks stay as they are
	$(MAKE) --no-print-directory readme

readme: setup
	$(BIN)/jupyter nbconvert --log-level WARN --to markdown --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags=remove-input --output-dir . --output README nbs/index.ipynb

publish: setup
	$(BIN)/nsclc-radiomics publish runs/full

clean:
	rm -rf $(VENV) runs _docs build dist *.egg-info .pytest_cache .hypothesis
