# `make run`: install, then the main job end to end. `make test`: install, then the tests. Nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
DEV_STAMP := $(STAMP)-dev
CONFIG ?= configs/quick.toml
# Which pool a worker serves, one run at a time, and how many boxes with a GPU there are.
POOL ?= cpu
QUEUES := training scheduled
GPU_BOXES ?= 1
MODEL ?= quick
JOBS ?= 2

.PHONY: run setup check test test-services test-arm64 chaos pictures server stop status worker deploy automations schedules clean

run: $(STAMP)
	"$(BIN)/ddlm" run $(CONFIG)

setup: $(DEV_STAMP)

check: $(DEV_STAMP)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/pytest" -q tests/test_architecture.py

# A file's tests stay together: they share what their fixtures build. One thread each, or the processes fight for cores.
test: export OMP_NUM_THREADS ?= 1
test: $(DEV_STAMP)
	"$(BIN)/pytest" -q -n $(JOBS) --dist loadfile -m "not services and not chaos and not arm64"

test-services: $(DEV_STAMP)
	"$(BIN)/pytest" -q -n $(JOBS) --dist loadfile -m services

# A tiny bundle under emulation, in a small Debian for arm64 that is made once below outputs/; needs no root.
test-arm64: $(DEV_STAMP)
	"$(BIN)/pytest" -q -m arm64

# Kills servers, workers and trainings of its own, and looks at what became of them.
chaos: $(DEV_STAMP)
	"$(BIN)/pytest" -q -m chaos

# The pictures of the documents, from a model of `make run` and from servers of its own. Needs a Chromium and npm.
pictures: $(DEV_STAMP)
	"$(BIN)/python" docs/pictures/library.py $(MODEL) docs/pictures
	"$(BIN)/python" docs/pictures/servers.py docs/pictures

# Prefect, MLflow and a worker on this machine: `server` starts them and prints their addresses, `stop` stops them.
server stop status: $(STAMP)
	"$(BIN)/python" infra/local.py $(subst server,start,$@)

# On other machines, or without the rest. PREFECT_API_URL says where the server is.
worker deploy automations schedules: export DO_NOT_TRACK = true
worker deploy automations schedules: export PREFECT_API_URL ?= http://127.0.0.1:4200/api
worker: export PREFECT_FLOWS_HEARTBEAT_FREQUENCY ?= 30
worker: export PWD = $(CURDIR)

worker: $(STAMP)
	"$(BIN)/python" infra/second_chances.py
	"$(BIN)/prefect" worker start --pool $(POOL) --type process --limit 1 $(QUEUES:%=--work-queue %)

# Given again, it leaves the queues as they are and updates the rest. Without PWD here, each worker's own is where it
# finds the project.
deploy: $(STAMP)
	"$(BIN)/prefect" work-pool create cpu --type process --overwrite
	"$(BIN)/prefect" work-pool create gpu --type process --overwrite
	"$(BIN)/prefect" work-queue create training --pool cpu --priority 1 --limit 1 || true
	"$(BIN)/prefect" work-queue create scheduled --pool cpu --priority 5 --limit 1 || true
	"$(BIN)/prefect" work-queue create training --pool gpu --priority 1 --limit $(GPU_BOXES) || true
	"$(BIN)/prefect" work-queue create scheduled --pool gpu --priority 5 --limit $(GPU_BOXES) || true
	env -u PWD "$(BIN)/prefect" --no-prompt deploy --all
	"$(BIN)/python" infra/automations.py

# When scheduled deployments run next, or why they never will.
schedules: $(STAMP)
	"$(BIN)/python" infra/schedules.py

# What the server does by itself about crashes; DDLM_ALERTS_URL, where set, is told.
automations: $(STAMP)
	"$(BIN)/python" infra/automations.py

clean:
	rm -rf $(VENV) build *.egg-info

# The stamps' names hold a checksum of what is asked for: an edited pyproject.toml or constraints.txt installs again.
$(STAMP): | $(VENV)/bin/python
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export]"
	touch $@

$(DEV_STAMP): $(STAMP)
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export,dev]"
	touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null || \
		{ echo "make: $(PYTHON) is missing or older than Python 3.11; run make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
