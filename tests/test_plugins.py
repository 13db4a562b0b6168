import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medbench.errors import PluginError, UsageError
from medbench.plugins import Catalogue, load_catalogue

HEAD = """
from medbench.hookspecs import hookimpl
from medbench.specs import DatasetSpec, LeaderboardSpec, MethodSpec, TaskSpec
"""

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one plugin module on the path, metadata and all, as pip would."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def write(name: str, source: str, *, point: str | None = None, version: str = "1.0") -> str:
        (site / f"{name}.py").write_text(HEAD + source)
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[medbench]\n{point or name} = {name}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def method(name: str, target: str = "nowhere:Nothing") -> str:
    return f'MethodSpec("{name}", "{target}", "summary", "reference")'


def declaring(*names: str) -> str:
    return f"\n@hookimpl\ndef medbench_methods():\n    return [{', '.join(map(method, names))}]\n"


def told(catalogue: Catalogue, plugin: str) -> list[str]:
    """What is reported about a plugin. The built-ins must never be harmed by another one."""
    assert not [p for p in catalogue.problems if p.owner.name == "medbench"]
    return [p.what for p in catalogue.problems if p.plugin == plugin]


def test_the_built_ins_come_in_by_the_same_door() -> None:
    catalogue = load_catalogue()
    assert {"random", "clip", "place"} <= set(catalogue.methods)
    assert {"rsna_det", "rsna_lp"} <= set(catalogue.tasks)
    assert {"mimic_cxr", "rsna", "table"} <= set(catalogue.datasets)
    assert {"markdown", "csv"} <= set(catalogue.leaderboards)
    assert [p.name for p in catalogue.plugins if p.owner.name == "medbench"] == [
        "leaderboards",
        "methods",
        "tasks",
    ]
    assert not catalogue.problems
    assert list(catalogue.methods) == sorted(catalogue.methods)


def test_a_plugin_is_found_through_its_entry_point(install: Install) -> None:
    install("good_plugin", declaring("mine"), version="2.3")
    catalogue = load_catalogue()
    assert catalogue.lookup_method("mine").target == "nowhere:Nothing"
    assert str(catalogue.owner("methods", "mine")) == "good_plugin 2.3"
    assert {p.name: p.hooks for p in catalogue.plugins}["good_plugin"] == ("medbench_methods",)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise RuntimeError('planted')", "can not be imported (RuntimeError: planted)"),
        ("import no_such_module_at_all", "can not be imported (ModuleNotFoundError: No module named"),
        ("import sys; sys.exit(0)", "can not be imported (SystemExit: 0)"),
        ("def broken(:", "can not be imported (SyntaxError:"),
        (
            "@hookimpl\ndef medbench_methds(): return []",
            "there is no hook medbench_methds; did you mean medbench_methods?",
        ),
        ("@hookimpl\ndef something_else(): return []", "there is no hook something_else"),
        ("@hookimpl\ndef medbench_methods(wrong): return []", "Argument(s) {'wrong'} are declared"),
        ("def medbench_methods(): return []", "answers no hook; are its functions marked with @hookimpl?"),
    ],
)
def test_a_plugin_that_can_not_be_used_costs_only_itself(
    install: Install, source: str, expected: str
) -> None:
    install("bad_plugin", source)
    install("good_plugin", declaring("mine"))
    catalogue = load_catalogue()
    [what] = told(catalogue, "bad_plugin")
    assert expected in what
    assert "mine" in catalogue.methods and "place" in catalogue.methods


def test_the_traceback_of_a_broken_plugin_is_kept(install: Install) -> None:
    install("bad_plugin", "raise RuntimeError('planted')")
    [problem] = load_catalogue().problems
    assert 'bad_plugin.py", line' in problem.traceback and problem.traceback.endswith(
        "RuntimeError: planted\n"
    )
    assert str(problem).startswith("plugin bad_plugin (bad_plugin 1.0): ")


