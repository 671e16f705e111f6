"""Writes docs/configuration.md from the fields of lpo/config.py: python docs/make_configuration_page.py."""

import ast
import inspect
import itertools
from enum import Enum
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lpo import build_config, config, config_base, eval_config, reward_config, writing_config

SECTIONS = {
    "": config.RunConfig, "prompts": config.PromptsConfig, "policy": config.ModelConfig, "judge": config.JudgeConfig,
    "build": build_config.BuildConfig, "build.reward": reward_config.RewardConfig,
    "build.search": build_config.SearchConfig, "build.plan": build_config.PlanConfig,
    "build.memory": build_config.MemoryConfig, "build.critique": build_config.CritiqueConfig,
    "build.longreward": reward_config.LongRewardConfig, "build.reward_model": reward_config.RewardModelConfig,
    "build.pairs": build_config.PairsConfig, "build.answers": writing_config.AnswersConfig,
    "build.answers.extension": writing_config.ExtensionConfig, "build.segments": writing_config.SegmentsConfig,
    "build.correction": writing_config.CorrectionConfig, "build.agent_write": writing_config.AgentWriteConfig,
    "build.mix": build_config.MixConfig, "build.budget": build_config.BudgetConfig, "train": config.TrainConfig,
    "train.weights": config.WeightsConfig, "train.peft": config.PeftConfig, "eval": eval_config.EvalConfig,
    "eval.longbench_write": eval_config.LongBenchWriteConfig, "eval.longwrite_ruler": eval_config.LongWriteRulerConfig,
    "eval.longen": eval_config.LonGenConfig, "eval.golden_thread": eval_config.GoldenThreadConfig,
    "eval.checklist": eval_config.ChecklistConfig, "eval.clear": eval_config.ClearConfig,
    "eval.mmlongbench_write": eval_config.MMLongBenchWriteConfig, "eval.along": eval_config.AlongConfig,
    "eval.pairwise": eval_config.PairwiseConfig, "eval.guard": eval_config.GuardConfig,
    "measured": config.MeasuredConfig, "policy.sampling": config.SamplingConfig, "policy.prices": config.Prices,
}
HEADER = """# Every key of a configuration

Made from `lpo/config.py` by `docs/make_configuration_page.py`; do not edit.

A configuration is a YAML file. `key.sub=value` on the command line changes a setting; `${other.key}` inserts another
one. Unknown keys, wrong types and repeated keys are errors, reported all at once. Secrets are never written into a
configuration: name the environment variable that holds them (`api_key_env`).
"""


def field_docs(section: type[BaseModel]) -> dict[str, str]:
    """The text under each field, also of the sections it extends."""
    docs: dict[str, str] = {}
    sections = [cls for cls in section.__mro__ if issubclass(cls, config_base.Section)]
    for cls in reversed(sections[:-1]):
        body = ast.parse(inspect.getsource(cls)).body[0].body
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr) \
                    and isinstance(following.value, ast.Constant):
                docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def kind(annotation: object) -> str:
    """A type as a reader writes it."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    for name in ("typing.", "lpo.config.", "lpo.build_config.", "lpo.eval_config.", "lpo.config_base.", "<class '",
                 "'>"):
        text = text.replace(name, "")
    return text.replace("NoneType", "None").replace("|", "\\|")


def plain(value: object) -> object:
    """A default as it is written in YAML: names instead of members of enumerations."""
    if isinstance(value, Enum):
        return value.value
    return tuple(map(plain, value)) if isinstance(value, tuple) else value


def table(section: type[BaseModel], inherited: set[str]) -> str:
    """The keys of one section."""
    docs = field_docs(section)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if name in inherited:
            continue
        default = field.get_default(call_default_factory=True)
        shown = "*required*" if default is PydanticUndefined else "see below" if isinstance(default, BaseModel) \
            else f"`{plain(default)!r}`"
        rows.append(f"| `{name}` | {kind(field.annotation)} | {shown} | {docs.get(name, '')} |")
    return "\n".join(rows)


def page() -> str:
    """The whole page."""
    parts = [HEADER]
    for path, section in SECTIONS.items():
        inherited = set(config.ModelConfig.model_fields) if section is config.JudgeConfig else set()
        also = " All keys of `policy`, and:" if inherited else ""
        parts.append(f"## {f'`{path}`' if path else 'Top level'}\n\n{inspect.getdoc(section)}{also}\n\n"
                     f"{table(section, inherited)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    target = Path(__file__).with_name("configuration.md")
    target.write_text(page(), encoding="utf-8")
    print(f"wrote {target}")
