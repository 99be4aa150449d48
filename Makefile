# make run        set everything up, then start the application (ARGS="--source video.mp4 ..."); the first run leaves
#                 the program .venv/bin/camapp
# make test       set everything up, then run the fast tests, two files at a time (ARGS="-n 0": one)
# make test-slow  the tests marked slow
# make lint       ruff and mypy
# make release    build and check the wheel and the source archive of the present commit, in dist/
# All of them work on a fresh Debian 12 or 13, Raspberry Pi OS (64-bit, bookworm or trixie) or Linux with Python 3.11+.

SHELL  := /bin/bash
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# On Debian, ldconfig is not in the PATH of an ordinary user.
LDCONFIG := PATH=$$PATH:/usr/sbin:/sbin ldconfig
ON_PI  := $(shell grep -qs Raspberry /proc/device-tree/model && echo yes)
# Debian packages that are missing, each found by a test. Without OpenBLAS apt's NumPy is seven times slower.
NEEDED := $(shell $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv) \
          $(shell $(LDCONFIG) -p | grep -q libGL.so.1 || echo libgl1) \
          $(shell $(LDCONFIG) -p | grep -q libgthread-2.0.so.0 || echo libglib2.0-0) \
          $(if $(ON_PI),$(shell $(LDCONFIG) -p | grep -q libopenblas.so.0 || echo libopenblas0-pthread)) \
          $(if $(ON_PI),$(shell $(PYTHON) -c 'import picamera2' 2>/dev/null || echo python3-picamera2))

.PHONY: run test test-slow lint release help clean system-packages

# The line of `export` is printed until it is in effect.
run: $(VENV)/.run
	@command -v camapp >/dev/null || printf '%s\n' "The program is $(BIN)/camapp. To call it camapp in this terminal:" \
	  "  export PATH=\"$(abspath $(BIN)):\$$PATH\""
	@$(BIN)/camapp run $(ARGS)

# One BLAS thread for each of the two files that are tested at a time.
test: $(VENV)/.test
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

release: $(VENV)/.test
	@$(BIN)/python -m pip install -q 'build>=1'
	@$(BIN)/python tools/release.py dist

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

clean:
	rm -rf $(VENV)

# On a Pi the environment includes apt's packages: picamera2 and the NumPy that it was built for.
$(VENV)/bin/python: | system-packages
	$(PYTHON) -m venv $(if $(ON_PI),--system-site-packages) $(VENV)

# Editable: the program runs the sources of this folder. Its dependencies are those in requirements.txt.
$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e . --config-settings editable_mode=compat
	@touch $@

$(VENV)/.test: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[dev]' --config-settings editable_mode=compat
	@touch $@ $(VENV)/.run

system-packages:
ifneq ($(strip $(NEEDED)),)
	@root=; [ $$(id -u) = 0 ] || root=sudo; \
	if ! command -v apt-get >/dev/null || { [ -n "$$root" ] && ! command -v sudo >/dev/null; }; then \
	  echo "Please install these as root, then try again: $(strip $(NEEDED))" >&2; exit 1; fi; \
	echo "Installing system packages: $(strip $(NEEDED))"; \
	$$root apt-get update -q && $$root apt-get install -y --no-install-recommends $(NEEDED)
endif
