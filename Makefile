# make demo   from nothing to a trained and evaluated detector
# make test   from nothing to the whole test suite
# make help   all targets
#
# Set-up happens where something is missing; what stands is used again. Variables to override:
#   PYTHON=python3.12                      the Python that makes .venv (3.10 or later)
#   TORCH_SPEC="torch==2.8.* torchvision"  what to install (pip options allowed)
#   TCM_D2_CUDA=0 | 1                      never / always compile CUDA kernels (default: auto)
#   TCM_D2_BUILD=none                      compile nothing at all: slow operators of plain torch
#   TORCH_CUDA_ARCH_LIST="8.0;9.0"         GPU architectures to compile for

PYTHON ?= python3
VENV ?= .venv
TORCH_SPEC ?= torch torchvision
TCM_D2_CUDA ?= auto
TCM_D2_BUILD ?= auto
MODEL ?= tcm_fcos
DEMO_DIR ?= output/demo
DEMO_ARGS ?=
PYTEST_ARGS ?=
# Processes that share the test files; each computes with one thread.
TEST_WORKERS ?= -n auto --maxprocesses=4 --dist loadfile
# What answers "did I break it" in a minute: each part of the library once, on small inputs.
QUICK_TESTS := tests/test_architecture.py tests/test_public_api.py tests/config tests/structures \
  tests/layers tests/ops/test_iou.py tests/ops/test_nms.py tests/ops/test_gradients.py \
  tests/modeling/test_seats.py tests/modeling/test_one_stage.py tests/modeling/test_losses_by_name.py \
  tests/data/test_mapper.py tests/data/dota tests/evaluation/scoring tests/evaluation/files \
  tests/evaluation/test_merge.py tests/engine/test_loop.py tests/inference/test_seams.py \
  tests/parity/test_golden_conversions.py tests/parity/test_golden_fcos_head.py
BENCH_ARGS ?= ops

PY := $(VENV)/bin/python
PIP := $(PY) -m pip
PIP_INSTALL := $(PIP) install --quiet --no-input --disable-pip-version-check
STAMPS := $(VENV)/.stamps
CSRC := $(wildcard tcm_d2/csrc/*.* tcm_d2/csrc/*/*.*)
INSTALLER := tcm_d2/cli/install_detectron2.py tcm_d2/cli/detectron2_edits.py

# The build switches are part of the stamp's name, so that changing one compiles again.
empty :=
space := $(empty) $(empty)
BUILD_NAME := $(subst /,-,$(subst ;,-,$(subst $(space),-,$(TCM_D2_BUILD)-$(TCM_D2_CUDA)-$(TORCH_CUDA_ARCH_LIST))))
PACKAGE := $(STAMPS)/package-$(BUILD_NAME)

export TCM_D2_CUDA TCM_D2_BUILD
export PYTHONNOUSERSITE := 1
# Idle OpenMP threads sleep: spinning ones slow everything else on a small machine down.
export OMP_WAIT_POLICY ?= PASSIVE
ifneq ($(strip $(TORCH_CUDA_ARCH_LIST)),)
export TORCH_CUDA_ARCH_LIST
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install demo test quick faults lint format bench package pretrained clip docs env clean distclean FORCE

help: ## list the targets
	@echo "Targets (set-up happens where something is missing):"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON, TORCH_SPEC, TCM_D2_CUDA=auto|0|1, TORCH_CUDA_ARCH_LIST, MODEL,"
	@echo "           DEMO_DIR, PYTEST_ARGS; see the head of the Makefile."

install: $(PACKAGE) ## create .venv, install everything, compile the extension

demo: $(PACKAGE) ## train and evaluate on the embedded data set (MODEL=tcm_fcos)
	@$(PY) tools/demo_embedded.py --output $(DEMO_DIR) --model $(MODEL) $(DEMO_ARGS)

test: $(PACKAGE) ## run the whole test suite (PYTEST_ARGS="-k ops")
	@$(PY) -m pytest $(TEST_WORKERS) $(PYTEST_ARGS)

quick: lint ## lint and the tests that answer "did I break it"
	@$(PY) -m pytest -q $(TEST_WORKERS) $(QUICK_TESTS)

faults: $(PACKAGE) ## hostile files, kills and a large scene, the long run (a quarter of an hour)
	@$(PY) -m pytest -q tests/faults tests/engine/test_mishaps.py tests/engine/test_kill.py
	@$(PY) -m tests.faults.hostile_rasters --minutes 4
	@$(PY) -m tests.faults.hostile_weights --minutes 2
	@$(PY) -m tests.faults.killed_runs --minutes 2
	@$(PY) -m tests.faults.large_scene

lint: $(PACKAGE) ## check format, ruff, mypy and clang-format
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CSRC)

format: ## reformat Python and C++ sources
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(VENV)/bin/clang-format -i $(CSRC)

bench: $(PACKAGE) ## run a benchmark suite on this machine (BENCH_ARGS="ops")
	@$(PY) tools/benchmark.py $(BENCH_ARGS)

package: $(PACKAGE) ## build source package and wheels into dist, use one in a clean environment
	@$(PY) tools/check_packages.py --output dist

