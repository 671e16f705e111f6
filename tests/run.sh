#!/usr/bin/env bash
# Runs the tests in an environment of their own; arguments are passed on to pytest.
#   bash tests/run.sh                  everything
#   bash tests/run.sh -m 'not demo'    without the tests that need the real 270M model
set -euo pipefail
cd "$(dirname "$0")/.."
source examples/environment.sh

make_environment "${LPO_VENV:-.venv-tests}" demo,dev
"${LPO_VENV:-.venv-tests}/bin/python" -m pytest "$@"
