# medfuse: `make help` lists the targets.

PYTHON ?= python3
WORKERS ?= 2
PIP_FLAGS ?= --quiet --quiet
# On Linux with a GPU this is a CUDA build. For a CPU build from elsewhere: TORCH_FLAGS="--index-url URL".
TORCH_FLAGS ?=
# Research data for `make results`; they are not part of the repository.
BENCH ?= ../shared/bench
DATA ?= ../shared/data

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-full lint format bench faults results corpus docs coverage dist installed clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.dev  ## install everything into .venv, development tools included

demo: .venv/.runtime  ## fuse the shipped PET-MRI cases
	$(BIN)/medfuse demo

test: lint  ## lint and run the quick tests
	$(PYTEST) -m "not full"

test-full: .venv/.dev .venv/engines/.made  ## run the slow tests
	$(PYTEST) -m full

lint: .venv/.dev  ## check style, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/.dev  ## put code into the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.runtime  ## measure the speed on this machine
	$(BIN)/python tests/bench.py

corpus: .venv/.dev  ## run every malformed input of tests/malformed; fail unless each is refused, warned of or harmless
	OMP_NUM_THREADS=1 $(BIN)/python tests/malformed

results: .venv/.runtime  ## measure everything that the results pages say; BENCH and DATA name folders, ONLY one bundle
	$(BIN)/python tests/results --bench "$(BENCH)" --data "$(DATA)" $(if $(ONLY),--only $(ONLY))

docs: .venv/.dev  ## write the documentation as a site to out/site; any dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open out/site/index.html, or: $(BIN)/python -m http.server --directory out/site"

coverage: .venv/.dev  ## run the quick tests, the commands that they start too, and say which lines none of them reaches
	@mkdir -p build/coverage
	@set -e; for part in $$(ls -d tests/*/ tests/test_*.py); do \
	  done="build/coverage/$$(echo $$part | tr / _).done"; test ! -e "$$done" || continue; echo "$$part"; code=0; \
	  OMP_NUM_THREADS=1 COVERAGE_FILE="$(CURDIR)/build/coverage/.coverage" $(BIN)/coverage run -m pytest -m "not full" "$$part" || code=$$?; \
	  test $$code = 0 -o $$code = 5; touch "$$done"; done  # 5: no tests; what was broken off goes on with the next part
	$(BIN)/coverage combine --quiet build/coverage
	rm -r build/coverage
	$(BIN)/coverage report

dist: .venv/.dev  ## build wheel and sdist into dist/, twice with the same bytes, and check them
	@$(PIP) install $(PIP_FLAGS) -e ".[release]" -c constraints.txt
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m build --no-isolation --outdir dist/again
	cd dist && sha256sum *.whl *.tar.gz > SHA256SUMS && cd again && sha256sum --check --quiet ../SHA256SUMS
	rm -r dist/again
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/check-wheel-contents dist/*.whl

installed: dist  ## install the wheel into empty environments, on the oldest and the pinned versions, and fuse the demo in each
	set -e; for versions in constraints-oldest.txt constraints.txt; do \
	  rm -rf build/env && $(PYTHON) -m venv build/env; \
	  build/env/bin/pip install $(PIP_FLAGS) $(TORCH_FLAGS) "$$(grep '^torch==' $$versions)" -c $$versions; \
	  build/env/bin/pip install $(PIP_FLAGS) dist/*.whl -c $$versions; \
	  (cd build && env/bin/medfuse info && env/bin/medfuse demo --out demo); \
	done

faults: .venv/.dev  ## kill, fill up, set back and double batches, and say what came of it: FAULT one of them, CASES how many
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults $(FAULT) $(if $(CASES),--cases $(CASES))

clean:  ## remove caches, builds and the demo's results; .venv and runs/ stay
	rm -rf build dist out/demo .coverage htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bundles configs medfuse tests -type d -name __pycache__ -prune -exec rm -rf {} +

# Stamps: each step runs again only when what it depends on has changed.

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) must be Python 3.11 or newer; choose one with PYTHON=..."; exit 1; }
	@echo "creating .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@touch $@

.venv/.torch: constraints.txt | .venv/.created
	@echo "installing torch"
	@$(PIP) install $(PIP_FLAGS) $(TORCH_FLAGS) "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	@touch $@

.venv/.runtime: .venv/.torch pyproject.toml
	@echo "installing medfuse"
	@$(PIP) install $(PIP_FLAGS) -e . -c constraints.txt
	@touch $@

.venv/.dev: .venv/.torch pyproject.toml
	@echo "installing medfuse and its development tools"
	@$(PIP) install $(PIP_FLAGS) -e ".[dev]" -c constraints.txt
	@touch .venv/.runtime $@

# What the engines bring to check their own files with; it would not fit beside ours.
.venv/engines/.made: engines/requirements.txt | .venv/.created
	@echo "installing the engines' parsers"
	@$(PYTHON) -m venv .venv/engines
	@.venv/engines/bin/python -m pip --disable-pip-version-check install $(PIP_FLAGS) -r engines/requirements.txt
	@touch $@
