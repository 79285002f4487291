# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
# DATA=patterns serves a machine without network; OUTPUT says where the runs go; STUDY and ARGS (further overrides) what
# `make study` sweeps; REUSE=results/STUDY takes up the rows that are there.

PYTHON ?= python3
DATA ?= cifar10
OUTPUT ?= outputs
STUDY ?= batch_size
RESULTS ?= results/$(STUDY)
ARGS ?=
REUSE ?=
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

.PHONY: demo study test check format docs benchmark gpu clean

demo:  ## the batch_size_short study in small, from nothing to its figure
	$(MAKE) study STUDY=demo ARGS="data=$(DATA) $(ARGS)" OUTPUT=$(OUTPUT)/demo RESULTS=$(OUTPUT)/demo/results

# A sweep in which a run failed (exit status 1) still gets its tables and figures, where the failure shows.
study: $(INSTALLED)  ## sweep a study on all cores; go on where it stopped; make its tables and figures
	@status=0; $(RUN) -m normbench -m experiment=$(STUDY) hydra/launcher=joblib output=$(OUTPUT) $(if $(REUSE),'reuse=[$(REUSE)]') $(ARGS) || status=$$?; \
	test $$status -le 1 || exit $$status; \
	$(RUN) scripts/collect.py $(STUDY) $(ARGS) --output $(OUTPUT) $(if $(REUSE),--reuse $(REUSE)) --to $(RESULTS) && \
	$(RUN) scripts/table.py $(STUDY) --to $(RESULTS) && \
	$(RUN) scripts/plot.py $(STUDY) --to $(RESULTS) && \
	exit $$status

# In the order of the files: else those of few, long tests come last, and one process waits for the other.
test: $(INSTALLED)  ## the whole test suite
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## lint and format checks
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(INSTALLED)  ## the tables of docs/, from the code
	$(RUN) scripts/docs.py

benchmark: $(INSTALLED)  ## speed against plain PyTorch loops, and how near it is to the limits of the machine
	for what in start limit layers train; do $(RUN) scripts/benchmark.py $$what || exit; done

gpu: $(INSTALLED)  ## on a machine with a GPU: the tests that need one, the benchmark, then a study for as long as it may take
	$(RUN) -m pytest tests/training/test_training_graph.py
	$(RUN) scripts/benchmark.py --device cuda --to results/benchmark/cuda
	$(MAKE) study STUDY=$(STUDY) ARGS="device=cuda $(ARGS)"

# The stamp is written last: an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "normbench needs Python 3.11 or later; set PYTHON=" >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
