"""The documentation says what the program does."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from medbench import hookspecs
from medbench.cli import app
from medbench.plugins import KINDS, Kind, load_catalogue

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
CATALOGUE = load_catalogue(third_party=False)
HOOKS = [hook for hook in vars(hookspecs) if hook.startswith("medbench_")]
ENVIRONMENT = sorted(
    set(
        re.findall(
            r"\b(?:MEDBENCH|HF)_[A-Z_]+\b", (REPOSITORY / "benchmark/medbench/commands.py").read_text()
        )
    )
)
HELP_WIDTH = "100"


def headings(page: Path) -> list[str]:
    return [line.lstrip("# ").strip() for line in outside_fences(page.read_text()) if line.startswith("#")]


def outside_fences(text: str) -> list[str]:
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            lines.append(line)
    return lines


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_heading_with_its_arguments(hook: str) -> None:
    import inspect

    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"`{hook}({arguments})`" in headings(DOCS / "plugins.md")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in CATALOGUE.specs(kind)])
def test_every_name_of_the_catalogue_has_a_heading(kind: Kind, name: str) -> None:
    page = DOCS / f"{kind}.md"
    if kind == "leaderboards":
        assert f"`{name}`" in page.read_text()
    elif kind in ("methods", "datasets"):
        assert headings(DOCS / kind / f"{name}.md")[0] == f"`{name}`"
        assert f"[`{name}`]({kind}/{name}.md)" in page.read_text()
    else:
        assert task_row(name) in page.read_text(), f"docs/tasks.md needs these rows:\n{task_rows()}"


def task_row(name: str) -> str:
    """What docs/tasks.md says of a task, made of its declaration."""
    spec = CATALOGUE.tasks[name]
    data = "your table" if spec.family else f"`{spec.dataset}`"
    return f"| `{name}` | {data}, `{spec.given['split']}` | {spec.summary} | `{spec.primary_metric}` |"


def task_rows() -> str:
    return "\n".join(map(task_row, CATALOGUE.tasks))


@pytest.mark.parametrize("name", CATALOGUE.methods)
def test_a_methods_page_shows_its_fidelity(name: str) -> None:
    text = (DOCS / "methods" / f"{name}.md").read_text()
    assert f"fidelity: **{CATALOGUE.methods[name].fidelity}**" in text


def verbs() -> list[tuple[str, list[str]]]:
    """Every verb with its long flags."""
    found = []

    def visit(command: object, path: str) -> None:
        commands = getattr(command, "commands", {})
        for name, inner in commands.items():
            visit(inner, f"{path} {name}".strip())
        if not commands or (path and command.invoke_without_command):  # type: ignore[attr-defined]
            flags = [flag for p in command.params for flag in p.opts if flag.startswith("--")]  # type: ignore[attr-defined]
            found.append((path, [flag for flag in flags if flag != "--help"]))

    visit(get_command(app), "")
    return found


@pytest.mark.parametrize(("verb", "flags"), verbs(), ids=[verb for verb, _ in verbs()])
def test_every_verb_and_flag_is_described(verb: str, flags: list[str]) -> None:
    text = (DOCS / "run.md").read_text()
    assert f"`medbench {verb}" in text
    for flag in flags:
        assert re.search(rf"`{flag}[ `]", text), flag


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_every_environment_variable_is_described(variable: str) -> None:
    assert f"`{variable}`" in (DOCS / "run.md").read_text()


def test_every_field_of_a_record_is_described() -> None:
    from medbench.records import json_schema

    text = (DOCS / "records.md").read_text()
    schema = json_schema()
    blocks = {"Record": schema, **schema["$defs"]}
    for block, content in blocks.items():
        for name in content["properties"]:
            assert f"`{name}`" in text, f"{block}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_help_in_the_pages_is_what_the_program_prints(page: Path) -> None:
    for block in fences(page.read_text(), "text"):
        first, _, rest = block.partition("\n")
        if first.startswith("$ medbench") and first.endswith(("--help", "-h")):
            done = CliRunner().invoke(app, shlex.split(first)[2:], env={"COLUMNS": HELP_WIDTH})
            assert rest.strip() == done.output.strip(), f"{page.name}: {first}"


def commands(page: Path) -> list[str]:
    """Lines of the shell blocks that call medbench."""
    lines = "".join(fences(page.read_text(), "(?:sh|bash|console)")).replace("\\\n", " ").splitlines()
    return [
        line.split("#")[0].split("&&")[-1].strip() for line in lines if re.search(r"(^|&& )medbench ", line)
    ]


@pytest.mark.parametrize(("page", "line"), [(page.name, line) for page in PAGES for line in commands(page)])
def test_commands_in_the_pages_are_ones_that_the_program_knows(page: str, line: str) -> None:
    """Verbs and flags parse, and names are in the catalogue or plainly somebody's own."""
    words = shlex.split(line)[1:]
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    if hasattr(command, "commands") and (command.name == "medbench" or not command.invoke_without_command):
        assert words in (["--help"], ["--version"], []), line
        return
    if "--config" in words or "-C" in words:  # the file is made up
        at = words.index("--config" if "--config" in words else "-C")
        del words[at : at + 2]
    if "--help" in words:
        return
    values = command.make_context("medbench", words).params
    for kind, key in (("methods", "method"), ("tasks", "task")):
        given = values.get(key) or []
        names = [n for text in ([given] if isinstance(given, str) else given) for n in text.split(",")]
        for name in names:
            known = CATALOGUE.specs("methods" if kind == "methods" else "tasks")
            family, _, file = name.partition(":table:")  # of anyone's table
            known_name = name in known or (bool(file) and f"{family}:table" in known)
            assert known_name or "*" in name or name.startswith(("my_", "example_")), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_paths_in_the_table_of_where_things_live_exist() -> None:
    for page in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", DOCS / "architecture.md"):
        for target in re.findall(
            r"`((?:benchmark|methods|tasks|leaderboards|tests|docs|benchmarks)/[\w./]*)`", page.read_text()
        ):
            assert (REPOSITORY / target).exists(), f"{page.name}: {target}"


