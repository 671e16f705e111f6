"""Requests that are equal up to seed and index, gathered to be drawn in one call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field

from lpo.errors import LpoError
from lpo.llm.base import Completion, Request
from lpo.records import Usage

Outcome = Completion | Exception | None
"""What became of one request of a group; None: it has to be asked alone."""

_QUIET_TURNS = 8
"""A group that this many turns of the event loop brought nobody is not waited for any longer."""


@dataclass
class _Member:
    """A request that waits for its group."""

    request: Request
    outcome: asyncio.Future[Outcome]


@dataclass
class _Group:
    """Requests of one key, by index."""

    members: dict[int, _Member] = field(default_factory=dict[int, _Member])
    quiet_turns: int = 0
    call: asyncio.Task[None] | None = None


class SiblingGatherer:
    """Draws requests together when all their siblings are there, and each alone when some are not.

    Siblings come in the same turns of the event loop: turns are counted, not milliseconds, so the calls of a program
    repeat. Those that lack siblings (the others were answered from the journal) are asked alone, each with its own
    seed. All outcomes of a call are handed out in one turn of the loop, so that the journal commits them together.

    Args:
        together: Draws all requests of a group, given by index, in one call. An outcome of None is asked for alone.
        alone: Draws one request.
    """

    def __init__(self, together: Callable[[Sequence[Request]], Awaitable[Sequence[Outcome]]],
                 alone: Callable[[Request], Awaitable[Completion]]) -> None:
        self._together = together
        self._alone = alone
        self._open: dict[Hashable, _Group] = {}

    async def submit(self, request: Request) -> Completion:
        """Write one text, together with its siblings where they come.

        Raises:
            LpoError: The call failed, for all of its requests or for this one.
        """
        if not 0 <= request.index < request.siblings or request.siblings == 1:
            return await self._alone(request)
        group, member = self._join(request)
        try:
            outcome = await member.outcome
        except asyncio.CancelledError:
            if group.call is not None and all(other.outcome.cancelled() for other in group.members.values()):
                group.call.cancel()  # nobody waits any more
            raise
        if outcome is None:
            return await self._alone(request)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _join(self, request: Request) -> tuple[_Group, _Member]:
        """Put a request into its group, and let the group go when it is whole."""
        loop = asyncio.get_running_loop()
        key = _key(request)
        group = self._open.get(key)
        if group is None or request.index in group.members:
            group = self._open[key] = _Group()
            loop.call_soon(self._watch, key, group)
        member = _Member(request, loop.create_future())
        group.members[request.index] = member
        group.quiet_turns = 0
        if len(group.members) == request.siblings:
            del self._open[key]
            group.call = asyncio.create_task(self._draw(group))
        return group, member

    def _watch(self, key: Hashable, group: _Group) -> None:
        """Once in each turn of the loop: wait for siblings, or give up on them."""
        if group.call is not None:
            return
        if group.quiet_turns < _QUIET_TURNS:
            group.quiet_turns += 1
            asyncio.get_running_loop().call_soon(self._watch, key, group)
            return
        if self._open.get(key) is group:
            del self._open[key]
        for member in group.members.values():
            _settle(member, None)

    async def _draw(self, group: _Group) -> None:
        members = [group.members[index] for index in sorted(group.members)]
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._together([member.request for member in members])
        except asyncio.CancelledError:
            for member in members:
                member.outcome.cancel()
            raise
        except Exception as error:
            outcomes = [_share(error, place) for place in range(len(members))]
        for member, outcome in zip(members, outcomes, strict=True):
            _settle(member, outcome)


def _settle(member: _Member, outcome: Outcome) -> None:
    if not member.outcome.done():
        member.outcome.set_result(outcome)


def _key(request: Request) -> Hashable:
    schema = None if request.json_schema is None else json.dumps(request.json_schema)
    return request.context, request.sampling, request.purpose, request.siblings, schema


def _share(error: Exception, place: int) -> Exception:
    """An error for each request of a failed call, which is paid once; a shared one would collect all tracebacks."""
    if place == 0 or not isinstance(error, LpoError):
        return error
    copy = type(error)(error.cause, where=error.where, mend=error.mend)
    copy.usage = Usage()
    return copy
