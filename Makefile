# Two commands do everything on a fresh machine with Python 3.11 or newer: make demo, make test.
# They install into .venv here, the demo writes into demo/ here, and nothing else is touched.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo test lint bench

$(VENV)/installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

test: $(VENV)/installed
	$(PY) -m pytest -n 2

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bench: $(VENV)/installed requirements-bench.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

# Speed and memory of a training step beside two other packages', into benchmarks/results/training: 20 minutes on two
# cores; `make bench BENCH=--quick` sees that it runs.
bench: $(VENV)/bench
	$(PY) benchmarks/training.py --overwrite $(BENCH)

# The whole pipeline at a size for two CPU cores. Stopped and started again, it goes on where it was.
SMALL := --data demo/patches --workers 1 --recipe improved --epochs 8
WIDTH := 24
PRETRAIN := $(SMALL) --dim $(WIDTH) --sample-every 8
FINETUNE := $(SMALL)

demo/raw/MoNuSegTestData: | $(VENV)/installed
	$(PY) pre_process/demo/make_demo_data.py --output demo/raw

demo/patches/dataset.json: | demo/raw/MoNuSegTestData
	$(PY) pre_process/MoNuSeg/preprocess.py --raw demo/raw --output demo/patches --patch-size 64 --stride 32

demo: $(VENV)/installed demo/patches/dataset.json
	$(PY) GenSelfDiff/pretrain/SS_diff.py $(PRETRAIN) --run-name $(CURDIR)/demo/pretrain
	$(PY) GenSelfDiff/downstream_train/Diff_Seg.py $(FINETUNE) --run-name $(CURDIR)/demo/without_pretraining \
	    --pretrained scratch --dim $(WIDTH)
	$(PY) GenSelfDiff/downstream_train/Diff_Seg.py $(FINETUNE) --run-name $(CURDIR)/demo/with_pretraining \
	    --pretrained demo/pretrain
	$(PY) image_generation.py --data demo/patches --pretrained demo/pretrain --output demo/generated --count 8 \
	    --sampler ddim --eta 1 --steps 200
	for run in without_pretraining with_pretraining; do \
	    $(PY) GenSelfDiff/test/test_script.py --data demo/patches --run demo/$$run --output demo/results/$$run \
	        --overwrite || exit; done
	$(PY) GenSelfDiff/test/compare.py demo/results/without_pretraining demo/results/with_pretraining \
	    --output demo/compare --overwrite
