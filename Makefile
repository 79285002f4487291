# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
# DATA=patterns serves a machine without network; OUTPUT says where the runs go.

PYTHON ?= python3
DATA ?= cifar10
OUTPUT ?= outputs
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

.PHONY: demo test check format benchmark clean

demo: $(INSTALLED)  ## train batch, group and no normalization at batch sizes 2 and 128, and print the table
	$(RUN) -m normbench -m experiment=demo data=$(DATA) output=$(OUTPUT)/demo

test: $(INSTALLED)  ## the whole test suite
	$(RUN) -m pytest

check: $(INSTALLED)  ## lint and format checks
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

benchmark: $(INSTALLED)  ## speed against a plain PyTorch loop, side by side
	$(RUN) scripts/benchmark.py

# The stamp is written last: an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "normbench needs Python 3.11 or later; set PYTHON=" >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
