"""The package as users get it: a wheel with everything in it, importable from anywhere and from inside a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBE = ("import lpo, lpo.pair_builders, lpo.reward, lpo.trainers.loss_settings, lpo.configs, lpo.templates, "
         "lpo.evaluation, lpo.report, lpo.chat\n"
         "assert 'quickstart' in lpo.configs.recipes()\n"
         "assert lpo.chat.load_chat_template('plain')\n"
         "assert lpo.templates.load_templates().sources\n"
         "assert lpo.configs.PROMPTS_PATH.is_file()\n"
         "print(lpo.__file__)")


def run(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
                            check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder),
        str(source), cwd=folder)
    return next(folder.glob("longform_lpo-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel),
        cwd=target)
    return target


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"lpo"}, "no generic top-level name"
    expected = {f"lpo/{path.relative_to(ROOT / 'lpo')}" for path in (ROOT / "lpo").rglob("*.py")}
    for folder in ("trainers", "reward", "pair_builders", "configs"):
        expected |= {f"lpo/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    expected |= {"lpo/py.typed", "lpo/chat_templates/plain.jinja", "lpo/configs/quickstart.yaml",
                 "lpo/configs/data/prompts.jsonl", "lpo/report/report.css", "lpo/report/report.js",
                 "lpo/report/page.html.jinja", "lpo/templates/expected_grade.jinja"}
    assert expected <= names
    assert not [name for name in names if "test" in name]


def test_installed_it_imports_from_anywhere(installed, tmp_path):
    assert run("-c", PROBE, cwd=tmp_path, path=installed).startswith(str(installed))


def test_installed_it_also_imports_inside_the_checkout(installed):
    assert run("-c", PROBE, cwd=ROOT, path=installed) == str(ROOT / "lpo" / "__init__.py"), \
        "the checkout comes first and finds its sibling folders"


def test_straight_from_a_clone_it_imports_without_being_installed(tmp_path):
    assert run("-c", PROBE, cwd=tmp_path, path=ROOT) == str(ROOT / "lpo" / "__init__.py")
