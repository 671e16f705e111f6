"""Notes beside a prompt: what the policy is told for one request, and the task's own prompt does not say."""

from __future__ import annotations

from lpo.records import Dialogue, Message


def with_notes(prompt: Dialogue, notes: str) -> Dialogue:
    """A prompt with notes: after the last user's turn, or before plain text, whose end is what is continued.

    Args:
        prompt: It stays as it is.
        notes: A paragraph or a list.
    """
    if isinstance(prompt, str):
        return f"{notes}\n\n{prompt}"
    turns = [index for index, message in enumerate(prompt) if message.role == "user"]
    if not turns:
        return (*prompt, Message(role="user", content=notes))
    last = turns[-1]
    noted = Message(role="user", content=f"{prompt[last].content}\n\n{notes}")
    return (*prompt[:last], noted, *prompt[last + 1:])


def one_line(text: str) -> str:
    """A text as one item of a list: every run of white space is one space."""
    return " ".join(text.split())
