# `make demo` and `make test` work from a fresh clone: they need Python >= 3.10, a C++ compiler and make, and put
# everything else into .venv. `make help` lists the targets.
#
# Where pip's default PyTorch is a large CUDA build and the CPU build is enough, point PIP_EXTRA_INDEX_URL to
# PyTorch's index of CPU builds before the first call.

PYTHON ?= python3
VENV ?= .venv
ifeq ($(origin CXX),default)
CXX := c++
endif

BIN := $(VENV)/bin
PY := $(BIN)/python
CONSTRAINTS := requirements/constraints.txt
# Python compiles what it imports, when it does: a quarter of the time of compiling all of it now.
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-compile --constraint $(CONSTRAINTS)
CUDA_PIP := build/cuda-load/venv/bin/python -m pip --disable-pip-version-check install --quiet
SOURCES := $(shell find csrc) $(wildcard build_tools/*.py)
FORMATTED := $(shell find csrc tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
PYTHON_CODE := setup.py conftest.py build_tools docs fasttriplet tests benchmarks examples
CMAKE_FLAGS = -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(PY)) \
	-DCMAKE_CXX_COMPILER=$(CXX)

# The CUDA library takes minutes to build: where no GPU is, only what tests or carries it waits for that.
FASTTRIPLET_CUDA ?= auto
HAS_GPU := $(wildcard /dev/nvidiactl)
FIRST_CUDA := $(if $(HAS_GPU),$(FASTTRIPLET_CUDA),$(patsubst auto,0,$(FASTTRIPLET_CUDA)))

.DEFAULT_GOAL := help
.PHONY: demo test test-distributed test-asan test-shim test-portable test-originals test-aarch64 test-cuda-load test-wheel lint format bench record-examples docs cuda gpu-bundle native wheel clean help

demo: $(VENV)/.demo  ## train ResNet-50 on real images with the fused loss, checked by the reference in every step
	$(PY) -m examples.resnet50.train

# A test that hangs says where, and ends the run, after a quarter of an hour; processes that it started are left behind.
test: $(VENV)/.test native  ## run all tests
	$(PY) -m pytest -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

# capture=sys: a report of the sanitizers, which ends the process, must reach the terminal. New memory is filled with
# 0xff, a NaN, so that what a kernel leaves unwritten shows in its results.
test-asan: $(VENV)/.test  ## run the tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/cmake -S . -B build/asan $(CMAKE_FLAGS) -DFASTTRIPLET_SANITIZE=ON
	$(BIN)/cmake --build build/asan
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1048576 \
		UBSAN_OPTIONS=print_stacktrace=1 FASTTRIPLET_NATIVE_DIR=$(CURDIR)/build/asan \
		$(PY) -m pytest --capture=sys tests/native

test-distributed: $(VENV)/.test native  ## run all tests of several processes: make test has a fifth of them
	FASTTRIPLET_LONG_TESTS=1 $(PY) -m pytest -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true tests/distributed

test-shim: $(VENV)/.test native  ## run the package's tests by the CUDA kernels on the host (nine minutes)
	FASTTRIPLET_TEST_ENGINE=shim $(PY) -m pytest tests

test-portable: $(VENV)/.test native  ## run the package's tests by the portable engine
	FASTTRIPLET_TEST_ENGINE=portable FASTTRIPLET_ENGINE=portable $(PY) -m pytest tests

# Laid over .venv by PYTHONPATH, which comes before it: what these need besides is there, and PyTorch is not installed twice.
test-originals: $(VENV)/.test build/originals/.installed  ## run the drop-ins' tests beside older versions of their originals
	PYTHONPATH=$(CURDIR)/build/originals $(PY) -m pytest tests/compat

build/originals/.installed: requirements/originals.txt
	rm -rf build/originals
	$(PY) -m pip --disable-pip-version-check install --quiet --no-deps --target build/originals --requirement requirements/originals.txt
	@touch $@

test-aarch64: $(VENV)/.test  ## cross-compile for aarch64 Linux and run the tests of the kernels emulated
	build_tools/aarch64.sh $(BIN)

# In an environment of its own: the wheel is built beside the CPU build of PyTorch and then meets a CUDA build. cd, since
# here the sources would be found in place of the wheel.
test-cuda-load: $(VENV)/.test build/cuda-load/.installed  ## load the CUDA library into a CUDA PyTorch (5.5 GB); needs nvcc, no GPU
	rm -rf build/cuda-load/dist
	FASTTRIPLET_CUDA=1 $(PY) -m build --wheel --no-isolation --outdir build/cuda-load/dist
	$(CUDA_PIP) --no-deps --force-reinstall build/cuda-load/dist/*.whl
	cd build/cuda-load && venv/bin/python -I $(CURDIR)/build_tools/cuda_load.py

build/cuda-load/.installed: requirements/cuda_load.txt
	$(PYTHON) -m venv build/cuda-load/venv
	$(CUDA_PIP) --requirement requirements/cuda_load.txt
	@touch $@

# Beside PyTorch 2.10.0 and 2.14.1, which are CUDA builds where pip finds no other, and 2.13.0.
test-wheel: $(VENV)/.test  ## build the wheel and try it in empty environments beside three versions of PyTorch (16 GB of disk)
	$(PY) build_tools/test_wheel.py

lint: $(VENV)/.test  ## check style and types
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)
	$(BIN)/mypy

format: $(VENV)/.test  ## rewrite the sources in the style that lint asks for
	$(BIN)/ruff check --fix --exit-zero --quiet $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/clang-format -i $(FORMATTED)

bench: $(VENV)/.bench  ## verify, then time against torch.mm and peers; writes benchmarks/results (46 minutes)
	$(PY) -m benchmarks.report
	$(PY) -m benchmarks.family --out benchmarks/results/family.md
	$(PY) -m benchmarks.classes --out benchmarks/results/classes.md
	$(PY) -m benchmarks.compat --out benchmarks/results/compat.md
	$(PY) -m benchmarks.triplet_margin --out benchmarks/results/triplet_margin.md
	$(PY) -m benchmarks.portable --out benchmarks/results/portable.md
	$(PY) -m benchmarks.distributed --out benchmarks/results/distributed.md
	$(PY) -m benchmarks.retrieval --out benchmarks/results/retrieval.md
	$(PY) -m benchmarks.worth --out benchmarks/results/worth.md

record-examples: $(VENV)/.test  ## run the scripts of examples/ whole and keep what they print for the documentation (15 minutes)
	$(PY) -m build_tools.record

docs: $(VENV)/.docs  ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

cuda: $(VENV)/.package  ## build the CUDA library, an error without nvcc; TORCH_CUDA_ARCH_LIST narrows it
	FASTTRIPLET_CUDA=1 $(PIP) --no-build-isolation --no-deps --editable .

gpu-bundle: $(VENV)/.package  ## build both libraries for a Hopper GPU, to be carried to it: benchmarks/gpu.sh compiles nothing there
	FASTTRIPLET_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0a $(PY) setup.py build_ext --inplace
	build_tools/bundle.sh fasttriplet/_C.abi3.so fasttriplet/_cuda.abi3.so

native: $(VENV)/.test  ## build the module that binds the kernels to NumPy for tests/native
	@$(BIN)/cmake -S . -B build/native $(CMAKE_FLAGS) --log-level=WARNING
	@$(BIN)/cmake --build build/native

wheel: $(VENV)/.test  ## build and audit the source distribution and the wheel, into dist/
	rm -rf dist
	$(PY) -m build --no-isolation
	$(BIN)/abi3audit --strict dist/*.whl

clean:  ## remove what was built, but not .venv
	rm -rf build dist *.egg-info fasttriplet/*.so
	rm -f $(addprefix $(VENV)/.,package libraries demo test docs bench)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

help:  ## show this list
	@awk -F ':.*##' '/^[a-z0-9-]+:.*##/ { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

# What a target needs is installed in stages, each with a stamp in .venv: the demo waits for no tool of the tests or the
# documentation. PyTorch comes first: the rest is then installed beside it, and the extension is built against it.
$(VENV)/.torch: $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; set PYTHON=")'
	@echo "Installing PyTorch and what builds the extension into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy setuptools wheel ninja
	@touch $@

# Again whenever a source changes; ninja compiles only what is concerned.
$(VENV)/.package: $(VENV)/.torch setup.py pyproject.toml $(SOURCES)
	@echo "Building the extension"
	FASTTRIPLET_CUDA=$(FIRST_CUDA) $(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.libraries: $(VENV)/.package
	$(if $(filter-out $(FIRST_CUDA),$(FASTTRIPLET_CUDA)),FASTTRIPLET_CUDA=$(FASTTRIPLET_CUDA) $(PIP) --no-build-isolation --no-deps --editable .)
	@touch $@

# The package is there already, so that these install what an extra of pyproject.toml names, and no more.
$(VENV)/.demo $(VENV)/.docs: $(VENV)/.%: $(VENV)/.package
	@echo "Installing what the target $* needs"
	$(PIP) 'fasttriplet[$*]'
	@touch $@

$(VENV)/.bench: $(VENV)/.package
	@echo "Installing what benchmarks need"
	$(PIP) 'fasttriplet[bench,compat]'
	@touch $@

$(VENV)/.test: $(VENV)/.libraries
	@echo "Installing what tests, examples, benchmarks and documentation need"
	$(PIP) 'fasttriplet[bench,compat,dev,docs,examples]'
	@touch $@
