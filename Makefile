# `make demo` and `make test` need git, make and Python 3.11 or newer, and no step before them: they set up .venv.

VENV   ?= .venv
PYTHON ?=
LOWEST ?= 3.11
PY     := $(VENV)/bin/python
INSPECT ?= .venv-inspect
PYENV   = $(HOME)/.pyenv/versions
# PYTHON where it is given, else the first of these that runs.
PYTHONS = $(or $(PYTHON),python3 python3.12 python3.11 python3.13 $(wildcard $(PYENV)/*/bin/python))
REF_PYTHONS = python3.11 python3 $(wildcard $(PYENV)/3.11*/bin/python)
SPEC    = data/specs/oversight_philosophy.md
DEMO    = runs/generate_demo
CODE    = $(wildcard msm_jax launch configs benchmarks tools setup.py)
PYTEST ?= -n 2 --dist loadfile --durations=15

.PHONY: help demo generate-demo full sweep smollm2 evals-demo test parity parity-long lint bench kills coverage clean venv ref tunix tpu inspect plans

help:
	@echo "make demo     the small experiment, from nothing to runs/cheese_mini/report.html"
	@echo "make full     the same with the control arms: runs/cheese_full/report.html"
	@echo "make sweep    the demo over ten worlds, resumable: runs/sweep/"
	@echo "make smollm2  a real model, SmolLM2-135M-Instruct, as a checkpoint: runs/smollm2"
	@echo "make evals-demo   SmolLM2 through forced choices, alignment faking, capability and ten agentic transcripts"
	@echo "make test     the tests          (PYTEST='-k packing -x' passes options on)"
	@echo "make parity   the tests that compare with torch and transformers, in .venv-ref (Python 3.11)"
	@echo "make parity-long   the same with their long tables, SmolLM2 and 3B in little memory; needs 26 GB below TMPDIR"
	@echo "make generate-demo   a spec to documents, demonstrations and a short training, with a scripted writer"
	@echo "make inspect  .venv-inspect, the environment of the server, of Inspect, and of models behind APIs"
	@echo "make plans    what fits which TPU slice, into docs/plans.md; about an hour, no TPU needed"
	@echo "make lint     ruff and mypy"
	@echo "make coverage  how often the 95 % intervals of reports contain the truth, by simulation; a few minutes"
	@echo "make bench    all benchmarks in turn, into docs/performance.md; an hour"
	@echo "make kills    kills the tiny experiment 100 times by SIGKILL and 100 by SIGTERM, and compares; an hour"
	@echo "make clean    removes environments and caches, keeps runs/"

venv:
	@tools/venv.sh $(VENV) requirements.txt $(LOWEST) 3.99 $(PYTHONS)

tpu:
	@tools/venv.sh .venv-tpu requirements-tpu.txt $(LOWEST) 3.99 $(PYTHONS)

ref:
	@tools/venv.sh .venv-ref requirements-ref.txt 3.11 3.11 $(PYTHON) $(REF_PYTHONS)

# The package itself is installed too, so that Inspect's own command finds our models: docs/sampling.md. The default
# configs of synthesis compare meanings by MiniLM.
inspect:
	@tools/venv.sh $(INSPECT) requirements-inspect.txt $(LOWEST) 3.99 $(PYTHONS)
	@$(INSPECT)/bin/python -m pip install -qq --no-input --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@$(INSPECT)/bin/python -m tools.minilm

tunix:
	@tools/venv.sh .venv-tunix requirements-tunix.txt 3.11 3.11 $(PYTHON) $(REF_PYTHONS)

demo: venv
	$(PY) -m msm_jax.experiment --config=configs/experiments/cheese_mini.py --workdir=runs/cheese_mini

full: venv
	$(PY) -m msm_jax.experiment --config=configs/experiments/cheese_mini.py:full --workdir=runs/cheese_full

sweep: venv
	$(PY) -m msm_jax.sweep --config=configs/experiments/cheese_mini.py --vary=world.seed=100..109 --workdir=runs/sweep

generate-demo: inspect
	$(INSPECT)/bin/python -m msm_jax.generate --config=configs/synthesis/documents.py:$(SPEC) --workdir=$(DEMO)/documents
	$(INSPECT)/bin/python -m msm_jax.generate --config=configs/synthesis/demonstrations.py:$(SPEC) \
		--workdir=$(DEMO)/demonstrations
	$(INSPECT)/bin/python -m msm_jax.train_tokenizer --documents=$(DEMO)/documents/documents.jsonl \
		--chats=$(DEMO)/demonstrations/demonstrations_no_thinking.jsonl --vocab_size=2048 --workdir=$(DEMO)/tokenizer
	$(INSPECT)/bin/python -m msm_jax.show_batch --config=configs/generate_demo.py:$(DEMO) --rows=2
	$(INSPECT)/bin/python -m msm_jax.train --config=configs/generate_demo.py:$(DEMO) --workdir=$(DEMO)/run

smollm2: venv
	$(PY) -m tools.smollm2 --run_dir=runs/smollm2

evals-demo: smollm2
	$(PY) -m msm_jax.evaluate --config=configs/evals/conduct.py --checkpoint=runs/smollm2 --workdir=runs/evals_demo

test: venv
	$(PY) -m pytest $(PYTEST)

parity: venv ref
	MSM_JAX_REF_PYTHON=$(CURDIR)/.venv-ref/bin/python $(PY) -m pytest -m "parity and not long" $(PYTEST)

parity-long: venv ref
	$(PY) -m tools.chat_templates
	MSM_JAX_REF_PYTHON=$(CURDIR)/.venv-ref/bin/python $(PY) -m pytest -m "parity or long" -s $(PYTEST)

plans: venv tpu
	MSM_JAX_TPU_PYTHON=$(CURDIR)/.venv-tpu/bin/python PYTHONPATH=. $(PY) tools/plans.py

lint: venv
	$(PY) -m ruff check --output-format=concise .
	$(PY) -m mypy $(CODE)

# One after the other: each has the machine to itself. The train step goes without Tunix where that does not install.
bench: export MSM_JAX_REF_PYTHON = $(CURDIR)/.venv-ref/bin/python
bench: venv ref
	for name in loss dispatch data checkpoints saving startup decode engine; do $(PY) benchmarks/$$name.py --write || exit; done
	if $(MAKE) --no-print-directory tunix; then export MSM_JAX_TUNIX_PYTHON=$(CURDIR)/.venv-tunix/bin/python; fi; \
		$(PY) benchmarks/train_step.py --write

kills: venv
	$(PY) -m tools.kills --workdir=runs/kills/kill
	$(PY) -m tools.kills --workdir=runs/kills/term --signal=TERM

coverage: venv
	PYTHONPATH=. $(PY) benchmarks/coverage.py

clean:
	rm -rf .venv .venv-* .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find msm_jax configs tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
