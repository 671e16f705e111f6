"""In lm-eval's place: gives back what a real one was recorded to give, and notes how it was called."""

import json
import os
import time
from pathlib import Path


def simple_evaluate(*, task_manager, **arguments):
    """As lm-eval's function of this name, for the tasks and models of `tests/evaluation/lm_eval_tasks.py`."""
    with Path(os.environ["LM_EVAL_CALLS"]).open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    print("Running loglikelihood requests: 50%", flush=True)
    behaviour = os.environ.get("LM_EVAL_BEHAVIOUR")
    if behaviour == "fail":
        raise ConnectionError("Couldn't reach 'cais/mmlu' on the Hub")
    if behaviour == "die":
        os.abort()
    if behaviour == "hang":
        Path(os.environ["LM_EVAL_CALLS"]).with_name("pid").write_text(str(os.getpid()))
        time.sleep(600)
    recorded = json.loads(Path(os.environ["LM_EVAL_RECORDED"]).read_text())
    return recorded["trained" if "peft" in arguments["model_args"] else "base"]
