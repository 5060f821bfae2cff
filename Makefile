# Every target sets itself up: Python >= 3.11, pip and make are all it takes.
#
#   PYTHON=...  the interpreter to build .venv with, when it is not the first suitable one on PATH
#   ARGS=...    passed on to pytest, to the demo or to the benchmarks, e.g. make test ARGS="-k url"

VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
# Twice as many workers as there are processors, since tests of outages mostly wait; at most 8: each
# has a PostgreSQL of its own. Workers take neighbouring tests, which share what was prepared, and help
# each other at the end.
PROCESSORS := $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= $(shell echo $$((2 * $(PROCESSORS))))
PARALLEL = -n $(WORKERS) --maxprocesses 8 --dist worksteal

# A virtual environment made elsewhere (the checkout was copied or moved), or whose Python is gone,
# is made again.
ifneq ($(shell cat $(VENV)/.ready 2>/dev/null && test -x $(PY) && echo runs),$(CURDIR) runs)
STALE := stale
endif

# Pip also reads these in the separate environment in which it builds the package.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_USER := 0
# Pyright is pinned: that a newer one exists is no news.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# Tests, benchmarks and `make matrix` start hundreds of processes: without the bytecode that the
# first one keeps, each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: adapters help demo quick test coverage matrix lint format chaos far older bench docs
.PHONY: clean distclean stale

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.ready-demo  ## files are moved, PostgreSQL is killed while a bot writes, nothing is lost
	@$(PY) -m standfast demo $(ARGS)

quick: $(VENV)/.ready-test  ## run the tests that need no server and start no programs
	@$(PY) -m pytest $(PARALLEL) -m "not pg and not process and not slow" $(ARGS)

test: $(VENV)/.ready-test  ## run all tests but the slow ones, with a PostgreSQL of their own
	@$(PY) -m pytest $(PARALLEL) $(ARGS)

coverage: $(VENV)/.ready-test  ## run the same tests and print how much of the code they reach
	@$(PY) -m pytest $(PARALLEL) --cov --cov-report=term $(ARGS)

matrix: $(VENV)/.ready-dev  ## build the package, try it on every Python >= 3.11 that is found
	@$(PY) tools/matrix.py

lint: $(VENV)/.ready-dev  ## check style, formatting and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright

format: $(VENV)/.ready-dev  ## format the code and mend what ruff can mend
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

chaos: $(VENV)/.ready-test  ## run the long fault-injection tests
	@$(PY) -m pytest $(PARALLEL) -m slow $(ARGS)

far: $(VENV)/.ready-test  ## run the tests of the engine with a database 80 ms away
	@TEST_RTT_MS=80 $(PY) -m pytest tests/engine tests/contract tests/postgres $(ARGS)

older: $(VENV)/.ready-test  ## run the tests of roles, schemas and backends on PostgreSQL 14
	@bin="$${TEST_POSTGRES_BIN:-$$(sh tools/older.sh $(VENV) 14)}" && [ -n "$$bin" ] && \
		TEST_POSTGRES_BIN="$$bin" $(PY) -m pytest $(PARALLEL) tests/postgres \
		tests/contract/test_backends.py -k "not Memory and not Sqlite" $(ARGS)

bench: $(VENV)/.ready-bench  ## run the benchmarks: the store, an outage, a backup, a migration, a bot
	@$(PY) bench/store.py $(ARGS)
	@$(PY) bench/outage.py
	@$(PY) bench/migrate.py
	@$(PY) bench/backup.py --documents 200000
	@$(PY) bench/bot.py

docs: $(VENV)/.ready-docs  ## build the documentation site in build/docs; a warning is an error
	@$(PY) -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/docs

adapters:  ## run examples/adapters against the libraries that they are for, in .venv-adapters
	@sh tools/venv.sh .venv-adapters adapters
	@.venv-adapters/bin/python -m pytest -q -rs -o pythonpath="tests examples/adapters" examples/adapters $(ARGS)

clean:  ## remove what demo, builds and tests leave behind
	@rm -rf build dist storage .coverage .coverage.* .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
	@find src tests examples bench tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the virtual environment
	@rm -rf $(VENV)

# .ready is the package alone, .ready-test adds what the tests need, .ready-dev the linters,
# .ready-bench what the benchmarks compare with, .ready-docs what builds the site,
# .ready-demo a PostgreSQL; each holds the path of the checkout that it was made
# for, and marks the smaller ones too.
$(VENV)/.ready $(VENV)/.ready-test $(VENV)/.ready-dev $(VENV)/.ready-bench $(VENV)/.ready-docs $(VENV)/.ready-demo: pyproject.toml constraints.txt tools/venv.sh $(STALE)
	@sh tools/venv.sh $(VENV) $(patsubst .ready-%,%,$(filter .ready-%,$(@F)))
