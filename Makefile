# Two commands matter to a newcomer: `make quickstart` and `make test`. Both set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := --constraint constraints.txt --editable ".[study,dev]"
PEERS := --constraint constraints.txt --editable ".[peers]"
DOCS := --constraint constraints.txt --editable ".[docs]"

.PHONY: quickstart test check lint format types test-slow test-triton test-gpu soak bench compatibility figures docs clean

quickstart: .venv/ready  ## four techniques on handwritten digits, then the report page
	$(BIN)/openwork quickstart --out openwork-quickstart

test: check  ## lint, types and the fast tests
	$(BIN)/pytest -n 2 --durations 5

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

test-triton: .venv/ready  ## Triton's kernels in its interpreter, on a CPU; needs `pip install triton`
	TRITON_INTERPRET=1 $(BIN)/pytest tests/kernels/triton

test-gpu: .venv/ready
	$(BIN)/pytest -m gpu

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
	.venv-peers/bin/uv pip install --quiet --python .venv-peers --torch-backend auto $(PEERS) 2>.venv-peers/uv.log \
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

docs: .venv/docs  ## the documentation site, into build/site; a dead link or a page without a place is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs . build/site
	@echo "The site is in build/site/index.html"

.venv/docs: .venv/ready
	$(BIN)/uv pip install --quiet --python .venv $(DOCS) || $(BIN)/python -m pip install --quiet $(DOCS)
	touch $@

# uv knows PyTorch's builds: `--torch-backend auto` takes the CPU build where there is no GPU, and where there is one the
# CUDA build that fits its driver. Behind a mirror that has no such index, pip takes the pinned release from wherever it
# is configured to look.
.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv: a minute or two, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python .venv --compile-bytecode --torch-backend auto $(PACKAGES) 2>.venv/uv.log \
	  || $(BIN)/python -m pip install --quiet $(PACKAGES)
	touch $@

clean:
	rm -rf .venv .venv-peers openwork-quickstart build dist .mypy_cache .pytest_cache .ruff_cache
