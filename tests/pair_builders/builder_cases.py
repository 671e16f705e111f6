"""A builder over plain functions, and what its tests share."""

import asyncio
from dataclasses import dataclass

from function_llm import FunctionLLM, completion

from lpo.build_config import BuildConfig
from lpo.config_base import SamplingConfig
from lpo.llm.asking import Dialect
from lpo.llm.base import Finish
from lpo.pair_builders import BuilderModels, create_builder
from lpo.pair_builders.pairs import derive_pairs
from lpo.records import Judgement, Message, Prompt, SearchTree
from lpo.templates import load_templates

PROMPT = Prompt(id="p1", prompt=(Message(role="user", content="Write a letter."),), target_words=40)
PLAIN = Prompt(id="p2", prompt="A letter:\n", target_words=None)


class ByText:
    """Scores a draft by a plain function of it; remembers what it saw."""

    name = "by_text"

    def __init__(self, function):
        self.function = function
        self.seen = []

    async def score(self, drafts):
        self.seen.append(list(drafts))
        said = [self.function(draft) for draft in drafts]
        return [Judgement(scorer=self.name, unscored=one) if isinstance(one, str)
                else Judgement(scorer=self.name, overall=one) for one in said]


def models(policy, scorer, judge=None, critic=None, dialect=Dialect.JSON) -> BuilderModels:
    judge = judge or FunctionLLM()
    return BuilderModels(policy=policy, sampling=SamplingConfig(), scorer=scorer, judge=judge, critic=critic or judge,
                         dialect=dialect, templates=load_templates())


def config(**changes) -> BuildConfig:
    """A greedy search without memory and critiques, but for the changes."""
    plain = {"search": {"algorithm": "greedy"}, "memory": {"enabled": False}, "critique": {"enabled": False}}
    return BuildConfig(**{"branching": 4, "depth": 3, "step_tokens": 16, **plain, **changes})


@dataclass(frozen=True)
class Built:
    tree: SearchTree
    pairs: tuple
    rejected: tuple


def build(write, scorer, prompt=PROMPT, seed=0, delay=lambda request: 0, on_event=lambda event: None, judge=None,
          critic=None, **changes):
    """A tree and its pairs, and the policy that was asked."""
    llm = FunctionLLM(write=write, delay=delay)
    settings = config(**changes)
    builder = create_builder(settings, models(llm, scorer, judge, critic), on_event)
    derived = derive_pairs(asyncio.run(builder.build(prompt, seed=seed)), settings.pairs)
    return Built(derived.tree, derived.pairs, derived.rejected), llm


def cut(text: str):
    return completion(text, Finish.LENGTH, [-0.5, -1.5])


def by_number(draft):
    """A score that is the number in the text."""
    return int("".join(char for char in draft.text if char.isdigit()) or 0) / 100


def step(request):
    return cut(f"Step {request.seed % 90 + 5} is written here. And then it was c")
