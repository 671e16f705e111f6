"""Length asked against length written, and what suites draw over something else, all models in one chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lpo.report.charts import plain
from lpo.report.data import Interval
from lpo.report.entries import beginning
from lpo.report.scores import Figure
from lpo.report.suites_charts import MOST_POINTS, Cloud, CurvePoint, CurveSeries, curve_chart, number, scatter_chart
from lpo.report.suites_data import CurveData, Measured, SuiteData, model_class

AXIS_NAME = 50
"""Characters of an axis' name that fit beside it."""


def curve_figures(suite: SuiteData) -> tuple[Figure, ...]:
    """A chart for each curve of the suite, its models together."""
    by_key: dict[str, dict[str, CurveData]] = {}
    for model, curves in suite.curves.items():
        for curve in curves:
            by_key.setdefault(curve.key, {})[model] = curve
    figures = [_curves(f"curve-{suite.suite}-{place}", of_models)
               for place, of_models in enumerate(by_key.values())]
    return tuple(figure for figure in figures if figure is not None)


def curve_series(name: str, css: str, curve: CurveData) -> CurveSeries:
    """A stored curve, ready to be drawn; points without a value are left out."""
    return CurveSeries(name, css, tuple(CurvePoint(point.x, point.y.mean, point.y.low, point.y.high)
                                        for point in curve.points if point.y.mean is not None))


def _curves(key: str, of_models: Mapping[str, CurveData]) -> Figure | None:
    known = next(iter(of_models.values()))
    series = [curve_series(model, model_class(model), curve) for model, curve in of_models.items()]
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    table = curve_table(of_models)
    described = "; ".join(f"{one.name}: {plain(one.points[0].y)} at {plain(one.points[0].x)}, "
                          f"{plain(one.points[-1].y)} at {plain(one.points[-1].x)}" for one in drawn)
    banded = any(point.low is not None for one in drawn for point in one.points)
    captions = [f"{known.y}, over {known.x}"]
    captions += ["the bands are 95 % intervals"] if banded else []
    captions += ["the thin line: as long as asked"] if known.diagonal else []
    chart = curve_chart(key, known.title, described, drawn, x=beginning(known.x, AXIS_NAME),
                        y=beginning(known.y, AXIS_NAME), diagonal=known.diagonal)
    return Figure(known.title, "; ".join(captions), chart, (known.x, *of_models, "n"), table)


def curve_table(of_models: Mapping[str, CurveData]) -> tuple[tuple[str, ...], ...]:
    """The numbers of a chart: x, a value with its interval for each model, and n."""
    places = sorted({point.x for curve in of_models.values() for point in curve.points})
    by_place = [{point.x: point.y for point in curve.points} for curve in of_models.values()]
    return tuple((number(x), *(_value(of_model.get(x)) for of_model in by_place),
                  " / ".join(str(of_model[x].n) if x in of_model else "0" for of_model in by_place)) for x in places)


def _value(interval: Interval | None) -> str:
    if interval is None or interval.mean is None:
        return "–"
    ends = "" if interval.low is None or interval.high is None else (
        f" [{plain(round(interval.low, 4))}, {plain(round(interval.high, 4))}]")
    return number(round(interval.mean, 4)) + ends


def scatter_figure(suite: SuiteData, measured: Measured) -> Figure | None:
    """Length asked against length written, a point for each answer; None where no prompt asks for a length."""
    clouds = length_clouds({model: (model_class(model), [(row.answer.target_words, row.answer.words)
                                                  for row in rows if row.answer.finish != "refused"])
                            for model, rows in measured.items()})
    if not clouds:
        return None
    return lengths_figure(f"lengths-{suite.suite}", clouds)


def length_clouds(answers: Mapping[str, tuple[str, Sequence[tuple[int | None, int]]]]) -> tuple[Cloud, ...]:
    """Points of a scatter from `name -> (class, (words asked, words written) of each answer)`; answers to prompts that
    ask for no length have none.
    """
    clouds = [Cloud(name, css, tuple((float(asked), float(written)) for asked, written in pairs if asked))
              for name, (css, pairs) in answers.items()]
    return tuple(cloud for cloud in clouds if cloud.points)


def lengths_figure(key: str, clouds: Sequence[Cloud]) -> Figure:
    """The scatter of length asked against length written, with how many answers of each come within a fifth of it."""
    near = {cloud.name: sum(0.8 * asked <= written <= 1.2 * asked for asked, written in cloud.points)
            for cloud in clouds}
    table = tuple((cloud.name, str(len(cloud.points)), str(near[cloud.name]),
                   str(sum(written < asked for asked, written in cloud.points)),
                   str(sum(written > asked for asked, written in cloud.points))) for cloud in clouds)
    described = "; ".join(f"{name}: {answers} answers, {close} within a fifth of the length asked, {under} shorter, "
                          f"{over} longer than asked" for name, answers, close, under, over in table)
    captions = ["a point for each answer; on the thin line it is as long as asked"]
    if max(len(cloud.points) for cloud in clouds) > MOST_POINTS:
        captions.append(f"about {MOST_POINTS} of each model are drawn")
    return Figure("Length asked and length written", "; ".join(captions), scatter_chart(
        key, "Length asked and length written", described, clouds, x="words asked", y="words written"),
        ("model", "answers", "within a fifth", "shorter", "longer"), table)