def test_a_misspelt_hook_takes_the_other_hooks_of_its_plugin_along(install: Install) -> None:
    install("bad_plugin", declaring("mine") + "\n@hookimpl\ndef medbench_taks(): return []")
    catalogue = load_catalogue()
    assert "mine" not in catalogue.methods
    assert "bad_plugin" not in [p.name for p in catalogue.plugins]


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (
            "def medbench_tasks(): raise RuntimeError('planted')",
            "medbench_tasks failed (RuntimeError: planted)",
        ),
        ("def medbench_tasks(): return 3", "medbench_tasks failed (TypeError: 'int' object is not iterable)"),
        ("def medbench_tasks(): return ['name']", "medbench_tasks gave 'name', expected a TaskSpec"),
        (f"def medbench_tasks(): return [{method('x')}]", "expected a TaskSpec"),
        (
            "def medbench_tasks(): return [TaskSpec('Bad Name', 'a:B', '', '')]",
            "medbench_tasks gave the name 'Bad Name', expected lower case",
        ),
        (
            "def medbench_tasks(): return [TaskSpec('name', 'a.B', '', '')]",
            "medbench_tasks gave the target 'a.B' for 'name', expected 'package.module:attribute'",
        ),
        (
            "def medbench_tasks(): return [TaskSpec('lp:table', 'a:B', '', '', dataset='rsna')]",
            "medbench_tasks gave the task 'lp:table' on the dataset 'rsna'; a task on anyone's table has",
        ),
        (
            "def medbench_tasks(): return [TaskSpec('lp', 'a:B', '', '', dataset='table')]",
            "medbench_tasks gave the task 'lp' on the dataset 'table'",
        ),
        (
            "def medbench_datasets(): return [DatasetSpec('mine:table', 'a:B', '', '')]",
            "medbench_datasets gave the name 'mine:table', which only a task on anyone's table may have",
        ),
    ],
)
def test_a_hook_that_fails_costs_only_itself(install: Install, hook: str, expected: str) -> None:
    install("half_plugin", declaring("mine") + "\n@hookimpl\n" + hook)
    catalogue = load_catalogue()
    [what] = told(catalogue, "half_plugin")
    assert expected in what
    assert "mine" in catalogue.methods and "rsna_det" in catalogue.tasks


def test_a_wrong_spec_costs_the_right_ones_beside_it_nothing(install: Install) -> None:
    install("half_plugin", f"\n@hookimpl\ndef medbench_methods():\n    return [{method('mine')}, 'wrong']\n")
    assert "mine" in load_catalogue().methods


def test_a_hook_may_yield_nothing(install: Install) -> None:
    install("empty_plugin", "\n@hookimpl\ndef medbench_methods():\n    return None\n")
    assert not load_catalogue().problems


def test_a_name_declared_twice_costs_only_that_name(install: Install) -> None:
    install("plugin_one", declaring("twin", "one"))
    install("plugin_two", declaring("twin", "two", "place"), version="7")
    catalogue = load_catalogue()
    assert {"one", "two", "clip"} <= set(catalogue.methods)
    assert not {"twin", "place"} & set(catalogue.methods)
    with pytest.raises(PluginError, match=r"'twin' is declared by plugin_one 1\.0 and plugin_two 7,"):
        catalogue.lookup_method("twin")
    with pytest.raises(
        PluginError, match=r"'place' is declared by medbench \S+ and plugin_two 7, .* --no-plugins"
    ):
        catalogue.expand("methods", ["place"])
    runnable = {name for name, spec in catalogue.methods.items() if not spec.released_only}
    assert set(catalogue.expand("methods", ["*"])) == runnable
    assert len(catalogue.problems) == 2
    assert "place" in load_catalogue(third_party=False).methods


def test_a_name_of_another_kind_is_another_name(install: Install) -> None:
    install("plugin_one", declaring("rsna_det"))
    catalogue = load_catalogue()
    assert "rsna_det" in catalogue.methods and "rsna_det" in catalogue.tasks


def test_two_distributions_may_call_their_entry_points_alike(install: Install) -> None:
    install("plugin_one", declaring("one"), point="same")
    install("plugin_two", declaring("two"), point="same")
    catalogue = load_catalogue()
    assert {"one", "two"} <= set(catalogue.methods)
    assert not catalogue.problems


