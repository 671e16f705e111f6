"""Answers corrected segment by segment, with everything that can happen to a segment."""

import random
from collections.abc import Callable, Sequence

from lpo.records import (
    Aspect,
    Correction,
    CorrectionOutcome,
    Fault,
    Judgement,
    Prompt,
    Script,
    ScriptSegment,
    SearchNode,
    SearchTree,
)

Judge = Callable[[float, random.Random], Judgement]
Out = CorrectionOutcome

TITLE = "# Tides\n\n"
OPENING = (
    "Good morning. Today we talk about tides. Tides are when the sea goes up and down. The sea goes up and down "
    "twice a day, and in some places three times a day, because of the moon.\n\n")
OPENING_BETTER = (
    "Good morning. Today we talk about tides. Tides are when the sea goes up and down. The sea goes up and down "
    "twice a day in most harbours, once a day in a few, because the earth turns under two bulges of water.\n\n")
PULL = (
    "The moon pulls at the water on its side of the earth more than at the earth itself, and at the earth more than "
    "at the water on the far side. So there are two bulges.\n\n")
SPRING = "When sun and moon stand in one line, tides are large. These are called neap tides.\n\n"
SPRING_ONCE = "When sun and moon stand in one line, tides are large. These are called spring tides.\n\n"
SPRING_BETTER = (
    "When sun and moon stand in one line, tides are large. These are called spring tides, though they come with "
    "every new and full moon. Between them, at the quarters, come the small neap tides.\n\n")
HARBOUR = "As we have said, the sea goes up and down twice a day. This is important for harbours.\n\n"
HARBOUR_WORSE = "As we have said, the sea goes up and down. This is very important for all harbours.\n\n"
FUNDY = "In the Bay of Fundy the difference is sixteen metres.\n\n"
MILLS = "People have used tides for mills.\n\n"
TIDE_TABLE = "A tide table gives the hours and heights of high and low water for one harbour and one year.\n\n"
AGAIN = "Tides are when the sea goes up and down.\n\n"
ENDING = "That was everything about tides. Thank you."
TEA_DRAFT = ("武夷山的茶很好。", "茶农老陈每天上山。他不看天，只看叶背。", "茶很香，大家都喜欢喝茶。")
TEA_BY_PEOPLE = (
    "武夷山的茶，好在岩缝里那一口水。", "茶农老陈每天上山。他不看天，只看叶背。",
    "茶汤入口先苦，停一停，才肯回甘。")

FACT = Fault(aspect=Aspect.FACTUALITY, quote="and in some places three times a day",
             advice="No place has three tides a day: most have two, a few one.")
WHY = Fault(aspect=Aspect.MISSING, quote="", advice="Say why there are two high waters a day and not one.")
NAME = Fault(aspect=Aspect.FACTUALITY, quote="These are called neap tides.", advice="They are spring tides.")
NEAP = Fault(aspect=Aspect.MISSING, quote="",
             advice="The slide also shows the small tides at the quarters of the moon.")
SAID = Fault(aspect=Aspect.REPETITION, quote="As we have said, the sea goes up and down twice a day.",
             advice="Leave it out and say what a harbour master does with the hours.")
JUMP = Fault(aspect=Aspect.COHERENCE, quote="In the Bay of Fundy", advice="Lead over from harbours to this bay.")


