"""From the `eval` section to suites. Each is imported only where it is measured."""

from __future__ import annotations

from collections.abc import Sequence

from lpo.eval_config import EvalConfig, SuiteName
from lpo.evaluation.suite import Suite
from lpo.records import Prompt


def create_suite(name: SuiteName, config: EvalConfig, held_out: Sequence[Prompt]) -> Suite:
    """A suite with its tasks.

    Args:
        name: Which.
        config: The `eval` section.
        held_out: The run's held-out prompts.

    Raises:
        DataError: Its file is missing or damaged, or no task is left.
        NothingLeftError: None of the file's rows can be used.
    """
    match name:
        case SuiteName.HELD_OUT:
            from lpo.evaluation.suites.held_out import held_out_suite

            return held_out_suite(held_out, config)
        case SuiteName.LONGBENCH_WRITE:
            from lpo.evaluation.suites.longbench_write import longbench_write

            assert config.longbench_write is not None  # the section was checked
            return longbench_write(config.longbench_write)
        case SuiteName.LONGWRITE_RULER:
            from lpo.evaluation.suites.longwrite_ruler import longwrite_ruler

            return longwrite_ruler(config.longwrite_ruler)
        case SuiteName.LONGEN:
            from lpo.evaluation.suites.longen import longen

            return longen(config.longen)
        case SuiteName.GOLDEN_THREAD:
            from lpo.evaluation.suites.golden_thread import golden_thread

            return golden_thread(config.golden_thread)
        case SuiteName.CHECKLIST:
            from lpo.evaluation.suites.checklist import checklist

            assert config.checklist is not None
            return checklist(config.checklist)
        case SuiteName.CLEAR:
            from lpo.evaluation.suites.clear import clear

            assert config.clear is not None
            return clear(config.clear)
        case SuiteName.MMLONGBENCH_WRITE:
            from lpo.evaluation.suites.mmlongbench_write import mmlongbench_write

            assert config.mmlongbench_write is not None
            return mmlongbench_write(config.mmlongbench_write)
