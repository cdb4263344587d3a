# Every target needs python3 (3.11 or newer) and make, nothing else: the first one makes VENV from requirements.lock.
PYTHON ?= python3
VENV ?= .venv

demo: $(VENV)/installed
	$(VENV)/bin/katachi train digits --device cpu

# Two at a time, but nothing beside those that measure time.
test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not alone"
	$(VENV)/bin/python -m pytest -m alone

# What can be known without running anything.
check: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyrefly check --python-interpreter-path $(VENV)/bin/python
	$(VENV)/bin/python tools/import_directions.py

# Against torch, in an environment of its own. torch goes first, so that what it shares with the lock ends as the lock says.
test-peers: .venv-peers/installed
	.venv-peers/bin/python -m pytest tests/peers

# Against torch and JAX, a table: bench/README.md. `make bench ROWS="gpt chain"` measures these rows again.
bench: .venv-bench/installed
	.venv-bench/bin/python -m bench $(ROWS)

# Written for every platform and Python: each file of each release stands in it with its hash. The build backend is in it too.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	echo hatchling | .venv-lock/bin/uv pip compile pyproject.toml - --extra dev --extra curves \
		--universal --python-version 3.11 --generate-hashes --upgrade --quiet \
		--custom-compile-command "make lock" --output-file requirements.lock

$(VENV)/installed .venv-peers/installed .venv-bench/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "katachi needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(@D)
	$(if $(filter .venv-peers/% .venv-bench/%,$@),$(@D)/bin/pip install --quiet torch==2.13.0)
	$(@D)/bin/pip install --quiet --require-hashes -r requirements.lock
	$(@D)/bin/pip install --quiet --no-build-isolation --no-deps -e .
	$(if $(findstring bench,$@),$(@D)/bin/pip install --quiet --no-build-isolation -e '.[bench]')
	@touch $@

.PHONY: demo test check test-peers bench lock
