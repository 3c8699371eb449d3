# Builds, tests and demonstrates tf_dwgrad in an environment of its own, .venv.
# PYTHON=python3.12 chooses the interpreter, CXX=clang++ the compiler.

BIN := .venv/bin
PYTHON_IN_VENV := $(BIN)/python
OUTPUT ?= demo_output
# What micro-bench times, and how.
MICRO_BENCH ?= --benchmark_filter='^machine|^input_gradient/.*/float32/NHWC' \
  --benchmark_min_time=0.2
JOBS := $(shell nproc 2>/dev/null || echo 2)
# A file stays in one process, which makes what its tests share once.
PYTEST_JOBS ?= --numprocesses=$(JOBS) --dist=loadfile
# Where pip leaves its objects (setup.py): the C++ tests and the benchmark link
# the same kernels.
BUILD = build/python$$($(PYTHON_IN_VENV) -c \
  'import sys; print("%d.%d" % sys.version_info[:2])')

# What goes into the package. Folders too: their times change when a file is deleted.
SOURCES := setup.py pyproject.toml CMakeLists.txt README.md \
  $(shell find cc cmake python/tf_dwgrad ! -path '*/__pycache__*' \
            \( -type d -o -name '*.cc' -o -name '*.cu' -o -name '*.h' -o -name '*.py' \
               -o -name '*.csv' -o -name '*.in' -o -name '*.lds' \
               -o -name '*.cmake' \))

# The tools of .venv come first. The flags of this make mean nothing to the makes
# that CMake starts.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH" MAKEFLAGS= MFLAGS=
# Hides "failed call to cuInit", which every machine without a GPU gets.
QUIET := TF_CPP_MIN_LOG_LEVEL=3
CXX_FILES = $$(git ls-files '*.cc' '*.cu' '*.h')

ifdef PYTHON
export PYTHON
endif
# The demo and the tests run what is installed, not what lies in the tree.
unexport PYTHONPATH PYTHONHOME TF_DWGRAD_OP_LIBRARY TF_DWGRAD_SKIP_VERSION_CHECK

.PHONY: help demo test cc-test python-test sweep arm-tools arm-test \
  sanitize-test micro-bench lint format clean distclean FORCE

help:  ## this list
	@echo "Targets (PYTHON=python3.12 make test chooses the interpreter):"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 16

demo: .venv/installed  ## train, check and time on real input
	@echo "== Running the demo"
	@$(QUIET) $(PYTHON_IN_VENV) -m tf_dwgrad demo --output "$(OUTPUT)"

test: cc-test python-test  ## all tests but the sweep

cc-test: .venv/installed  ## the C++ tests
	@echo "== Building the C++ tests"
	@$(IN_VENV) cmake -S . -B $(BUILD) -DTF_DWGRAD_BUILD_TESTS=ON \
	  --log-level=WARNING >/dev/null
	@$(IN_VENV) cmake --build $(BUILD) --target cc_tests --parallel $(JOBS) -- --quiet
	@echo "== Running the C++ tests"
	@$(IN_VENV) ctest --test-dir $(BUILD) --output-on-failure --parallel $(JOBS)

python-test: .venv/installed  ## the Python tests, on the installed package
	@echo "== Running the Python tests"
	@$(PYTHON_IN_VENV) -m pytest $(PYTEST_JOBS) tests

sweep: .venv/installed  ## thousands of random cases
	@echo "== Running the sweep"
	@$(PYTHON_IN_VENV) -m pytest $(PYTEST_JOBS) -m sweep tests

# First, so that what is missing is said before minutes of installing.
arm-tools:
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do \
	  command -v $$tool >/dev/null || { \
	    echo "tf_dwgrad: there is no $$tool, which the tests for ARM64 need: install it, on Debian and Ubuntu with 'apt-get install g++-aarch64-linux-gnu qemu-user'" >&2; \
	    exit 1; }; \
	done

arm-test: arm-tools .venv/ready  ## the C++ tests for ARM64, cross-compiled, under QEMU
	@echo "== Building the C++ tests for ARM64"
	@$(IN_VENV) cmake --preset aarch64 --log-level=WARNING >/dev/null
	@$(IN_VENV) cmake --build --preset aarch64 --parallel $(JOBS) -- --quiet
	@echo "== Running the C++ tests for ARM64"
	@$(IN_VENV) ctest --preset aarch64 --parallel $(JOBS)

sanitize-test: .venv/ready  ## the C++ tests under AddressSanitizer and UBSan
	@echo "== Building the C++ tests with sanitizers"
	@$(IN_VENV) cmake --preset sanitize --log-level=WARNING >/dev/null
	@$(IN_VENV) cmake --build --preset sanitize --parallel $(JOBS) -- --quiet
	@echo "== Running the C++ tests with sanitizers"
	@$(IN_VENV) ctest --preset sanitize --parallel $(JOBS)

micro-bench: .venv/installed  ## the kernels alone, as shares of what the machine can do
	@echo "== Building the benchmark of the kernels"
	@$(IN_VENV) cmake -S . -B $(BUILD) -DTF_DWGRAD_BUILD_BENCHMARKS=ON \
	  --log-level=WARNING >/dev/null
	@$(IN_VENV) cmake --build $(BUILD) --target kernel_benchmark \
	  --parallel $(JOBS) -- --quiet
	@$(BUILD)/benchmarks/cc/kernel_benchmark $(MICRO_BENCH)

lint: .venv/ready  ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: .venv/ready  ## format all sources
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CXX_FILES)

clean:  ## remove what was built; .venv stays
	rm -rf build demo_output python/*.egg-info .pytest_cache .ruff_cache
	rm -f .venv/installed

distclean: clean  ## remove .venv as well
	rm -rf .venv

# The script finds out by itself whether there is anything to do.
.venv/ready: FORCE
	@tools/set_up_environment.sh

# Objects in build/python3.x stay, so that CMake compiles only what changed; Python files
# in build/lib* would outlive their deletion from the tree.
.venv/installed: .venv/ready $(SOURCES)
	@echo "== Building and installing tf_dwgrad"
	@rm -rf build/lib* build/bdist*
	@$(IN_VENV) $(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --force-reinstall .
	@touch $@

FORCE:
