"""Rendering of prompts, open assistant turns and whole rows as text. Knows tokenizers only by their interface.

A string prompt is plain text, as in TRL: nothing is templated, the tokenizer adds its special tokens, and an answer
that ends gets the end-of-sequence token. Messages are rendered by a chat template. A partial assistant turn is a
*continuation*: the turn is opened once and never closed and reopened.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lpo.errors import ConfigError, DataError
from lpo.records import Dialogue, Message

TEMPLATE_MEND = "use a chat template that renders the prompt the same way with and without an answer"

_STAND_IN = "\ue000answer\ue000"
"""Private-use characters: no template or text holds them."""


@dataclass(frozen=True)
class Rendered:
    """A row as text.

    Args:
        prompt: The prompt as the model sees it, the assistant turn opened.
        context: `prompt` plus the prefix.
        row: `context` plus the side, plus what closes the turn when the side ends the answer.
        special_tokens: Should the tokenizer add its own special tokens (true for plain text, false for templates,
            which write them themselves)?
    """

    prompt: str
    context: str
    row: str
    special_tokens: bool


def load_chat_template(name: str) -> str | None:
    """The source of a chat template.

    Args:
        name: `tokenizer` (the tokenizer's own), `plain` (the one shipped here, for base models), or a file's path.

    Returns:
        Jinja source; None for the tokenizer's own.

    Raises:
        ConfigError: There is no such template.
    """
    if name == "tokenizer":
        return None
    if name == "plain":
        return resources.files("lpo").joinpath("chat_templates/plain.jinja").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"no chat template {name!r}", where="chat_template",
                          mend="use 'tokenizer', 'plain' or the path of a .jinja file")
    return path.read_text(encoding="utf-8")


def require_chat_template(tokenizer: Any, template: str | None) -> None:
    """Check that messages can be rendered.

    Raises:
        ConfigError: The tokenizer has no template of its own and none was chosen: none is ever guessed.
    """
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise ConfigError("the model has no chat template of its own", where="chat_template",
                          mend="choose one: chat_template: plain (for base models) or the path of a .jinja file")


def render_context(tokenizer: Any, prompt: Dialogue, prefix: str, template: str | None) -> str:
    """What the model reads before it writes: the rendered prompt, the assistant turn opened, and the prefix.

    Args:
        tokenizer: A transformers tokenizer.
        prompt: String or messages.
        prefix: The answer so far; may be empty.
        template: Jinja source, or None for the tokenizer's own.
    """
    if isinstance(prompt, str):
        return prompt + prefix
    if not prefix:
        return _apply(tokenizer, prompt, template, open_turn=True)
    return _split_turn(tokenizer, prompt, prefix, template)[0] + prefix


def render_row(
    tokenizer: Any, prompt: Dialogue, prefix: str, side: str, ends: bool, template: str | None, *, name: str = "row"
) -> Rendered:
    """A training row: prompt, prefix and one side of a pair.

    Args:
        tokenizer: A transformers tokenizer.
        prompt: String or messages.
        prefix: Text both sides share; may be empty.
        side: The chosen or the rejected text.
        ends: Does this side finish the answer? Only then is the end of the turn part of the row.
        template: Jinja source, or None for the tokenizer's own.
        name: Names the row in errors.

    Raises:
        DataError: The rendered prompt is, as text, not the beginning of the rendered row; or the template rewrites
            the answer's text so that a partial turn cannot be rendered.
    """
    if isinstance(prompt, str):
        eos: str = tokenizer.eos_token or ""
        closing = eos if ends and not side.endswith(eos) else ""
        return Rendered(prompt, prompt + prefix, prompt + prefix + side + closing, special_tokens=True)
    opened = _apply(tokenizer, prompt, template, open_turn=True)
    if ends and not prefix:
        # A whole answer: the template's own rendering stands, as in TRL, even where it trims or rewrites the text.
        head, row = opened, _close_turn(tokenizer, prompt, side, template)
    else:
        try:
            head, tail = _split_turn(tokenizer, prompt, prefix + side, template)
        except DataError as error:
            raise DataError(error.cause, where=name, mend=TEMPLATE_MEND) from None
        row = head + prefix + side + (tail if ends else "")
    if not head.startswith(opened) or not row.startswith(opened):
        raise DataError("the rendered prompt is not the beginning of the rendered row", where=name, mend=TEMPLATE_MEND)
    return Rendered(opened, (head + prefix) if prefix else opened, row, special_tokens=False)


def turn_closing(tokenizer: Any, template: str | None) -> str:
    r"""The text a template writes after a finished assistant turn (`<|im_end|>\n`, say)."""
    prompt = (Message(role="user", content="?"),)
    return _split_turn(tokenizer, prompt, "answer", template)[1]


def _split_turn(tokenizer: Any, prompt: tuple[Message, ...], answer: str, template: str | None) -> tuple[str, str]:
    """The rendered text before and after the answer of a closed assistant turn.

    Both are found around a stand-in, since the answer's own words may also stand in the template, and then checked on
    the answer. Templates may trim the answer; a template that writes an empty reasoning block before plain answers
    leaves it out before answers that bring their own.

    Raises:
        DataError: The template rewrites the answer, so that a partial one cannot be rendered.
    """
    head, _, tail = _close_turn(tokenizer, prompt, _STAND_IN, template).partition(_STAND_IN)
    rendered = _close_turn(tokenizer, prompt, answer, template)
    for before in (head, _apply(tokenizer, prompt, template, open_turn=True)):
        for text in (answer, answer.rstrip(), answer.lstrip(), answer.strip()):
            if rendered == before + text + tail:
                return before, tail
    raise DataError("the chat template rewrites the answer's text, so a partial answer cannot be rendered",
                    mend=TEMPLATE_MEND)


def _close_turn(tokenizer: Any, prompt: tuple[Message, ...], answer: str, template: str | None) -> str:
    return _apply(tokenizer, (*prompt, Message(role="assistant", content=answer)), template, open_turn=False)


def _apply(tokenizer: Any, messages: tuple[Message, ...], template: str | None, *, open_turn: bool) -> str:
    require_chat_template(tokenizer, template)
    dialogue = [message.model_dump() for message in messages]
    return tokenizer.apply_chat_template(
        dialogue, chat_template=template, tokenize=False, add_generation_prompt=open_turn
    )
