"""What a person sees of a build that is going on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from lpo.build_config import BudgetConfig, BuildConfig
from lpo.pair_builders import BuildEvent
from lpo.records import SearchTree, Usage
from lpo.run.progress import Update
from lpo.run.workload import SEARCHES, layer_depths

SECONDS_BETWEEN = 0.25
"""The display is worked out anew this often, however many events there are."""
FIRST_GUESS = 0.02
"""Nothing is said of the time left before this share of the work was done."""


class BuildProgress:
    """Counts what happens in a build and shows it.

    Args:
        config: The `build` section.
        prompts: Trees to be built.
        usage: What model calls of this start took so far.
        spent: What all starts of the run paid for, to be compared with the budget.
        update: The bar, in trees.
        clock: Seconds, for tests.
    """

    def __init__(self, config: BuildConfig, prompts: int, usage: Callable[[], Usage], spent: Callable[[], Usage],
                 update: Update, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_layers = len(layer_depths(config)) if config.method in SEARCHES else None
        self._budget = config.budget
        self._prompts = prompts
        self._usage, self._spent = usage, spent
        self._update = update
        self._clock = clock
        self._shown = float("-inf")
        self._events: Counter[BuildEvent] = Counter()
        self._layers_of_trees = 0
        self._start = clock(), 0.0
        self.trees = 0
        """Trees that are done."""

    def on_event(self, event: BuildEvent) -> None:
        """Something happened in some tree."""
        self._events[event] += 1
        self.show()

    def tree_done(self, tree: SearchTree) -> None:
        """A tree is done."""
        self.trees += 1
        self._layers_of_trees += len({node.parent for node in tree.nodes if node.parent is not None})
        self.show(now=self.trees == self._prompts)

    def show(self, *, now: bool = False) -> None:
        """Bring the display up to date, at once or when it is time to."""
        seconds = self._clock()
        if not now and seconds - self._shown < SECONDS_BETWEEN:
            return
        self._shown = seconds
        usage = self._usage()
        self._update(self.trees, self._note(usage), self._left(seconds, usage))

    def _note(self, usage: Usage) -> str:
        events = self._events
        parts = [*([f"{events[BuildEvent.LAYER]:,} layers"] if self._most_layers is not None else []),
                 f"{usage.calls:,} calls" + (f" + {usage.cached:,} from the journal" if usage.cached else ""),
                 f"{usage.tokens_in + usage.tokens_out:,} tokens"]
        if events[BuildEvent.VETO]:
            parts.append(f"{events[BuildEvent.VETO]:,} vetoed")
        attempts = events[BuildEvent.REFINED] + events[BuildEvent.NOT_REFINED]
        if attempts:
            parts.append(f"{events[BuildEvent.REFINED]:,} of {attempts:,} weak steps refined")
        tried = events[BuildEvent.CORRECTED] + events[BuildEvent.NOT_CORRECTED]
        if tried:
            parts.append(f"{events[BuildEvent.CORRECTED]:,} of {tried:,} segments corrected")
        if usage.cost is not None:
            parts.append(f"cost {usage.cost:,.4f}")
        if self._budget is not None:
            parts.append(f"{budget_share(self._budget, self._spent()):.0%} of the budget")
        return ", ".join(parts)

    def _left(self, seconds: float, usage: Usage) -> float | None:
        """Seconds that the rest will take, going by what was done since the first call that was made: what comes from
        the journal before it takes no time and says nothing.
        """
        share = self._share()
        if not usage.calls:
            self._start = seconds, share
        start, share_before = self._start
        if share - share_before < FIRST_GUESS:
            return None
        return (seconds - start) * (1 - share) / (share - share_before)

    def _share(self) -> float:
        """Share of the work that is done: of a search, in layers. Trees end early, so what is to come is guessed by
        those that are done; two that are as large as can be are imagined beside them.
        """
        if self._most_layers is None:
            return self.trees / self._prompts
        mean = (self._layers_of_trees + 2 * self._most_layers) / (self.trees + 2)
        expected = self._layers_of_trees + (self._prompts - self.trees) * mean
        done = self._events[BuildEvent.LAYER]
        return 1.0 if self.trees == self._prompts else min(0.99, done / expected)


def budget_share(budget: BudgetConfig, spent: Usage) -> float:
    """The share of the budget that is spent: of the limit that is nearest."""
    limits = ((budget.calls, spent.calls), (budget.tokens, spent.tokens_in + spent.tokens_out),
              (budget.cost, spent.cost or 0.0))
    return max((used / limit for limit, used in limits if limit is not None), default=0.0)
