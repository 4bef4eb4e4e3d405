# Each target sets up what it needs. PYTHON: any Python 3.11 or newer. WORKDIR: where the quickstart writes; STUDY: where
# reproduce does. BEGIN: the per cent of the slow tests that come last, for those whom time cuts them short.
PYTHON ?= python3
WORKDIR ?= runs/quickstart
STUDY ?= runs/reproduce
BEGIN ?= 0
ARMS := start mmlm tlm camlm camlm+camlm camlm+btmlm camlm+btmlm-all-masked camlm+real-translation \
	camlm+real-translation-all-masked
ELSEWHERE := gpu and not tpu and not browser and not compilers
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
READY_DOCS := $(VENV)/.docs-installed
COMPILERS := $(VENV)/compilers
READY_COMPILERS := $(COMPILERS)/.installed

.PHONY: quickstart reproduce test test-slow browser compilers check fuzz audit docs notebooks chaos bench clean

quickstart: $(READY)
	$(BIN)/python -m ernie_m_jax.main --config=configs/quickstart.py --workdir=$(WORKDIR)

# The paper's ablation in small, one seed (docs/reproduction.md), two arms at a time. Its text is in an npm package.
reproduce: $(READY)
	mkdir -p $(STUDY)
	npm pack --silent --pack-destination $(STUDY) typescript@5.9.3
	$(BIN)/python benchmarks/ablation_corpus.py --source messages --package $(STUDY)/typescript-5.9.3.tgz \
		--output $(STUDY)/corpus --pairs 0.5 0.25 --vocab-size 2000
	$(BIN)/python benchmarks/ablation.py --size study-messages --corpus $(STUDY)/corpus --workdir $(STUDY)/arms \
		--output $(STUDY)/reproduce.json --jobs 2 --pin --measures --seeds 1 --arms $(ARMS)
	$(BIN)/python benchmarks/ablation_plot.py $(STUDY)/reproduce.json $(STUDY)/reproduce.png

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not $(ELSEWHERE)"

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not $(ELSEWHERE)" --begin $(BEGIN)

browser: $(READY)
	$(BIN)/python -m pytest -n 0 -m browser

# Steps for TPUs and NVIDIA GPUs, compiled by their own compilers, which need neither. They lie beside the environment: in
# it, JAX would look for the machines.
compilers: $(READY_COMPILERS)
	PYTHONPATH=$(COMPILERS) $(BIN)/python -m pytest -n 2 -m compilers

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(READY)
	$(BIN)/python -m tests.fuzzing --inputs 10000

# What is installed against the database of known vulnerabilities, which takes the network: not a part of `check`.
audit: $(READY)
	$(BIN)/python -m pip install --quiet --upgrade pip-audit
	$(BIN)/python -m pip_audit --local --skip-editable

docs: $(READY_DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

notebooks: $(READY)
	$(BIN)/python notebooks/execute.py

# PEER_PYTHON: a Python with torch and transformers, to compare with.
bench: $(READY)
	PYTHONPATH=. $(BIN)/python benchmarks/cpu_ratios.py $(if $(PEER_PYTHON),--peer_python $(PEER_PYTHON))
	PYTHONPATH=. $(BIN)/python benchmarks/input_speed.py

chaos: $(READY)
	$(BIN)/python -m tests.chaos kills
	$(BIN)/python -m tests.chaos processes
	$(BIN)/python -m tests.chaos finetuning
	$(BIN)/python -m tests.chaos damage
	$(BIN)/python -m tests.chaos faults
	$(BIN)/python -m tests.chaos soak

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; try make PYTHON=python3.11 (or newer)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The versions that JAX names for itself.
$(READY_COMPILERS): $(READY)
	rm -rf $(COMPILERS)
	wanted=$$($(BIN)/python -c 'from importlib.metadata import requires, version; \
		print(*{one.split(";")[0] for one in requires("jax") if one.startswith("libtpu")}, \
		*("jax-cuda13-%s==%s" % (part, version("jaxlib")) for part in ("plugin", "pjrt")))') && \
		$(BIN)/python -m pip install --quiet --no-deps --target $(COMPILERS) $$wanted
	touch $@

$(READY_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