def test_the_complete_plugin_of_the_docs_loads(tmp_path: Path) -> None:
    [source] = [
        block for block in fences((DOCS / "plugins.md").read_text(), "python") if "class MyMethod" in block
    ]
    plugin = tmp_path / "my_method.py"
    plugin.write_text(source)
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "medbench.cli",
            "info",
            "my_method",
            "--recipe",
            "tiny",
            "--plugin",
            str(plugin),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pretrain.lr" in done.stdout


def test_the_code_of_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(80 * 100, dtype=np.uint32).reshape(80, 100).astype(np.uint8)).save("film.png")
    space: dict[str, object] = {}
    for block in fences((DOCS / "python.md").read_text(), "python"):
        for line in block.splitlines():
            exec(line, space)
            shape = re.search(r"^(\S+\.shape)  # (\(.*?\))", line)
            if shape:  # what the page says of shapes is true
                assert tuple(eval(shape[1], space)) == eval(shape[2]), line


def test_the_readmes_leaderboard_is_what_the_program_makes_of_the_records() -> None:
    from medbench.results import Results

    text = (REPOSITORY / "README.md").read_text()
    shown = text.split("<!-- leaderboard: leaderboards/results -->")[1].split("<!-- end of leaderboard -->")[
        0
    ]
    results = Results.read(REPOSITORY / "leaderboards" / "results", CATALOGUE)
    assert "| place (reconstruction)" in shown
    assert shown.strip() in CATALOGUE.load("leaderboards", "markdown")(results)["leaderboard.md"].decode()


MEASURED = REPOSITORY / "benchmarks" / "results"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a file of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


def test_the_table_of_methods_is_what_the_program_makes_of_the_records(script: Any) -> None:
    tables, methods = script("tables"), script("methods")
    made = methods.table(tables.read(MEASURED / "methods", "tiny"))
    shown = tables.block(DOCS / "methods.md", methods.BLOCK)
    if not made and shown is None:
        pytest.skip("no records in benchmarks/results/methods, and no table in docs/methods.md")
    assert shown == made


@pytest.mark.parametrize("name", CATALOGUE.methods)
def test_a_methods_ablations_are_what_the_program_makes_of_the_records(script: Any, name: str) -> None:
    tables, ablations = script("tables"), script("ablations")
    declared = CATALOGUE.load("methods", name).ablations
    made = ablations.table(MEASURED / "ablations" / name, declared, "tiny")
    shown = tables.block(DOCS / "methods" / f"{name}.md", ablations.BLOCK)
    if not made and shown is None:
        pytest.skip(
            f"no records in benchmarks/results/ablations/{name}, and no table in docs/methods/{name}.md"
        )
    assert shown == made


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_every_benchmark_has_a_section_with_its_command(path: Path) -> None:
    if "__main__" not in path.read_text():  # a part that scripts share
        return
    page = DOCS / "benchmarks.md"
    assert f"`{path.name}`" in headings(page)
    assert f"python benchmarks/{path.name}" in page.read_text()


