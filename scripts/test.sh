#!/usr/bin/env bash
# Lint and all tests. Sets up .venv on first use. Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh test
ruff check .
ruff format --check .
exec python -m pytest "$@"