def test_a_target_that_does_not_exist_is_met_when_it_is_used(install: Install) -> None:
    install(
        "vague_plugin",
        f"\n@hookimpl\ndef medbench_methods():\n    return [{method('gone', 'no_such_module:X')}, "
        f"{method('empty', 'medbench.errors:NoSuchThing')}, {method('deep', 'vague_target:X')}]\n",
    )
    install("vague_target", "import a_package_that_is_an_extra")
    catalogue = load_catalogue()
    for name, reason in [
        ("gone", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("empty", "AttributeError: module 'medbench.errors' has no attribute 'NoSuchThing'"),
        ("deep", "No module named 'a_package_that_is_an_extra'"),
    ]:
        with pytest.raises(PluginError, match=rf"method {name} of vague_plugin 1\.0: its target .*{reason}"):
            catalogue.load("methods", name)


def test_every_built_in_target_exists() -> None:
    catalogue = load_catalogue(third_party=False)
    for kind in ("methods", "tasks", "datasets", "leaderboards"):
        for name in catalogue.specs(kind):
            assert callable(catalogue.load(kind, name))
    for task in catalogue.tasks.values():
        assert task.dataset in catalogue.datasets


# Plugins that are not installed.


def test_a_file_is_loaded_without_installing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "loose_method.py"
    file.write_text(
        HEAD
        + f"class Mine: pass\n@hookimpl\ndef medbench_methods(): yield {method('loose', 'loose_method:Mine')}"
    )
    monkeypatch.delitem(sys.modules, "loose_method", raising=False)
    catalogue = load_catalogue([str(file)])
    assert catalogue.load("methods", "loose").__name__ == "Mine"
    assert str(catalogue.owner("methods", "loose")) == str(file)
    again = load_catalogue([str(file), str(file)])
    assert "loose" in again.methods and not again.problems
    monkeypatch.delitem(sys.modules, "loose_method")


def test_a_module_is_loaded_by_its_name(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    name = install("by_name", declaring("named"))
    catalogue = load_catalogue([name], third_party=False)
    assert "named" in catalogue.methods
    # Installed and named as well: once, not a duplicate of itself.
    catalogue = load_catalogue([name])
    assert "named" in catalogue.methods and not catalogue.problems


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("no/such/file.py", "FileNotFoundError: no file "),
        ("no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("random.py", "the name random is taken by "),
        ("not-a-name.py", ""),
    ],
)
def test_what_the_user_names_and_is_not_there_is_marked_as_asked_for(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("random.py", "not-a-name.py"):
        (tmp_path / name).write_text("x = 1")
    [problem] = load_catalogue([given], third_party=False).problems
    assert problem.asked
    assert expected in problem.what


def test_built_ins_only(install: Install) -> None:
    install("good_plugin", declaring("mine"))
    install("bad_plugin", "raise RuntimeError('planted')")
    catalogue = load_catalogue(third_party=False)
    assert "mine" not in catalogue.methods
    assert not catalogue.problems


# Looking up.


def test_an_unknown_name_gets_the_nearest_and_the_list() -> None:
    catalogue = load_catalogue(third_party=False)
    with pytest.raises(
        UsageError, match=r"Unknown method 'plaec'\. Did you mean 'place'\? Known methods: .*clip.*random"
    ):
        catalogue.lookup_method("plaec")
    with pytest.raises(UsageError, match=r"^Unknown task 'qqqqqq'\. Known tasks: "):
        catalogue.lookup_task("qqqqqq")
    with pytest.raises(UsageError, match="Unknown dataset"):
        catalogue.lookup_dataset("rnsa")
    with pytest.raises(UsageError, match="Unknown leaderboard"):
        catalogue.lookup_leaderboard("html5")


def test_a_family_is_named_with_a_file() -> None:
    catalogue = load_catalogue(third_party=False)
    spec = catalogue.lookup_task("lp:table:films/mine.csv")
    assert (spec.name, spec.dataset) == ("lp:table:mine.csv", "table:films/mine.csv")
    assert str(catalogue.owner("tasks", spec.name)).startswith("medbench")
    assert catalogue.expand("tasks", ["lp:table:films/[1]*.csv"]) == ("lp:table:films/[1]*.csv",)
    assert not [name for name in catalogue.expand("tasks", ["*"]) if "table" in name]
    with pytest.raises(UsageError, match=r"which one\? Give it as --task lp:table:FILE"):
        catalogue.lookup_task("lp:table")


def test_globs_stand_for_their_matches_in_order_and_once() -> None:
    catalogue = load_catalogue(third_party=False)
    tasks = catalogue.expand("tasks", ["rsna_lp", "rsna_*"])
    assert tasks[0] == "rsna_lp"
    assert set(tasks) == {name for name in catalogue.tasks if name.startswith("rsna_")}
    assert catalogue.expand("tasks", []) == ()
    with pytest.raises(UsageError, match=r"No tasks match 'chest\*'\. Known tasks: "):
        catalogue.expand("tasks", ["chest*"])


# Hooks of a run.

OBSERVER = """
seen = []

@hookimpl
def medbench_run_started(request, workdir):
    seen.append((request, workdir))

@hookimpl
def medbench_run_finished(record):
    seen.append(record)

@hookimpl
def medbench_find_checkpoint(method, name):
    return "/weights/" + method if name == "mine" else None
"""


def test_observers_are_called_and_one_that_fails_stops_nobody(install: Install, tmp_path: Path) -> None:
    install("observer", OBSERVER)
    failing = "\n@hookimpl\ndef medbench_run_finished(record):\n    raise RuntimeError('planted')\n"
    install("failing_early", failing)
    install("zz_failing_late", failing)
    catalogue = load_catalogue()
    request: Any = SimpleNamespace(name="request")
    record: Any = SimpleNamespace(name="record")
    assert catalogue.run_started(request, tmp_path) == ()
    problems = catalogue.run_finished(record, tmp_path)
    assert {p.plugin for p in problems} == {"failing_early", "zz_failing_late"}
    assert all("medbench_run_finished failed (RuntimeError: planted)" in p.what for p in problems)
    assert sys.modules["observer"].seen == [(request, tmp_path), record]


def test_the_first_plugin_that_knows_a_checkpoint_answers(install: Install) -> None:
    install("observer", OBSERVER)
    install("ignorant", "\n@hookimpl\ndef medbench_find_checkpoint(method, name):\n    return None\n")
    catalogue = load_catalogue()
    assert catalogue.find_checkpoint("place", "mine") == Path("/weights/place")
    assert catalogue.find_checkpoint("place", "other") is None


def test_a_plugin_that_fails_to_find_a_checkpoint_is_an_error(install: Install) -> None:
    install(
        "failing",
        "\n@hookimpl\ndef medbench_find_checkpoint(method, name):\n    raise OSError('no bucket')\n",
    )
    with pytest.raises(
        PluginError, match=r"plugin failing .*medbench_find_checkpoint failed \(OSError: no bucket\)"
    ):
        load_catalogue().find_checkpoint("place", "mine")


def test_hook_calls_can_be_watched(install: Install, tmp_path: Path) -> None:
    install("failing", "\n@hookimpl\ndef medbench_tasks():\n    yield 1\n    raise RuntimeError('planted')\n")
    install("good_plugin", declaring("mine", "other"))
    install("observer", OBSERVER)
    install(
        "zz_failing", "\n@hookimpl\ndef medbench_run_finished(record):\n    raise RuntimeError('planted')\n"
    )
    lines: list[str] = []
    catalogue = load_catalogue(trace=lines.append)
    assert "good_plugin: medbench_methods() -> [mine, other]" in lines
    assert "failing: medbench_tasks() raised RuntimeError: planted" in lines
    assert any(line.startswith("methods: medbench_methods() -> [random, imagenet, clip,") for line in lines)

    lines.clear()
    catalogue.find_checkpoint("place", "mine")
    assert lines == ["observer: medbench_find_checkpoint(method='place', name='mine') -> '/weights/place'"]
    lines.clear()
    record: Any = "a record " + 100 * "that is long "
    catalogue.run_finished(record, tmp_path)
    finished, failed = sorted(lines)
    assert finished.startswith("observer: medbench_run_finished(record='a record that is long that")
    assert finished.endswith(f" ..., workdir={tmp_path!r}) -> None") and len(finished) < 500
    assert failed.startswith("zz_failing: medbench_run_finished(") and failed.endswith(
        "raised RuntimeError: planted"
    )
