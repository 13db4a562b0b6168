"""What docs/api.md promises is what the code has, and what the docs use is promised."""

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import medbench

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "api.md"
TEMPLATES = Path(medbench.__file__).parent / "templates"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    return importlib.import_module("surface")


def test_the_public_surface_is_as_announced(script: ModuleType) -> None:
    announced, found = script.Surface.read(script.SNAPSHOT.read_text()), script.surface(PAGE.read_text())
    change = script.Change.between(announced, found)
    assert not change, (
        f"The public surface has changed:\n{change}\n"
        "If it is meant, announce it: a line in CHANGELOG.md, API_VERSION in benchmark/medbench/__init__.py raised if "
        "something that worked before no longer does, and `python docs/surface.py --write`. docs/api.md has the rules."
    )
    assert announced.version == found.version == medbench.API_VERSION
    assert f"`medbench.API_VERSION`, now {medbench.API_VERSION}." in PAGE.read_text()


def read(script: ModuleType, source: str, version: int = 1) -> Any:
    return script.Surface(version, dict(script.declared(ast.parse(source), "m")))


BEFORE = """
from dataclasses import dataclass

KINDS = Literal["a", "b"]
NUMBER = 3
_hidden = 1

@dataclass
class Thing:
    field: int = 1
    _own: int = 2
    def __init__(self, x): ...
    def does(self, x: int, *, y: str = "z") -> bool: ...
    def _helps(self): ...

@deprecated("use Thing")
def old(): ...

def kept(): ...
"""


def test_a_surface_is_every_public_declaration_with_its_signature(script: ModuleType) -> None:
    assert (
        str(read(script, BEFORE))
        == """API 1
m.KINDS = Literal['a', 'b']
m.NUMBER
m.Thing()  @dataclass
m.Thing.field: int = 1
m.Thing.__init__(self, x)
m.Thing.does(self, x: int, *, y: str='z') -> bool
m.old()  @deprecated('use Thing')
m.kept()
"""
    )
    assert script.Surface.read(str(read(script, BEFORE))) == read(script, BEFORE)


@pytest.mark.parametrize(
    ("now", "change", "why_not"),
    [
        (BEFORE.replace("NUMBER = 3", "NUMBER = 4"), "", ""),
        (BEFORE + "def new(): ...", "+ m.new()", ""),
        (BEFORE.replace("int = 1", "int = 2"), "- m.Thing.field: int = 1\n+ m.Thing.field: int = 2", ""),
        (
            BEFORE.replace("def old", "def renamed"),
            "- m.old()  @deprecated('use Thing')",
            "has to be more than 1",
        ),
        (
            BEFORE.replace("def kept", "def renamed"),
            "- m.kept()",
            "go without a warning:\nm.kept()\nKeep them, marked",
        ),
    ],
)
def test_what_goes_has_been_marked_before(script: ModuleType, now: str, change: str, why_not: str) -> None:
    before, after = read(script, BEFORE), read(script, now)
    assert change in str(script.Change.between(before, after))
    assert bool(script.Change.between(before, after)) == bool(change)
    found = script.refusal(before, after)
    assert why_not in found and bool(found) == bool(why_not)
    if "marked" not in why_not:
        assert not script.refusal(before, read(script, now, version=2))


def test_nothing_is_announced_that_is_refused(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announced = script.SNAPSHOT.read_text()
    monkeypatch.setattr(script, "SNAPSHOT", tmp_path / "api.txt")
    script.SNAPSHOT.write_text(f"{announced}medbench.gone()\n")
    assert script.main(write=True) == 1
    assert "medbench.gone()" in script.SNAPSHOT.read_text() and "medbench.gone()" in capsys.readouterr().err
    script.SNAPSHOT.write_text(announced.split("\n", 3)[0] + "\n")
    assert script.main(write=True) == 0
    assert script.SNAPSHOT.read_text() == announced


def test_a_page_that_promises_what_is_not_there_is_an_error(script: ModuleType) -> None:
    for row in ("| `medbench.specs` | `Spec`, `Nothing` | |", "| `medbench.nowhere` | all | |"):
        with pytest.raises(LookupError, match=r"Nothing of medbench\.specs|module medbench\.nowhere"):
            script.surface(row)


def sources() -> dict[str, str]:
    """Code that is shown to plugin authors, by where it is."""
    shown = [*(REPOSITORY / "tests" / "plugin_example").rglob("*.py"), *TEMPLATES.rglob("*.py.template")]
    found = {path.name + " of " + path.parent.name: path.read_text() for path in shown}
    for page in (REPOSITORY / "docs").rglob("*.md"):
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)):
            found[f"{page.name}, block {number}"] = block
    return {name: re.sub(r"\$\{?\w+\}?", "filled_in", text) for name, text in found.items()}


@pytest.mark.parametrize(("where", "source"), sources().items(), ids=sources())
def test_what_authors_are_shown_is_promised(script: ModuleType, where: str, source: str) -> None:
    promised = script.promised(PAGE.read_text())
    ours = {module.split(".")[0] for module in promised}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ours:
            assert node.module in promised, f"{where} imports from {node.module}"
            names = promised[node.module]
            assert names is None or {alias.name for alias in node.names} <= names, f"{where}: {node.module}"
