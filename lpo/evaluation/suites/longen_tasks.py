"""LonGen's make-up with tasks of our own: 2 languages x 3 ranges x 4 kinds x 10 tasks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from lpo.evaluation.suites.longen_window import Kind

RANGES = {"2-4k": (2000, 4000), "4-6k": (4000, 6000), "6-8k": (6000, 8000)}
"""The published ranges: name -> first and last length that is asked for."""

FORMS = {
    "en": (
        "Write a story set around {subject}. Follow three people from different generations.",
        "Write the script of a radio play about {subject}, with stage directions for sounds.",
        "Write a magazine feature about {subject}, with scenes, portraits and quotations.",
        "Write the memoir of somebody who spent forty years at {subject}.",
        "Write a handbook for newcomers who will work at {subject} from next week on.",
        "Write a proposal to the town council for saving {subject}, with costs, risks and a timetable.",
        "Write a series of letters between two friends, one of whom has moved to {subject}.",
        "Write a guided tour for visitors of {subject}, stop by stop.",
        "Write an essay on what {subject} can teach us about patience.",
        "Write a course of lessons for fourteen-year-olds that takes {subject} as its example throughout.",
    ),
    "zh": (
        "请以{subject}为背景写一篇小说，讲述三代人的故事。",
        "请写一部关于{subject}的广播剧剧本，并注明音效。",
        "请写一篇关于{subject}的特写报道，要有场景、人物和引语。",
        "请以在{subject}度过四十年的人的口吻写一篇回忆录。",
        "请为下周起到{subject}工作的新人写一份工作手册。",
        "请写一份提交给镇政府的方案，说明如何保护{subject}，包括费用、风险和进度安排。",
        "请写一组两位朋友之间的书信，其中一位搬到了{subject}。",
        "请为参观{subject}的游客写一份逐站讲解词。",
        "请写一篇随笔，谈谈{subject}教给我们的耐心。",
        "请以{subject}为贯穿始终的例子，为十四岁的学生设计一套课程。",
    ),
}
SUBJECTS = {
    "en": (
        "a lighthouse that still has a keeper", "the night market of a port town", "a railway high in the mountains",
        "a bakery in its fourth generation", "a ferry between two small islands", "a library in an old mill",
        "an observatory in the desert", "a travelling theatre", "a village that lives from its bees",
        "a workshop that repairs clocks", "a botanical garden in winter", "a school on a river boat",
    ),
    "zh": (
        "一座仍有人看守的灯塔", "海港小城的夜市", "高山上的一条铁路", "一家传了四代的糕点铺",
        "两座小岛之间的渡船", "旧磨坊里的图书馆", "沙漠中的天文台", "一个巡回演出的戏班", "一个以养蜂为生的村庄",
        "一间修理钟表的作坊", "冬天的植物园", "一所办在河船上的学校",
    ),
}
DEMANDS = {
    "en": {Kind.ABOUT: "about {low} words", Kind.RANGE: "{low}-{high} words", Kind.ABOVE: "more than {low} words",
           Kind.BELOW: "less than {low} words"},
    "zh": {Kind.ABOUT: "大约{low}字", Kind.RANGE: "{low}字至{high}字", Kind.ABOVE: "大于{low}字",
           Kind.BELOW: "小于{low}字"},
}
ASKING = {"en": " The text must have {demand}.", "zh": "全文字数要求：{demand}。"}


@dataclass(frozen=True)
class LonGenTask:
    """A row of LonGen; the fields have the names of its columns, but for `kind`, which is its `type`.

    Args:
        id: Its own name.
        language: Of query and answer.
        range: The range of lengths it belongs to; None where the file does not say.
        kind: How the length is asked for.
        numbers: The length or lengths asked for.
        query: The writing task, the length in it.
    """

    id: str
    language: Literal["en", "zh"]
    range: str | None
    kind: Kind
    numbers: tuple[float, ...]
    query: str


def builtin_tasks() -> tuple[LonGenTask, ...]:
    """The 240 tasks, always the same ones.

    Each of the twelve cells of a language (range x kind) has every form once and ten different subjects; no form
    meets a subject twice in a language, so no two tasks differ in their length alone.
    """
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    tasks: list[LonGenTask] = []
    for language in languages:
        for cell, (name, kind) in enumerate(product(RANGES, Kind)):
            for index, form in enumerate(FORMS[language]):
                subject = SUBJECTS[language][(cell + index) % len(SUBJECTS[language])]
                numbers = _numbers(RANGES[name], kind, index)
                demand = DEMANDS[language][kind].format(low=numbers[0], high=numbers[-1])
                tasks.append(LonGenTask(
                    f"longen-{language}-{name}-{kind.value}-{index + 1}", language, name, kind,
                    tuple(float(number) for number in numbers),
                    form.format(subject=subject) + ASKING[language].format(demand=demand)))
    return tuple(tasks)


def _numbers(bounds: tuple[int, int], kind: Kind, index: int) -> tuple[int, ...]:
    """Lengths of the ten tasks of a cell, spread over its range in steps of 500."""
    low, high = bounds
    step = 500 * (index % 4)
    match kind:
        case Kind.ABOUT | Kind.ABOVE:
            return (low + step,)
        case Kind.BELOW:
            return (low + 500 + step,)
        case Kind.RANGE:
            first = low + 500 * (index % 3)
            return first, min(first + 500 * (2 + index % 2), high)
