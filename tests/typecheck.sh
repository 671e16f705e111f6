#!/usr/bin/env bash
# Runs pyright over the package as it is imported: the top-level folders joined to one `lpo` by links.
#   bash tests/typecheck.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-${LPO_VENV:-.venv-tests}/bin/python}"

joined=build/types/lpo
rm -rf "$joined"
mkdir -p "$joined"
ln -s "$PWD"/lpo/* "$joined"/
for part in reward pair_builders trainers configs; do
    ln -s "$PWD/$part" "$joined/$part"
done
"$python" -m pyright --pythonpath "$python"
