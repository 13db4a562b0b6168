"""Rules that hold for the whole tree: who may import whom, and what only one place may do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = {
    "medbench": REPOSITORY / "benchmark" / "medbench",
    "medbench_methods": REPOSITORY / "methods" / "medbench_methods",
    "medbench_tasks": REPOSITORY / "tasks" / "medbench_tasks",
    "medbench_leaderboards": REPOSITORY / "leaderboards" / "medbench_leaderboards",
}
FILES = [path for room in ROOMS.values() for path in sorted(room.rglob("*.py"))]

LIGHT = (
    "medbench.cli", "medbench.commands", "medbench.data_commands", "medbench.feature_commands",
    "medbench.options", "medbench.plugins", "medbench.hookspecs", "medbench.specs",
    "medbench.conformance.kit", "medbench.errors", "medbench.executors", "medbench.request", "medbench.describe",
    "medbench.progress",
    "medbench_methods", "medbench_tasks", "medbench_leaderboards",
)  # fmt: skip


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno} imports relatively; write the package out"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=name)
def test_rooms_import_the_core_and_never_one_another(path: Path) -> None:
    room = next(room for room, folder in ROOMS.items() if path.is_relative_to(folder))
    ours = {module.split(".")[0] for module in imported(path)} & set(ROOMS)
    assert ours <= {room, "medbench"}


def test_every_room_holds_files() -> None:
    for room, folder in ROOMS.items():
        assert (folder / "__init__.py").is_file(), room
        assert (folder / "py.typed").is_file(), room
        for subfolder in (path for path in folder.rglob("*") if path.is_dir() and any(path.glob("*.py"))):
            assert (subfolder / "__init__.py").is_file(), f"{name(subfolder)} is no package"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_command_line_reads_the_environment(path: Path) -> None:
    if path.parent == ROOMS["medbench"] and path.name in ("cli.py", "commands.py"):
        return
    if path.parent == ROOMS["medbench"] / "executors":  # which pass it on to the processes that they start
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv", "putenv", "environb"), f"{name(path)}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {alias.name for alias in node.names} & {"environ", "getenv"}, (
                f"{name(path)}:{node.lineno}"
            )


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_command_line_and_progress_print(path: Path) -> None:
    if path.parent == ROOMS["medbench"] and path.name in ("cli.py", "progress.py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input"), f"{name(path)}:{node.lineno}"


def test_what_the_command_line_starts_with_is_light() -> None:
    code = (
        f"import sys\nfor module in {LIGHT}:\n    __import__(module)\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pydantic', 'pytorch_lightning', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_a_method_or_a_task_needs_no_detection_library() -> None:
    code = (
        "import sys\n"
        "import medbench_methods.clip, medbench_tasks.classification\n"
        "heavy = {'cv2', 'mmdet', 'mmcv', 'mmengine'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_called_utils() -> None:
    assert not [name(path) for path in FILES if path.stem in ("utils", "helpers", "misc", "common")]
