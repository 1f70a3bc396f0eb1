# Each target sets up what it needs: a .venv from requirements.lock, made once and again when the lock or settings.ini changes.
PYTHON ?= python3
VENV ?= .venv
PROFILE ?= full
RUN ?= runs/$(PROFILE)
COHORT ?=
BENCH ?=
TORCH_INDEX ?=
# A path in quotes, with its ~ made good: the folders of a home or a project may have spaces in their names.
path = "$(patsubst ~/%,$$HOME/%,$(1))"
PY := $(call path,$(PYTHON))
ENV := $(call path,$(VENV))
BIN := $(ENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SAMPLE := "$${NSCLC_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nsclc_radiomics}"
BUILD := $(ENV)/build
ARCHIVE := $(SAMPLE)/archive/pyradiomics-3.0.1.tar.gz
INDEX := $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)")

# glibc gives the memory of each large array back to the system at once, and the page faults of the next one cost up to a fifth of the time.
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824

.PHONY: help setup install paper test coverage lab docs verify bench sync readme publish clean clean-runs

help:
	@echo "make paper    execute the paper's notebooks into $(RUN)  (PROFILE=full|smoke RUN=folder COHORT=folder)"
	@echo "make test     library in sync, notebooks' asserts, pytest, a smoke run of the paper"
	@echo "make coverage the tests again, and how much of the library they reach"
	@echo "make lab      JupyterLab with the right kernel"
	@echo "make docs     the executed notebooks as a site in _docs/"
	@echo "make verify   run the smoke profile twice and compare; compare the committed notebooks with the newest full run"
	@echo "make bench    every comparison of speed, into runs/bench/bench.json  (BENCH=\"features image\" for some)"
	@echo "make sync     export the library from the notebooks, clean them, and remake README.md"
	@echo "make publish  copy the newest full run's executed notebooks, normalised, into nbs/paper"
	@echo "make clean    remove .venv and built files; make clean-runs removes runs/, which are hours of work"
	@echo
	@echo "PYTHON=python3.12    the Python that .venv is made with: 3.11, 3.12 or 3.13"
	@echo "TORCH_INDEX=URL      an index of torch's CPU builds, where the usual one gives the CUDA build of several GB"

setup:
	@{ cmp -s requirements.lock $(ENV)/installed.lock && cmp -s settings.ini $(ENV)/installed.ini; } || $(MAKE) --no-print-directory install

define CHECK_PYTHON
import sys
version = sys.version_info[:2]
if version < (3, 11) or version >= (3, 14):
    why = "not tried yet with PyRadiomics and the versions of requirements.lock"
    why = "older than the library's syntax" if version < (3, 11) else why
    asked = "Python 3.11, 3.12 or 3.13 is needed; this one is %d.%d, %s: try make PYTHON=python3.12"
    sys.exit(asked % (version + (why,)))
endef
export CHECK_PYTHON

# Reads pip's report on torch: the build for GPUs is the one that requires NVIDIA's libraries on this machine.
define CHECK_TORCH
import json, sys
from pip._vendor.packaging.requirements import Requirement
needs = [Requirement(r) for i in json.load(sys.stdin)["install"] for r in i["metadata"].get("requires_dist", [])]
if any(r.name.startswith(("nvidia", "cuda")) and (r.marker is None or r.marker.evaluate({"extra": ""})) for r in needs):
    print("== torch comes as its CUDA build here: 2.7 GB to download and a .venv of 6.4 GB; its CPU build, which is")
    print("== enough here, takes 0.2 GB and 2.6 GB: to have that, stop with Ctrl-C, then make TORCH_INDEX=URL with")
    print("== the address of an index of CPU builds, which PyTorch's page on installing gives.")
endef
export CHECK_TORCH

# PyRadiomics 3.0.1 has no wheel for current Pythons; its source build needs numpy present and, from Python 3.12 on, a class that
# was taken out. It comes first: where it fails, for want of a compiler, it fails within a minute and not after all downloads.
install:
	@$(PY) -c "$$CHECK_PYTHON"
	@echo "== setting up $(VENV) from requirements.lock (some minutes, once)"
	@$(PY) -m venv $(ENV)
	@$(PIP) install -qq `grep '^pip==' requirements.lock`  # an old one takes three times as long
	@echo "== building PyRadiomics from its source archive"
	@$(PIP) install -qq --no-compile `grep -E '^(numpy|setuptools|wheel)==' requirements.lock`
	@mkdir -p $(BUILD) $(SAMPLE)/archive
	@echo "import configparser as c; c.SafeConfigParser = c.ConfigParser; c.ConfigParser.readfp = c.ConfigParser.read_file" > $(BUILD)/sitecustomize.py
	@export PYTHONPATH="`cd $(BUILD) && pwd`"; \
	{ test -f $(ARCHIVE) || \
	  $(PIP) download -qq --no-deps --no-binary :all: --no-build-isolation --dest $(SAMPLE)/archive pyradiomics==3.0.1; } && \
	$(PIP) install -qq --no-deps --no-build-isolation $(ARCHIVE) || { echo "PyRadiomics was not built (see above);" \
	  "its build needs a C compiler and Python's headers (Debian, Ubuntu: apt-get install build-essential python3-dev)" >&2; exit 2; }
	@echo "== installing the other packages"
	@$(PIP) install -qq --dry-run --no-deps --report - $(INDEX) `grep '^torch==' requirements.lock` \
	  | $(BIN)/python -c "$$CHECK_TORCH"
	@$(PIP) install -qq --no-compile $(INDEX) -r requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(ENV)/lib nsclc_radiomics >/dev/null 2>&1 || true  # on all cores; templates may fail
	@$(BIN)/python -c "import sys; from nsclc_radiomics import fetch_sample; fetch_sample(sys.argv[1])" $(ARCHIVE)
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	  git config merge.nbdev-merge.name "notebooks are merged cell by cell"; \
	  git config merge.nbdev-merge.driver "\"`cd $(BIN) && pwd`/nbdev_merge\" %O %A %B %P"; fi
	@cp settings.ini $(ENV)/installed.ini
	@cp requirements.lock $(ENV)/installed.lock
	@echo "== $(VENV) is ready"

paper: setup
	$(BIN)/nsclc-radiomics paper --run $(call path,$(RUN)) --profile $(PROFILE) $(if $(COHORT),--cohort $(call path,$(COHORT)))

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

coverage: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered tests

lab: setup
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs  # root is the user in a container

docs: setup
	$(BIN)/nsclc-radiomics docs _docs

verify: setup
	$(BIN)/nsclc-radiomics paper --run runs/verify-a --profile smoke --fresh
	$(BIN)/nsclc-radiomics paper --run runs/verify-b --profile smoke --fresh
	$(BIN)/nsclc-radiomics verify runs/verify-a runs/verify-b
	$(if $(wildcard runs/full/numbers.json),$(BIN)/nsclc-radiomics verify runs/full nbs/paper --numbers)

bench: setup
	$(BIN)/python bench/run.py $(BENCH)

sync: setup
	$(BIN)/python tools/export.py
	$(BIN)/python tools/clean.py
	$(MAKE) --no-print-directory readme

readme: setup
	$(BIN)/python -c 'from nsclc_radiomics.paper.readme import write_readme; write_readme()'

publish: setup
	$(BIN)/nsclc-radiomics publish runs/full

clean:
	rm -rf $(ENV) _docs build dist *.egg-info .pytest_cache .hypothesis

clean-runs:
	rm -rf runs
