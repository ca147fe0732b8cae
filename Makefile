# Two commands matter to a newcomer: `make quickstart` and `make test`. Each sets up what it needs of .venv.
PYTHON ?= python3
BIN := .venv/bin
STUDY := --constraint constraints.txt --editable ".[study]"
PACKAGES := --constraint constraints.txt --editable ".[study,dev]"
PEERS := --constraint constraints.txt --editable ".[peers]"
DOCS := --constraint constraints.txt --editable ".[docs]"

# With it every process that the tests start would compile openwork anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test fast check lint format types test-slow test-triton test-gpu test-versions soak bench compatibility figures docs clean

quickstart: .venv/study  ## four techniques on handwritten digits, then the report page
	$(BIN)/openwork quickstart --out openwork-quickstart

test: lint  ## lint, and then types beside the fast tests: mypy has one process, which a second processor would wait for
	$(MAKE) --jobs 2 types fast

# Each worker takes a half of the tests, in their order, so that it imports and sets up no more than its half needs.
fast: .venv/ready
	$(BIN)/pytest -n 2 --dist worksteal --durations 5

check: .venv/ready lint types

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell *.md benchmarks docs results src

types: .venv/ready
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: .venv/ready  ## minutes of CPU: real compilation, real training on MNIST
	$(BIN)/pytest -m "slow and not gpu and not soak"

test-triton: .venv/ready  ## Triton's kernels in its interpreter, on a CPU; needs `pip install --no-deps "triton<3.9"`
	TRITON_INTERPRET=1 $(BIN)/pytest tests/kernels/triton

test-gpu: .venv/ready
	$(BIN)/pytest -m gpu

# Oldest and newest of what pyproject.toml allows; each takes some minutes and, without PyTorch's index, gigabytes.
VERSIONS ?= 3.11:2.9.1 3.12:2.13.0 3.13:2.15.0 3.14:2.15.0

test-versions: .venv/ready  ## the library's tests with other versions of Python and torch: docs/versions.md
	$(BIN)/python -m tests.programs.versions $(VERSIONS)

soak: .venv/ready  ## 4,000 runs on Ray while driver and workers are killed, minutes
	$(BIN)/pytest -s -m soak tests/soak

bench: .venv/ready  ## every table of benchmarks/, CPU
	$(BIN)/python benchmarks/masking_overhead.py
	$(BIN)/python benchmarks/mask_update.py
	$(BIN)/python benchmarks/report_page.py
	$(BIN)/python benchmarks/onnx_inference.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/quickstart.py

compatibility: .venv-peers/ready  ## docs/compatibility.md: layers and habits × openwork and its peers, minutes of CPU
	.venv-peers/bin/python benchmarks/compatibility.py --check

# NNCF patches torch when it is imported, so the peers have an environment of their own.
.venv-peers/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv-peers: a minute or two, once."
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet uv
	.venv-peers/bin/uv pip install --quiet --python .venv-peers $(TORCH) $(PEERS) 2>.venv-peers/uv.log \
	  || .venv-peers/bin/python -m pip install --quiet $(PEERS)
	touch $@

figures: .venv/ready  ## the tables and pictures of documents that are made from committed rows
	$(BIN)/python docs/names.py
	$(BIN)/python benchmarks/hardware.py
	$(BIN)/python benchmarks/training_page.py
	$(BIN)/python results/tables.py
	$(BIN)/python results/draw_study.py
	$(BIN)/python results/draw_one_shots.py
	$(BIN)/python results/draw.py results/cifar10-resnet50 results/translation

docs: .venv/docs  ## the documentation site, into build/site; a dead link, a page without a place or a failing notebook is an error
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --jobs 2 --quiet --fail-on-warning --keep-going --conf-dir docs . build/site
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet tests/test_site_in_browser.py
	@echo "The site is in build/site/index.html"

.venv/docs: .venv/ready
	@$(call install,$(DOCS))
	@touch $@

# uv knows PyTorch's builds: `--torch-backend auto` takes the CPU build where there is no GPU, and where there is one the
# CUDA build that fits its driver. A folder with torch's wheel that pip is given is taken instead, by name, since uv does
# not read pip's variable. Behind any other mirror pip takes the pinned release from wherever it is configured to look.
# What either says goes to a log, of which an error shows the end.
# Nothing is compiled beforehand: of 19,000 files the tests import a quarter, and the first import writes their bytecode.
WHEELS := $(if $(wildcard $(PIP_FIND_LINKS:%=%/torch-*.whl)),$(PIP_FIND_LINKS))
TORCH := $(if $(WHEELS),$(WHEELS:%=--find-links %),--torch-backend auto)

define install
$(BIN)/uv pip install --python .venv $(TORCH) $(1) >>.venv/install.log 2>&1 \
  || $(BIN)/python -m pip install $(1) >>.venv/install.log 2>&1 \
  || { tail -n 20 .venv/install.log >&2; exit 1; }
endef

.venv/study: pyproject.toml constraints.txt
	@echo "Setting up .venv: a minute or two, once. What the installers say is in .venv/install.log."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install uv >.venv/install.log 2>&1 || { tail -n 20 .venv/install.log >&2; exit 1; }
	@$(call install,$(STUDY))
	@touch $@

.venv/ready: .venv/study
	@echo "Adding to .venv what the tests need: some minutes, once."
	@$(call install,$(PACKAGES))
	@touch $@

clean:
	rm -rf .venv .venv-peers .venv-versions openwork-quickstart build dist .mypy_cache .pytest_cache .ruff_cache
