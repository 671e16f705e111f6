"""What a run may still spend on model calls."""

from __future__ import annotations

from collections.abc import Callable

from lpo.build_config import BudgetConfig
from lpo.config import ModelConfig
from lpo.errors import BackendError, BudgetSpentError, ConfigError
from lpo.records import Usage


class Budget:
    """Limits on calls, tokens and money over all that a run ever paid for, whichever of its starts it was.

    It is asked before every new call; answers from the journal are free. Calls in flight finish, so that tokens and
    money can be exceeded by what these take; the number of calls is exact. A call that was cut off by a kill or a
    cancellation is in no account.

    Args:
        limits: What may be spent.
        paid: What was spent so far, other starts of the run included: `Journal.spent`.
    """

    def __init__(self, limits: BudgetConfig, paid: Callable[[], Usage]) -> None:
        self._limits = limits
        self._paid = paid
        self._calls = paid().calls
        self._unmeasured = False

    def check(self) -> None:
        """May another call be made?

        Raises:
            BudgetSpentError: No.
            BackendError: The model does not say what calls take, so that the limits mean nothing.
        """
        paid, limits = self._paid(), self._limits
        self._calls = max(self._calls, paid.calls)
        _require_left("calls", self._calls, limits.calls)
        _require_left("tokens", paid.tokens_in + paid.tokens_out, limits.tokens)
        _require_left("cost", paid.cost or 0.0, limits.cost)
        if self._unmeasured:
            error = BackendError("the server does not say how many tokens a call took: no budget of tokens or money "
                                 "can be kept", mend="limit build.budget.calls alone")
            error.usage = Usage()  # nothing was asked
            raise error

    def start(self) -> None:
        """A call is made now: check, and count it, for its reply may be long in coming."""
        self.check()
        self._calls += 1

    def finished(self, usage: Usage) -> None:
        """What a call took. One that took nothing was not measured."""
        if usage.calls and not usage.tokens_in + usage.tokens_out:
            self._unmeasured = self._limits.tokens is not None or self._limits.cost is not None

    def require_prices(self, model: ModelConfig) -> None:
        """A limit on money needs the prices of every model behind a server; a local one costs none.

        Raises:
            ConfigError: This one has none.
        """
        if self._limits.cost is not None and model.prices is None and "prices" not in model.meaningless:
            raise ConfigError("build.budget.cost is given, but not the prices of this model", where=model.model,
                              mend="give its prices (input and output, for a million tokens), or leave out "
                                   "build.budget.cost")


def _require_left(name: str, spent: float, limit: float | None) -> None:
    if limit is not None and spent >= limit:
        amount = f"{spent:,.4f} of {limit:,.4f}" if name == "cost" else f"{spent:,} of {limit:,} {name}"
        raise BudgetSpentError(f"the budget is spent: {amount}", where=f"build.budget.{name}",
                               mend="raise it and run the same command again: finished model calls are stored and "
                                    "will not be made again")
