# Needs python3, python3-venv and make. Everything is installed into .venv* in this folder, except
# for mosquitto, the MQTT broker that the tests use, and its clients, which come from the distribution.

PYTHON ?= python3
pip_install = -m pip install --quiet --disable-pip-version-check

# $(call python,3.11) is a Python of that version that can make environments, or else $(PYTHON).
# Each candidate is run, because pyenv's shims exist for versions that are not active, too.
python = $(shell \
  for candidate in python$(1) "$$(pyenv root 2>/dev/null)"/versions/$(1).*/bin/python; do \
    "$$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != ($(subst .,$(comma),$(1))))' \
      2>/dev/null && echo "$$candidate" && exit; \
  done; \
  echo "make: no Python $(1) here, using $(PYTHON) in its place" >&2; echo $(PYTHON))
comma := ,

# Tests mostly wait, for brokers, cameras and clocks. Those of a file share a broker. Files come in
# the order of tests/conftest.py.
in_two := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Debian keeps mosquitto in /usr/sbin, which is not on everyone's path
export PATH := $(PATH):/usr/sbin

.PHONY: run test test-lowest test-newest lint mosquitto homeassistant clean

run: .venv/installed
	.venv/bin/edgebird demo
	@echo
	@echo "Your own picture, folder of pictures, video or stream:"
	@echo "    .venv/bin/edgebird detect --source PICTURE --save out"
	@echo "Your own camera, with alerts to your MQTT broker:"
	@echo "    .venv/bin/edgebird detect --camera 0 --mqtt mqtt://HOST"

test: test-lowest test-newest

test-lowest: .venv-lowest/installed mosquitto
	@echo "== tests on the lowest supported versions"
	.venv-lowest/bin/python -m pytest $(in_two)

test-newest: .venv-newest/installed mosquitto
	@echo "== tests on the newest versions"
	.venv-newest/bin/python -m pytest $(in_two)

lint: .venv-newest/installed
	.venv-newest/bin/ruff check
	.venv-newest/bin/ruff format --check
	.venv-newest/bin/mypy

# A real Home Assistant for tests/test_homeassistant.py, which is skipped without it; 1 GB. Its core runs
# on earlier patch releases of Python than it asks for.
homeassistant: .venv-homeassistant/installed

.venv-homeassistant/installed:
	rm -rf .venv-homeassistant
	$(call python,3.13) -m venv .venv-homeassistant
	.venv-homeassistant/bin/python $(pip_install) --ignore-requires-python 'homeassistant==2026.2.*' paho-mqtt
	touch $@

clean:
	rm -rf .venv .venv-lowest .venv-newest .venv-homeassistant .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# The installs are editable, so only a change of pyproject.toml calls for a new one.
.venv/installed: pyproject.toml
	@echo "== installing edgebird into .venv; this takes a few minutes on a Raspberry Pi"
	$(PYTHON) -m venv .venv
	.venv/bin/python $(pip_install) --editable '.[broker]'
	touch $@

.venv-lowest/installed: pyproject.toml tests/lowest.py
	@echo "== installing the lowest supported versions into .venv-lowest"
	rm -rf .venv-lowest
	$(call python,3.11) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python $(pip_install) --constraint .venv-lowest/constraints.txt --editable '.[broker,dev]'
	touch $@

.venv-newest/installed: pyproject.toml
	@echo "== installing the newest versions and TensorFlow into .venv-newest; 600 MB to download"
	rm -rf .venv-newest
	$(call python,3.13) -m venv .venv-newest
	.venv-newest/bin/python $(pip_install) --editable '.[broker,build,dev]'
	touch $@

mosquitto:
	@{ command -v mosquitto && command -v mosquitto_pub; } >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "make test needs mosquitto and mosquitto_pub: install them first" >&2; exit 1; }; \
	  echo "== installing mosquitto"; \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$as_root apt-get -qq update && \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
	    mosquitto mosquitto-clients </dev/null; \
	}
