"""What is trained: a random model whose body outweighs its head, and Gemma 3 270M, which spends half its work there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cells import Cell, Pair


@dataclass(frozen=True)
class Lexicon:
    """Words that are one token each, wherever they stand, so that texts have exactly the tokens they are made for.

    Args:
        tokenizer: A transformers tokenizer.
        words: The words; a text puts a space before each.
        word_ids: Their token ids.
        bos: What the tokenizer puts before a text.
    """

    tokenizer: Any
    words: list[str]
    word_ids: list[int]
    bos: list[int]

    def text(self, numbers: Sequence[int]) -> str:
        """Words by their numbers."""
        return "".join(f" {self.words[number]}" for number in numbers)

    def ids(self, numbers: Sequence[int]) -> list[int]:
        """The tokens that this text must have."""
        return [self.word_ids[number] for number in numbers]

    def sides(self, pair: Pair) -> tuple[list[int], list[int], list[int]]:
        """Token ids of context, chosen and rejected side; both sides end with the end of the sequence."""
        eos = [self.tokenizer.eos_token_id]
        context = self.bos + self.ids(pair.prompt + pair.prefix)
        return context, self.ids(pair.chosen) + eos, self.ids(pair.rejected) + eos


@dataclass(frozen=True)
class Subject:
    """A model and how it is trained.

    Args:
        name: As given on the command line.
        lora: Train an adapter (rank 16 on all linear layers but the head) on a frozen model; False trains in full.
        checkpoint_from: Length of the longest row from which activations are recomputed in the backward.
        read_config: The model's config.
        make_model: From the config, a fresh model in float32, the same at every call.
        make_lexicon: From the config, its words.
    """

    name: str
    lora: bool
    checkpoint_from: int
    read_config: Callable[[], Any]
    make_model: Callable[[Any], Any]
    make_lexicon: Callable[[Any], Lexicon]

    @cached_property
    def config(self) -> Any:
        """The model's config."""
        return self.read_config()

    @cached_property
    def lexicon(self) -> Lexicon:
        """The model's words."""
        return self.make_lexicon(self.config)

    def model(self) -> Any:
        """A fresh model."""
        return self.make_model(self.config)

    @property
    def lora_rank(self) -> int:
        """Rank of the adapter; 0 without one."""
        return 16 if self.lora else 0

    def checkpointing(self, cell: Cell) -> bool:
        """Is gradient checkpointing on, for every trainer alike?"""
        return cell.longest_row >= self.checkpoint_from

    def rows(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """Our columns. Both sides end the answer, because TRL puts an end-of-sequence token behind every text."""
        text = self.lexicon.text
        return [{"prompt": text(pair.prompt), "prefix": text(pair.prefix), "chosen": text(pair.chosen),
                 "rejected": text(pair.rejected), "chosen_ends": True, "rejected_ends": True, "group": "document",
                 "step": pair.step} for pair in pairs]

    def trl_rows(self, pairs: Sequence[Pair]) -> list[dict[str, str]]:
        """TRL's columns: what comes before a step is its prompt."""
        text = self.lexicon.text
        return [{"prompt": text(pair.prompt + pair.prefix), "chosen": text(pair.chosen),
                 "rejected": text(pair.rejected)} for pair in pairs]


def _qwen2(**sizes: Any) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(**sizes, max_position_embeddings=32768, tie_word_embeddings=False, pad_token_id=0,
                       bos_token_id=None, eos_token_id=1)


def _body_config() -> Any:
    return _qwen2(vocab_size=32768, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12,
                  num_attention_heads=16, num_key_value_heads=4)


def _tiny_config() -> Any:
    return _qwen2(vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2)


def _random_model(config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")


def _one_token_a_word(config: Any) -> Lexicon:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>"]
    words = [f"w{number}" for number in range(config.vocab_size - len(special))]
    vocabulary = {token: number for number, token in enumerate(special + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>",
                                      unk_token="<unk>")
    return Lexicon(wrapped, words, [vocabulary[word] for word in words], bos=[])


def _gemma_folder() -> str:
    from lpo.llm.demo import DEMO_MODEL, resolve_model

    return resolve_model(DEMO_MODEL)


def _gemma_config() -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(_gemma_folder())


def _gemma_model(config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(_gemma_folder(), dtype=torch.float32, attn_implementation="sdpa")


def _gemma_words(config: Any) -> Lexicon:
    """The most frequent 16,384 lower-case English-looking words that are one token with the space before them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_gemma_folder())
    found = [(number, token[1:]) for token, number in tokenizer.get_vocab().items()
             if token[0] == "▁" and 4 <= len(token) <= 9 and token[1:].isascii() and token[1:].islower()
             and token[1:].isalpha()]
    found = sorted(found)[:16384]  # merges were learnt, and are numbered, in the order of frequency
    return Lexicon(tokenizer, [word for _, word in found], [number for number, _ in found],
                   bos=[tokenizer.bos_token_id])


NEVER = 1 << 60

SUBJECTS = {subject.name: subject for subject in (
    Subject("body", True, 4000, _body_config, _random_model, _one_token_a_word),
    Subject("gemma-lora", True, 4000, _gemma_config, _gemma_model, _gemma_words),
    Subject("gemma-full", False, 0, _gemma_config, _gemma_model, _gemma_words),
)}

# Not part of a default run: a check of the machinery that takes seconds.
SMOKE_SUBJECTS = {subject.name: subject for subject in (
    Subject("tiny", True, NEVER, _tiny_config, _random_model, _one_token_a_word),
    Subject("tiny-full", False, 0, _tiny_config, _random_model, _one_token_a_word),
)}
