# Two front doors: `make bench` and `make test`. Both set up .venv first and need Python 3.11 or newer, make, nothing else.
# A GPU's set is another: pip install -c constraints-gpu.txt -e '.[gpu]' (docs/how-to/gpus.md).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: bench test test-faults test-cluster check wheel docs clean

bench: $(READY)
	@echo "== phase 1 on the embedded model: baseline, LoRA training, gate, report (about 3 minutes on 2 cores)"
	@$(BIN)/pytest benchmarks -m phase1 --prism-profile nano; code=$$?; \
	  echo "== the report: reports/latest/report.md and reports/latest/report.html"; \
	  echo "== for pytest and prism by name: . .venv/bin/activate"; exit $$code

test: $(READY)
	@echo "== PRISM's own tests"
	@$(BIN)/pytest tests -n auto -m "not faults and not cluster"

test-faults: $(READY)
	@echo "== kills, flipped bits, full disks and fuzzers (about 5 minutes on 2 cores)"
	@$(BIN)/pytest tests/faults -n auto

test-cluster: $(READY)
	@echo "== a store in S3 on a server of its own; Ray on loopback, with nodes that are killed (about 15 minutes on 2 cores)"
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints-cluster.txt -e '.[cluster]' 'moto[server]'
	@$(BIN)/pytest tests/cluster

check: $(READY)
	@echo "== ruff, ruff format, the order of imports, mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/mypy

wheel:
	@echo "== an sdist and a wheel in dist/; the wheel in a fresh environment and an empty repository"
	@PYTHON="$(PYTHON)" .ci/wheel

docs: $(READY)
	@echo "== the documentation: site/index.html"
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -c constraints-docs.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(READY): pyproject.toml constraints.txt
	@echo "== [1/3] creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PRISM needs Python 3.11 or newer: make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv
	@echo "== [2/3] installing torch, the largest part"
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	@echo "== [3/3] installing the rest of the tested set (constraints.txt)"
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
