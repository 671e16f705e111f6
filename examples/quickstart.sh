#!/usr/bin/env bash
# The main job, from a fresh clone to a report page, on a CPU and without any hub or server.
#   bash examples/quickstart.sh [KEY=VALUE]...        settings are passed on to `lpo run quickstart`
set -euo pipefail
cd "$(dirname "$0")/.."
source examples/environment.sh

make_environment "${LPO_VENV:-.venv}" demo
"${LPO_VENV:-.venv}/bin/lpo" run quickstart "$@"