def test_the_detection_page_has_the_numbers_of_the_schedules() -> None:
    from medbench.protocols.detection import LIVE, RECIPES

    text = (DOCS / "tasks" / "detection.md").read_text()
    for column, schedules in ((3, RECIPES["tiny"].schedules), (4, LIVE["tiny"])):
        for percent, schedule in zip((1, 10, 100), schedules, strict=True):
            row = next(line for line in text.splitlines() if line.startswith(f"| {percent} % |"))
            rate, batch, epochs = row.split("|")[column].split(",")
            found = (float(rate), int(batch), int(epochs))
            assert found == (schedule.lr, schedule.batch_size, schedule.epochs)
    assert {s.patience for s in RECIPES["tiny"].schedules} == {2}
    assert "patience 2 validations" in text


def test_the_classification_page_has_the_numbers_of_the_probes() -> None:
    from medbench.protocols.linear_probe import LinearProbeConfig
    from medbench.protocols.linear_probe_mgca import JITTER, RECIPES
    from medbench.protocols.nearest_neighbours import NearestNeighboursConfig

    text = (DOCS / "tasks" / "classification.md").read_text()
    penalties = LinearProbeConfig().penalties
    assert len(penalties) == 11 and penalties[0] == 1e-6 and penalties[-1] == 1e4
    assert "penalty 1e-6, 1e-5, ... 1e4 (eleven)" in text
    knn = NearestNeighboursConfig()
    assert f"k = {', '.join(map(str, knn.neighbours))} (" in text
    assert f"/ {knn.temperature})" in text
    (paper,) = RECIPES["paper"].schedules
    assert (paper.lr, RECIPES["paper"].weight_decay) == (5e-4, 1e-6)
    assert f"rate 5e-4, weight decay 1e-6, batch {paper.batch_size}, constant rate" in text
    assert f"at most {paper.epochs}, stop after {paper.patience} without" in text
    tiny = RECIPES["tiny"].schedules
    first, *others = ((schedule.epochs, schedule.patience) for schedule in tiny)
    assert {schedule.lr for schedule in tiny} == {5e-3} and "| rate 5e-3 |" in text
    rest = ", ".join(f"{epochs} ({patience})" for epochs, patience in others)
    assert f"| {first[0]} (stop after {first[1]}), {rest} at 1, 10, 100 % |" in text
    low, high = JITTER.brightness
    assert JITTER.contrast == (low, high)
    assert f"times {low} to {high} (p {JITTER.light_probability})" in text
    assert f"blur {JITTER.blur[0]} to {JITTER.blur[1]:g} px (p {JITTER.blur_probability})" in text
    assert f"mirrored (p {JITTER.flip})" in text


def test_the_page_of_protocols_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    made = importlib.import_module("protocols").page(CATALOGUE)
    assert (DOCS / "protocols.md").read_text() == made, "write it anew: python docs/protocols.py"
    for task in CATALOGUE.tasks:
        assert f"`{task}`" in made


# The site.


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert sorted(re.findall(r"[\w/]+\.md", menu)) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )


def test_what_the_site_makes_of_links_and_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    hooks = importlib.import_module("site_hooks")
    text = "[a](../CONTRIBUTING.md#b) [c](../tests) [d](tasks.md) [e](../nowhere.md) [f](https://g.org/../h)"
    kept = "[d](tasks.md) [e](../nowhere.md) [f](https://g.org/../h)"
    assert hooks.links(text, "", None) == f"a c {kept}"
    at = "https://github.com/x/medbench"
    assert hooks.links("[a](../CONTRIBUTING.md#b)", "", at) == f"[a]({at}/blob/main/CONTRIBUTING.md#b)"
    assert hooks.links("[c](../tests)", "", at) == f"[c]({at}/blob/main/tests)"
    assert hooks.links("[c](../../tests)", "methods", at) == f"[c]({at}/blob/main/tests)"
    assert hooks.links("[c](../tasks.md)", "methods", at) == "[c](../tasks.md)"
    page = "| `medbench.specs` | all | |\n| `medbench.plugins` | `load_catalogue`, `Catalogue` | |\n"
    assert re.findall("^::: (.*)$", hooks.reference(page), flags=re.MULTILINE) == [
        "medbench.specs", "medbench.plugins.Catalogue", "medbench.plugins.load_catalogue",
    ]  # fmt: skip
