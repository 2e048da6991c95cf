# make demo    train, export, verify and sample on handwritten digits; open demo/index.html
# make policy  train a robot policy on a toy task, import, bundle and drive it in Python and C++; open policy/policy.png
# make test    the test suite
# make test-fast  those of sampling, formats, drawing and running engines
# make test-slow  the tests that take minutes
# make check   lint, format, types and the contents of the wheel
# make sdk     the C++ SDK as an archive for machines without a compiler, in dist/
# make bench   the figures of README.md, measured side by side
# make study   the arms of the contrastive study on digits, seed by seed; takes hours, and goes on where it stopped
# make figures  the pictures of README and docs, from the demo's model
# make docs    the documentation's pages: build/site/index.html
# make gpu-check  on a machine with a CUDA device: the tests that need one, then a benchmark of 7 minutes, in gpu-check/.
#                 GPU_CHECK="--resume" goes on with it. Nothing is installed: PYTHON is what has PyTorch with CUDA

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo policy test test-fast test-slow check docs sdk bench figures study gpu-check clean

demo: $(READY)
	$(BIN)/ncdeploy demo -o demo --force

policy: $(READY) build/onnxruntime
	$(BIN)/python -m examples.policy -o policy

test: $(READY) build/onnxruntime
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 2 --dist worksteal -m "not slow and not timing"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -m "timing and not slow"
	@command -v cmake c++ >/dev/null || echo "*** NOT TESTED: the C++ SDK (cmake and a C++17 compiler are missing) ***"
	@test -d build/onnxruntime/include || echo "*** NOT TESTED: the C++ SDK on ONNX Runtime (no headers) ***"

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not timing" \
	  tests/sampling tests/formats tests/auto tests/drawing tests/backends tests/test_*.py

build/onnxruntime: $(READY)
	-PYTHON=$(BIN)/python engines/cpp/fetch_onnxruntime.sh $@

sdk: build/onnxruntime
	cmake -S engines/cpp -B build/sdk -DONNXRUNTIME_ROOT=build/onnxruntime -DNCDEPLOY_EXAMPLES=OFF
	cmake --build build/sdk --parallel
	cd build/sdk && cpack -B ../../dist

test-slow: $(READY) build/onnxruntime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow --timeout 1200

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: $(READY) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint engines/docker/*.Dockerfile
	$(BIN)/python -m pytest -q tests/test_packaging.py

study: $(READY)
	$(BIN)/python -m benchmarks.contrastive --data digits -o study.jsonl
	$(BIN)/python -m benchmarks.contrastive.summary study.jsonl -o study

bench: $(READY)
	$(BIN)/python -m benchmarks

figures: $(READY)
	@test -e demo/model.onnx || $(MAKE) demo
	$(BIN)/python -m benchmarks.figures demo/model.onnx -o docs/images

gpu-check:
	@tests=0; $(PYTHON) -m pytest -q -rs -W ignore::pytest.PytestConfigWarning tests/gpu || tests=$$?; \
	$(PYTHON) -m benchmarks.gpu -o gpu-check $(GPU_CHECK) && exit $$tests

clean:
	rm -rf $(VENV) demo policy gpu-check build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[torch,cpu,rtx,serve,report,test,check,docs]'
	touch $@
