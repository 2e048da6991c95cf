# make demo    train, export, verify and sample on handwritten digits; open demo/index.html
# make test    the test suite
# make test-slow  the tests that take minutes
# make check   lint, format, types and the contents of the wheel
# make bench   the figures of README.md, measured side by side
# make study   the arms of the contrastive study on digits, seed by seed; takes hours, and goes on where it stopped
# make gpu-check  the tests that need a CUDA device

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow check bench study gpu-check clean

demo: $(READY)
	$(BIN)/ncdeploy demo -o demo

test: $(READY) build/onnxruntime
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 2 --dist worksteal -m "not slow"
	@command -v cmake c++ >/dev/null || echo "*** NOT TESTED: the C++ SDK (cmake and a C++17 compiler are missing) ***"
	@test -d build/onnxruntime/include || echo "*** NOT TESTED: the C++ SDK on ONNX Runtime (no headers) ***"

build/onnxruntime: $(READY)
	-PYTHON=$(BIN)/python engines/cpp/fetch_onnxruntime.sh $@

test-slow: $(READY) build/onnxruntime
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow --timeout 1200

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_packaging.py

study: $(READY)
	$(BIN)/python -m benchmarks.contrastive --data digits -o study.jsonl
	$(BIN)/python -m benchmarks.contrastive.summary study.jsonl -o study

bench: $(READY)
	$(BIN)/python -m benchmarks

gpu-check:
	$(PYTHON) -m pytest -q -m gpu

clean:
	rm -rf $(VENV) demo build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,cpu,test,check]'
	touch $@
