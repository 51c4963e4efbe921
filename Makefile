# make bench   Fish-Dip's default, LoRA and full fine-tuning on 48 invented sentences, three seeds each: the overview and
#              some predictions, and the rest as files in runs/bench. About 8 minutes on two quiet cores
# make test    lint, types and the tests, but for slow ones
# make test-all  ... and the slow ones, and those of other libraries
# make test-integrations   the tests of other libraries (trl, sentence-transformers, Lightning, spaCy) and of pages in a
#                          browser alone; the latter need Debian's chromium, or are skipped
# make test-wheel   builds the wheel and uses it in an environment of its own, with the newest releases of all it needs
# All set everything up first, in .venv, .venv-integrations and .venv-wheel, which takes a few minutes. Downloads: torch's
# build for CPUs 190 MB (the one of PyPI for Linux brings CUDA, which is some GB), for `make bench` 150 MB besides, for the
# others 140 MB more. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin
WITH_OTHERS := .venv-integrations
OF_WHEEL := .venv-wheel
# tests that stand beside others of their kind, and are skipped without spaCy and playwright
OF_OTHERS := tests/tasks/formats/test_spacy.py tests/tasks/formats/test_write.py tests/cli/test_view_in_browser.py
# the models are tiny: one thread is as fast as two; waiting threads must not spin
export OMP_WAIT_POLICY := passive

.PHONY: bench test test-all test-integrations test-wheel lint clean

# The rates are fixed: Fish-Dip's default, and for LoRA the one that suits nano, three times that of its own folder
bench: .venv/bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks compare --tasks everyday --experiments benchmarks/nano_rates \
		--methods fishdip/default lora/rate-0.01 full/adamw --rates own --seeds 0 1 2 --steps 120 --output runs/bench

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint test-integrations test-wheel
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-integrations: $(WITH_OTHERS)/ready
	OMP_NUM_THREADS=1 $(WITH_OTHERS)/bin/python -m pytest tests/integrations $(OF_OTHERS)

# without constraints.txt, and without what only tests and benchmarks need
test-wheel:
	rm -rf $(OF_WHEEL) dist
	$(PYTHON) -m venv $(OF_WHEEL)
	$(OF_WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(OF_WHEEL)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(OF_WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	$(OF_WHEEL)/bin/python -m pip check --disable-pip-version-check
	OMP_NUM_THREADS=1 $(OF_WHEEL)/bin/python -I tests/wheel/first_steps.py benchmarks/nano examples/entities.jsonl

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.venv/bench: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

.venv/ready: .venv/bench
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,test,dev]'
	touch $@

$(WITH_OTHERS)/ready: pyproject.toml constraints.txt
	test -x $(WITH_OTHERS)/bin/python || $(PYTHON) -m venv $(WITH_OTHERS)
	$(WITH_OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(WITH_OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,integrations]'
	touch $@

clean:
	rm -rf .venv $(WITH_OTHERS) $(OF_WHEEL) dist
