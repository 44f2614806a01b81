#!/usr/bin/env bash
# Lint, types, imports between the rooms, and all tests, one process a core. Sets up .venv on first use. Arguments go to pytest:
#
#   bash scripts/test.sh -m "not slow"
#   bash scripts/test.sh -n 0 -k name       in this process, as a debugger wants it
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh test
pmlm_setup plot # of setup.sh: what the scripts under test would set up, each by itself
cores=$(env -u OMP_NUM_THREADS nproc) # which would say OMP_NUM_THREADS
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
ruff check .
ruff format --check .
mypy
lint-imports
exec python -m pytest -n "$cores" --dist worksteal "$@"