PRETRAINED_DIR ?= output/pretrained
# Renders that the detector in the package learns from: photo-like ones, such ones of rare and large
# things, and a few of the embedded set.
$(PRETRAINED_DIR)/rendered: | $(PACKAGE)
	$(PY) tools/make_synthetic_dota.py --preset photo --num-train 3900 --num-val 0 --seed 1 \
	  --output $(PRETRAINED_DIR)/photo
	$(PY) tools/make_synthetic_dota.py --preset landmarks --num-train 1500 --num-val 0 --seed 4 \
	  --output $(PRETRAINED_DIR)/landmarks
	$(PY) tools/make_synthetic_dota.py --preset demo --num-train 120 --num-val 0 --seed 1 \
	  --output $(PRETRAINED_DIR)/plain
	for set in photo landmarks plain; do \
	  $(PY) tools/split_dota.py --images $(PRETRAINED_DIR)/$$set/train/images \
	    --labels $(PRETRAINED_DIR)/$$set/train/labelTxt --out $(PRETRAINED_DIR)/$${set}_patches \
	    --size 384 --gap 256 --object-iof 0.45 || exit 1; \
	done
	touch $@

pretrained: $(PRETRAINED_DIR)/rendered ## train the detector in tcm_d2/pretrained again (two hours)
	$(PY) tools/demo_embedded.py --model tcm_atss --num-train 320 --output $(PRETRAINED_DIR) -- \
	  SOLVER.MAX_ITER 2600 SOLVER.STEPS "(1900, 2400)"
	$(PY) tools/train_net.py --config-file configs/embedded_tcm_atss_photo.yaml --resume \
	  DATASETS.PATCH_DIRS "['photo=$(PRETRAINED_DIR)/photo_patches', \
	    'landmarks=$(PRETRAINED_DIR)/landmarks_patches', \
	    'plain=$(PRETRAINED_DIR)/plain_patches', \
	    'held_out=$(PRETRAINED_DIR)/data/val_patches=$(PRETRAINED_DIR)/data/val/labelTxt']" \
	  DATASETS.TRAIN "('photo', 'plain', 'landmarks', 'landmarks')" DATASETS.TEST "('held_out',)" \
	  MODEL.WEIGHTS $(PRETRAINED_DIR)/tcm_atss/model_final.pth \
	  OUTPUT_DIR $(PRETRAINED_DIR)/tcm_atss_photo
	$(PY) tools/convert_checkpoint.py --for-inference --overwrite \
	  --weights $(PRETRAINED_DIR)/tcm_atss_photo/model_final.pth \
	  --config-file configs/embedded_tcm_atss_photo.yaml \
	  --output tcm_d2/pretrained/tcm_atss_embedded.safetensors OUTPUT_DIR output

clip: $(PACKAGE) ## pre-train the embedded CLIP again (half an hour)
	$(PY) tools/pretrain_clip.py

docs: $(PACKAGE) ## build the API reference and the guides into docs/_build
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html

env: $(PACKAGE) ## print versions, the extension's state and devices
	@$(PY) -m tcm_d2.collect_env

clean: ## remove what was compiled, made and cached; keep .venv
	rm -rf build dist *.egg-info tcm_d2/*.so output/demo docs/_build docs/api
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis $(STAMPS)/package-*
	find tcm_d2 tests tools configs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)

# --- set-up, one stamp per step ---------------------------------------------------------------

VENV_WORKS := $(shell $(PY) -c 'import pip, sys; print(int(sys.version_info >= (3, 10)))' 2>/dev/null)
ifneq ($(VENV_WORKS),1)
$(STAMPS)/venv: FORCE
endif

$(STAMPS)/venv:
	@if [ "$(VENV_WORKS)" != 1 ]; then \
	  echo "==> creating $(VENV)"; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "error: $(PYTHON) is not a Python >= 3.10; name another one: make PYTHON=python3.12 ..."; exit 1; }; \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) || { \
	    echo "error: $(PYTHON) -m venv failed; on Debian and Ubuntu install the package python3-venv"; exit 1; }; \
	fi
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	@if $(PY) -c 'import torch, torchvision, setuptools, wheel, ninja' 2>/dev/null; then \
	  echo "==> torch and torchvision are installed already"; \
	else \
	  echo "==> installing $(TORCH_SPEC) (the largest download: about 2 to 5 minutes)"; \
	  $(PIP_INSTALL) --no-compile $(TORCH_SPEC) "setuptools>=77" wheel ninja packaging numpy </dev/null || { \
	    echo "error: torch could not be installed; is the package registry reachable, and is there"; \
	    echo "a torch for this Python? Choose another with: make TORCH_SPEC=\"torch==2.8.* torchvision\" ..."; exit 1; }; \
	fi
	@touch $@

$(STAMPS)/detectron2: $(STAMPS)/torch $(INSTALLER)
	@echo "==> Detectron2 (about half a minute where missing)"
	@$(PY) tools/install_detectron2.py </dev/null
	@touch $@

$(PACKAGE): $(STAMPS)/detectron2 setup.py pyproject.toml tcm_d2/build_config.py $(CSRC)
	@echo "==> installing tcm_d2 and compiling its extension (one to two minutes)"
	@$(PY) setup.py -q describe
	@$(PIP_INSTALL) --no-build-isolation -e '.[dev]' </dev/null || { \
	  echo "error: tcm_d2 could not be installed; the messages above say why. Without CUDA kernels:"; \
	  echo "make TCM_D2_CUDA=0 ..."; exit 1; }
	@rm -f $(STAMPS)/package-* && touch $@

FORCE:
