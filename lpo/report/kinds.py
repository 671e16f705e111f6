"""What a method looks at, which decides what the page of its run shows."""

from __future__ import annotations

from enum import StrEnum


class RunKind(StrEnum):
    """What a tree of a run holds."""

    STEPS = "steps"
    """Candidates for each step of an answer, layer after layer (LongDPO); also pairs that came from elsewhere."""
    ANSWERS = "answers"
    """Whole answers, ranked (best-of-N, LongReward)."""
    SCRIPTS = "scripts"
    """Answers, and one of them corrected segment by segment (IterDPO)."""
    PLANS = "plans"
    """An answer written by a plan (AgentWrite)."""
    SCORED = "scored"
    """Answers that were there already, scored (`lpo score`): nothing was sampled and nothing is trained."""
    MEASURED = "measured"
    """One model, measured (`lpo eval`): nothing was built and nothing is trained."""

    @classmethod
    def of(cls, method: str | None) -> RunKind:
        """That of a method by its name in `build.method`."""
        return {"best_of_n": cls.ANSWERS, "iterdpo": cls.SCRIPTS, "agent_write": cls.PLANS}.get(method or "", cls.STEPS)

    @property
    def gives_pairs(self) -> bool:
        """Preference pairs, or rows for supervised fine-tuning?"""
        return self not in (RunKind.PLANS, RunKind.MEASURED)

    @property
    def trains(self) -> bool:
        """Do a training and an evaluation follow?"""
        return self not in (RunKind.PLANS, RunKind.SCORED, RunKind.MEASURED)

    @property
    def measures(self) -> bool:
        """Are models measured?"""
        return self.trains or self is RunKind.MEASURED

    @property
    def described(self) -> str:
        """What the page reports of."""
        return {RunKind.PLANS: "a run that writes rows for supervised fine-tuning",
                RunKind.SCORED: "answers that were scored",
                RunKind.MEASURED: "a model that was measured"}.get(self, "a preference-optimisation run")

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """`(id, title)` of the page's sections, in their order."""
        run, pairs, answers = ("run", "The run"), ("pairs", "Pairs"), ("answers", "Answers")
        files = ("files", "Files")
        match self:
            case RunKind.PLANS:
                return run, ("rows", "SFT rows"), ("plans", "Planned answers"), files
            case RunKind.SCORED:
                return run, answers, pairs, files
            case RunKind.MEASURED:
                return run, ("scores", "Scores"), ("samples", "Texts"), files
            case RunKind.STEPS:
                looked_at = (("trees", "Search trees"),)
            case RunKind.ANSWERS:
                looked_at = (answers,)
            case RunKind.SCRIPTS:
                looked_at = (("corrections", "Corrections"), answers)
        return (run, ("scores", "Scores"), ("training", "Training"), pairs, *looked_at, ("samples", "Texts"), files)
