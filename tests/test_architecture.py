"""The house rules that a machine can check: imports point down, and a light start stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "records": 0, "config": 0, "errors": 0, "storage": 0, "chat": 0, "words": 0, "configs": 0,
    "build_config": 0, "config_base": 0, "reward_config": 0, "writing_config": 0, "segment_pairs": 0, "intervals": 0,
    "eval_config": 0,
    "llm": 1, "packing": 1, "templates": 1, "prompts": 1, "retrieval": 1,
    "segmentation": 1, "given_answers": 1,
    "reward": 2, "kernels": 2,
    "pair_builders": 3, "trainers": 3, "evaluation": 3, "report": 3, "annotate": 3,
    "run": 4,
    "cli": 5,
    "__main__": 6,
}
FOLDERS = {"lpo": None, "reward": "reward", "pair_builders": "pair_builders", "trainers": "trainers",
           "configs": "configs"}


def room_of(path: Path) -> str:
    """The room a file belongs to: `lpo/llm/base.py` -> llm, `reward/length.py` -> reward, `lpo/chat.py` -> chat."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return FOLDERS[parts[0]] or (parts[1] if len(parts) > 1 else "lpo")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" if node.module == "lpo" else str(node.module)
                     for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("lpo.")}
    return rooms


def source_files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_imports_only_point_down():
    wrong = []
    for path in source_files():
        room = room_of(path)
        if path == ROOT / "lpo" / "__init__.py":
            continue
        for target in imported_rooms(path) - {room, "__version__"}:
            if target not in FLOORS or FLOORS[target] > FLOORS[room] or (FLOORS[target] == FLOORS[room] != 0):
                wrong.append(f"{path.relative_to(ROOT)} (floor {FLOORS[room]}) imports lpo.{target}")
    assert not wrong, "\n".join(wrong)


def test_every_room_stands_on_a_floor():
    assert {room_of(path) for path in source_files() if path.name != "__init__.py" or room_of(path) != "__init__"} \
        - {"__init__"} <= set(FLOORS)


def test_no_folder_is_imported_by_its_own_name():
    for path in [*source_files(), *sorted((ROOT / "examples").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert module is None or module.split(".")[0] not in set(FOLDERS) - {"lpo"}, f"{path}: {module}"


@pytest.mark.parametrize("arguments", [
    ["-c", "import lpo"],
    ["-m", "lpo", "--help"],
    ["-m", "lpo", "recipes"],
])
def test_a_light_start_loads_no_torch(arguments):
    probe = ("import atexit, runpy, sys\n"
             "atexit.register(lambda: print('LOADED' if 'torch' in sys.modules else 'LIGHT'))\n"
             f"arguments = {arguments!r}\n"
             "sys.argv = ['lpo', *arguments[2:]]\n"
             "exec(arguments[1]) if arguments[0] == '-c' else runpy.run_module(arguments[1], run_name='__main__')\n")
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "LIGHT" in result.stdout and "LOADED" not in result.stdout