def lecture(judge: Judge, rng: random.Random) -> Script:
    """Eleven segments: every outcome, two rounds, one inserted and one struck out."""
    def attempt(outcome: Out, text: str | None = None, scores: tuple[float, float] | None = None, *faults: Fault,
                number: int = 0, failed: str | None = None, by: str | None = None) -> Correction:
        before, after = (judge(quality, rng) for quality in scores) if scores else (None, None)
        return Correction(round=number, outcome=outcome, faults=faults, text=text, before=before, after=after,
                          failed=failed, by=by)

    def kept(text: str, *corrections: Correction) -> ScriptSegment:
        return ScriptSegment(original=text, revised=text, corrections=corrections)

    return Script(draft="0.1", ends=True, segments=(
        kept(TITLE),
        ScriptSegment(original=OPENING, revised=OPENING_BETTER, corrections=(
            attempt(Out.ACCEPTED, OPENING_BETTER, (0.35, 0.7), FACT, WHY),)),
        kept(PULL, attempt(Out.UNCHANGED)),
        ScriptSegment(original=SPRING, revised=SPRING_BETTER, corrections=(
            attempt(Out.ACCEPTED, SPRING_ONCE, (0.3, 0.5), NAME),
            attempt(Out.ACCEPTED, SPRING_BETTER, (0.5, 0.75), NEAP, number=1))),
        kept(HARBOUR, attempt(Out.NOT_BETTER, HARBOUR_WORSE, (0.5, 0.3), SAID)),
        kept(FUNDY, attempt(Out.UNSCORED, f"Not far from here: {FUNDY}", None, JUMP).model_copy(update={
            "before": judge(0.5, rng), "after": Judgement(scorer="weighted", unscored="unparsable")})),
        kept(MILLS, attempt(Out.NO_CRITIQUE, failed="unparsable: it begins with a greeting")),
        ScriptSegment(original="", revised=TIDE_TABLE, corrections=(
            attempt(Out.GIVEN, TIDE_TABLE, by="Anna Lindqvist"),)),
        ScriptSegment(original=AGAIN, revised="", corrections=(attempt(Out.GIVEN, "", by="Wei"),)),
        kept(f"{MILLS}{MILLS}", attempt(Out.NO_REVISION, None, None, SAID, failed="cut at the token limit"),
             attempt(Out.EMPTY, "", None, SAID, number=1)),
        kept(ENDING, attempt(Out.REQUEST_REJECTED, failed="400: too long")),
    ))


def by_people() -> Script:
    """Corrected by people alone, who left one segment as it was."""
    return Script(draft=None, ends=True, segments=tuple(
        ScriptSegment(original=before, revised=after,
                      corrections=(Correction(round=0, outcome=Out.GIVEN, text=after, by="陈"),) if before != after
                      else ())
        for before, after in zip(TEA_DRAFT, TEA_BY_PEOPLE, strict=True)))


def hostile(attacks: Sequence[str]) -> Script:
    """Texts that attack the page in every field."""
    text = "\n".join(attacks)
    faults = tuple(Fault(aspect=Aspect.COHERENCE, quote=attack, advice=attack) for attack in attacks)
    return Script(draft="0.0", ends=True, segments=(
        ScriptSegment(original=text, revised=f"{text}\nAll of it is shown as it is.", corrections=(
            Correction(round=0, outcome=Out.GIVEN, text=f"{text}\nAll of it is shown as it is.", by=attacks[0]),)),
        ScriptSegment(original=text, revised=text, corrections=(
            Correction(round=0, outcome=Out.NOT_BETTER, text=text[::-1], faults=faults, failed=attacks[3]),))))


def nothing_accepted(script: Script) -> Script:
    """The same script as a corrector without luck leaves it."""
    return script.model_copy(update={"segments": tuple(
        ScriptSegment(original=segment.original, revised=segment.original, corrections=tuple(
            correction.model_copy(update={"outcome": Out.NOT_BETTER}) for correction in segment.corrections
            if correction.outcome in (Out.ACCEPTED, Out.NOT_BETTER)))
        for segment in script.segments if segment.original)})


def with_script(prompt: Prompt, script: Script, judge: Judge, rng: random.Random) -> SearchTree:
    """A tree whose answers are the draft and two others."""
    drafts = ("It is about tides.", script.original, "Tides, tides, tides.") if script.draft == "0.1" else (
        (script.original,) if script.draft else ())
    nodes = [SearchNode(id="0", parent=None, depth=0, text="", role="root")]
    nodes += [SearchNode(id=f"0.{place}", parent="0", depth=1, text=text, ends=True, tokens=90,
                         judgement=judge(quality, rng) if len(drafts) > 1 else None)
              for place, (text, quality) in enumerate(zip(drafts, (0.3, 0.7, 0.2), strict=False))]
    return SearchTree(id=prompt.id, prompt=prompt, method="iterdpo", seed=7, nodes=tuple(nodes), script=script)
