# Two commands do everything: `make search` runs the main job, `make test` the tests.
# Each makes .venv first, if it is not there yet, from the pinned requirements.lock.
PYTHON ?= python3
PY = .venv/bin/python
READY = .venv/.ready
BENCH = .venv/.bench

.PHONY: search test test-faults test-cluster test-all lint audit lock bench bench-e2e bench-search bench-scaling bench-gpu docs
.DEFAULT_GOAL := search

search: $(READY)
	$(PY) -m tuner.launch reptile_omniglot $(ARGS)

# Most tests are one thread: two at once, the tests of a file in a row, files by name, so that the search begins early.
test: lint
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-faults: $(READY)
	$(PY) -m pytest -m faults --timeout 3600

# Clusters of separate processes on loopback, and real servers; those that are not there are skipped.
test-cluster: $(READY)
	$(PY) -m pytest -m cluster --timeout 1800

# Those that take minutes need the machine for themselves.
test-all: test
	$(PY) -m pytest -m "slow and not faults and not cluster and not gpu and not benchmark" --timeout 1800

# How fast trials train and what everything around them costs; ARGS="--append" adds to the page.
bench: $(READY)
	PYTHONPATH=tests $(PY) tests/benchmarks/bench.py $(ARGS)

# From the command to the best net, ours beside stock parts, an hour; ARGS="--out docs" for a page.
bench-e2e: $(READY)
	$(PY) tests/benchmarks/bench_e2e.py $(ARGS)

# Our search beside Ray's and random search, in minutes; ARGS="--out docs" writes the page.
bench-search: $(BENCH)
	$(PY) tests/benchmarks/bench_search.py $(ARGS)

# What the driver makes of ten thousand trials, forty minutes; ARGS="--out docs" writes the page.
bench-scaling: $(READY)
	PYTHONPATH=tests $(PY) tests/benchmarks/bench_scaling.py $(ARGS)

# What makes training quick on a GPU, four minutes; ARGS="--out docs" writes the page.
bench-gpu: $(READY)
	$(PY) tests/benchmarks/bench_gpu.py $(ARGS)

# The site, from docs/ and docstrings, into site/: a warning is an error, nothing is fetched.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. .venv/bin/mkdocs build --quiet
	@echo "Look at it: .venv/bin/python -m http.server --directory site 8000"

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/bandit --quiet --recursive --configfile pyproject.toml tuner trainables search_spaces cluster

# Asks PyPI for known faults of the pinned packages: it needs a network, and pip-audit of its own.
audit:
	rm -rf .venv-audit && $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv-audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict
	rm -rf .venv-audit

$(READY): requirements.lock requirements-brisque.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@echo "Installing what requirements.lock pins, 8 GB: three to five minutes without another word."
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation -r requirements-brisque.lock \
		|| echo "BRISQUE will be missing from reports: building it needs a C++ compiler (g++)."
	touch $(READY)

# No dependencies: it pins an old numpy for functions that work with any.
$(BENCH): $(READY) requirements-bench.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-bench.lock
	touch $(BENCH)

# Pins what a fresh resolution of pyproject.toml gives.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet "setuptools>=77" ".[dev,server]"
	.venv-lock/bin/pip freeze --all --exclude few-shot-tuner --exclude pip \
		| sed -E 's/^((nvidia|cuda|triton)[^ ]*)$$/\1 ; platform_system == "Linux" and platform_machine == "x86_64"/' > requirements.lock
	rm -rf .venv-lock
