"""These tests need vLLM, in an environment of its own: `bash tests/vllm/run.sh`. Elsewhere none is collected."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "run"))

collect_ignore_glob = [] if find_spec("vllm") else ["*"]
