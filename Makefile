# Each target does all its set-up; none needs another to have run before. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STARTED := $(VENV)/.run-started
CONFIG ?= scenario_configs/mg_mdnf_pgd_l2.json
BASELINE ?= scenario_configs/none_pgd_l2.json
UTTERANCES ?= 3
ARMORY_FLAGS ?=
PYTEST_FLAGS ?=
LOG := --log-level armory:METRIC
SPLIT ?= human
CONFIGS ?= $(addsuffix _pgd_l2,none rs mg mg_mdnf wg wg_mdnf)

# TensorFlow's start-up notes, and the plotting and Qt back ends that nothing here shows a window with.
export TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_ENABLE_ONEDNN_OPTS ?= 0
export MPLBACKEND ?= Agg
export KMP_WARNINGS ?= 0
export PIP_DEFAULT_TIMEOUT ?= 120

.PHONY: help install configure demo run test test-slow test-portable lint results configs bench tables api report clean distclean

help:  ## list the targets
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install configure  ## no defence and MG-MDNF under an l2 PGD attack in Armory, side by side (UTTERANCES=3)
	@$(BIN)/python -W ignore tools/demo.py --armory $(BIN)/armory --utterances $(UTTERANCES) $(BASELINE) $(CONFIG) \
	  $(ARMORY_FLAGS)

run: install configure  ## run all of CONFIG in Armory, and print what came out
	@touch $(STARTED)
	$(BIN)/armory run $(CONFIG) $(LOG) $(ARMORY_FLAGS)
	@$(BIN)/armory-mdnf summary --newer-than $(STARTED)

test: install configure  ## run the tests but for the slow ones (PYTEST_FLAGS=--random-order)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_FLAGS)

test-slow: install configure  ## run the slow tests, which CI runs too
	$(BIN)/python -m pytest -m slow $(PYTEST_FLAGS)

# Processors without AVX, and MKL's and torch's paths for others, imitated on this one; with one thread and with two.
test-portable: install configure  ## run the tests that compare floating point as on other processors
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 TEST_THREADS=1 \
	  $(BIN)/python -m pytest -m "numeric and not slow" $(PYTEST_FLAGS)
	ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE TEST_THREADS=2 \
	  $(BIN)/python -m pytest -m "numeric and not slow" $(PYTEST_FLAGS)

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

results: install configure  ## run CONFIGS (file stems) on SPLIT=human or synthetic and record them in results/
	@for name in $(CONFIGS); do \
	  touch $(STARTED); \
	  sed -E 's/"(eval_)?split": "[a-z_]*"/"\1split": "$(SPLIT)"/' "scenario_configs/$$name.json" \
	    | $(BIN)/armory run - $(LOG) $(ARMORY_FLAGS); \
	  $(BIN)/armory-mdnf record --newer-than $(STARTED) "results/$(SPLIT)/$$name.json"; \
	done

configs:  ## write scenario_configs/ from the tables of tools/make_configs.py
	python3 tools/make_configs.py

bench: install  ## measure the attacks' speed on this machine, held against its bars: results/bench/
	@missed=0; $(BIN)/python -W ignore -m benchmarks.attack || missed=$$?; \
	if $(BIN)/python -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then \
	  $(BIN)/python -W ignore -m benchmarks.gpu; \
	else echo "no GPU here: results/bench/gpu.json is not written"; fi; \
	exit $$missed

tables: install  ## write the tables of the recorded results in README.md and docs/
	$(BIN)/armory-mdnf report-table --write docs/results.md
	$(BIN)/armory-mdnf report-table --headline --write README.md
	@mkdir -p docs/figures
	$(BIN)/armory-mdnf plot results --headline -o docs/figures/headline.svg \
	  --title "White-box l2 attack of 1.5, 100 iterations"
	$(BIN)/armory-mdnf plot --sensitivity -o docs/figures/noise_sensitivity.svg --title "What two draws of MDNF's noise have in common"
	$(BIN)/armory-mdnf report-table --findings --write docs/findings.md
	$(BIN)/armory-mdnf claims results --write docs/claims.md

api:  ## write docs/api.md from the docstrings
	python3 tools/write_api.py

report: install  ## make report.html of the recorded results
	$(BIN)/armory-mdnf report results -o report.html

install: $(INSTALLED)  ## make .venv and install the package in it, with Armory

$(INSTALLED): setup.cfg pyproject.toml constraints.txt tools/install.sh
	@rm -f $@
	tools/install.sh $(VENV) -e '.[armory,dev]'
	@touch $@

# Armory keeps its folders in ~/.armory/config.json. One that is there already is left as it is.
configure: install
	@[ -f "$$HOME/.armory/config.json" ] || $(BIN)/armory configure --use-defaults

clean:  ## remove what tests and builds leave behind
	rm -rf build dist *.egg-info tools/*/build tools/*/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find armory_mdnf tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## also remove .venv
	tools/remove_venv.sh $(VENV)
