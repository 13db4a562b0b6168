"""The command line. In process where it is light; in a process of its own where start, signals or exit codes count."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from medbench import options
from medbench.cli import app
from medbench.errors import DataError, MedbenchError, PluginError, UsageError, WeightsError
from medbench.request import RunRequest

HEAVY = ("torch", "pandas", "pydantic", "pytorch_lightning", "numpy", "timm", "transformers", "mmdet", "rich")

PLUGIN = """
from medbench.hookspecs import hookimpl
from medbench.specs import MethodSpec
{body}
@hookimpl
def medbench_methods():
    return [MethodSpec("extra", "nowhere:Nothing", "summary", "reference")]
"""

pytestmark = pytest.mark.usefixtures("medbench_home")


def medbench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "medbench.cli", *map(str, arguments)]


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)


# Start.


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "methods"], ["info", "place"]])
def test_looking_things_up_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['medbench', *{arguments}]\n"
        "from medbench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_command_is_installed() -> None:
    script = Path(sys.executable).parent / "medbench"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("medbench ")


def test_help_names_every_verb_and_every_flag_says_what_it_does() -> None:
    text = medbench("--help").output
    for verb in (
        "run",
        "plan",
        "pretrain",
        "list",
        "info",
        "leaderboard",
        "doctor",
        "data",
        "results",
        "weights",
        "plugins",
    ):
        assert f"\n  {verb} " in text
        assert medbench(verb, "--help").exit_code == 0
    run = medbench("run", "--help").output
    for flag in ("--method", "--task", "--fraction", "--dry-run", "--plugin", "--no-resume"):
        assert flag in run


# What is typed.


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["all"], None),
        (["0.01"], (0.01,)),
        (["1%"], (0.01,)),
        (["100%,1%", "10 %"], (0.01, 0.1, 1.0)),
        (["1", "0.1", "0.1"], (0.1, 1.0)),
    ],
)
def test_fractions(typed: list[str], expected: tuple[float, ...] | None) -> None:
    assert options.fractions(typed) == expected


@pytest.mark.parametrize(
    "typed", ["0", "-0.1", "1.5", "10", "101%", "nan", "inf", "half", "%", "", "all,0.1"]
)
def test_wrong_fractions(typed: str) -> None:
    with pytest.raises(UsageError, match=r"expected a share as 0\.01 or 1%"):
        options.fractions([typed])


def test_seeds() -> None:
    assert options.seeds(["0,2", "1", "2"]) == (0, 2, 1)
    for wrong in ("-1", "1.5", "x", ""):
        with pytest.raises(UsageError, match="expected whole numbers from 0"):
            options.seeds([wrong])


def test_pairs() -> None:
    assert options.pairs("--set", ["a=1", "b = x=y", "a=2"]) == {"a": "2", "b": "x=y"}
    for wrong in ("a", "a=", "=b"):
        with pytest.raises(UsageError, match=r"--set .*: expected NAME=VALUE"):
            options.pairs("--set", [wrong])


# What is asked of the runner.


@dataclass
class FakeRecord:
    status: str = "ok"

    def model_dump(self, **_: Any) -> dict[str, str]:
        return {"cell_id": "abc"}


class FakeOutcome:
    def __init__(
        self, failed: int = 0, total: int = 1, errors: tuple[MedbenchError, ...] = (), skipped: int = 0
    ) -> None:
        self.failed = failed
        states = ["failed"] * failed + ["skipped"] * skipped
        self.records = [FakeRecord(status) for status in states + ["ok"] * (total - len(states))]
        self.errors = list(errors)

    @property
    def exit_code(self) -> int:
        from medbench.runner import RunOutcome

        return RunOutcome(self.records, self.errors).exit_code  # type: ignore[arg-type]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """Requests that reach the runner, which does nothing."""
    requests: list[RunRequest] = []

    def run(request: RunRequest, catalogue: object) -> FakeOutcome:
        requests.append(request)
        return FakeOutcome()

    monkeypatch.setattr("medbench.runner.run", run)
    monkeypatch.setattr("medbench.cells.cells_table", lambda records: f"table of {len(records)}")
    monkeypatch.setattr("medbench.memory.keep_freed_memory", lambda: True)
    return requests


def test_defaults(asked: list[RunRequest], medbench_home: Path, tmp_path: Path) -> None:
    done = medbench("run", "-m", "place", "-t", "rsna_det")
    assert (done.exit_code, done.stdout) == (0, "table of 1\n")
    [request] = asked
    assert request == RunRequest(
        ("place",),
        ("rsna_det",),
        results=tmp_path / "results",
        cache=medbench_home / "cache",
        workers=len(os.sched_getaffinity(0)),
    )
    assert not request.real_data


def test_without_any_setting_results_are_here_and_the_cache_is_the_users(
    asked: list[RunRequest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MEDBENCH_HOME")
    monkeypatch.delenv("MEDBENCH_RESULTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    medbench("run", "-m", "place", "-t", "rsna_det")
    assert asked[0].results == Path("results")
    assert asked[0].cache == tmp_path / "medbench"


def test_every_flag_arrives(asked: list[RunRequest], tmp_path: Path) -> None:
    done = medbench(
        *(
            "run",
            "--method",
            "random,clip",
            "-m",
            "pla*",
            "--task",
            "rsna_*",
            "--fraction",
            "1%,1",
            "--seed",
            "2,0",
        ),
        *(
            "--recipe",
            "paper",
            "--checkpoint",
            "w.pt",
            "--device",
            "cpu",
            "--precision",
            "32",
            "--output",
            "out",
        ),
        *(
            "--overwrite",
            "--no-resume",
            "--offline",
            "-q",
            "-v",
            "--data-root",
            "/data",
            "--data",
            "rsna=/films",
        ),
        *(
            "--corpus",
            "table:pairs.csv",
            "--column",
            "report=note",
            "--set",
            "pretrain.lr=1e-4",
            "--set",
            "method.width=8",
            "--exclude-broken",
        ),
    )
    assert done.exit_code == 0, done.output
    [request] = asked
    assert request.methods == ("random", "clip", "place")
    assert {"rsna_det", "rsna_lp"} <= set(request.tasks)
    assert request.fractions == (0.01, 1.0)
    assert request.seeds == (2, 0)
    assert (request.recipe, request.checkpoint, request.device, request.precision) == (
        "paper",
        "w.pt",
        "cpu",
        "32",
    )
    assert request.results == Path("out")
    assert request.overwrite and not request.resume and request.offline and request.quiet and request.verbose
    assert request.data_root == Path("/data") and request.data == {"rsna": Path("/films")}
    assert request.corpus == "table:pairs.csv"
    assert request.columns == {"report": "note"}
    assert request.overrides == {"pretrain.lr": "1e-4", "method.width": "8"}
    assert request.exclude_broken


def test_the_environment(asked: list[RunRequest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin = tmp_path / "env_plugin.py"
    plugin.write_text(PLUGIN.format(body=""))
    for name, value in {
        "MEDBENCH_CACHE": "/cache",
        "MEDBENCH_DATA": "/data",
        "MEDBENCH_RESULTS": "/results",
        "MEDBENCH_OFFLINE": "yes",
        "MEDBENCH_PLUGINS": str(plugin),
    }.items():
        monkeypatch.setenv(name, value)
    assert medbench("run", "-m", "extra", "-t", "rsna_lp").exit_code == 0
    [request] = asked
    assert (request.cache, request.data_root, request.results) == (
        Path("/cache"),
        Path("/data"),
        Path("/results"),
    )
    assert request.offline
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    medbench("run", "-m", "place", "-t", "rsna_lp", "--data-root", "/mine", "--output", "/there")
    assert (asked[1].data_root, asked[1].results) == (Path("/mine"), Path("/there"))


def test_an_environment_switch_that_is_neither_on_nor_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDBENCH_OFFLINE", "maybe")
    done = medbench("run", "-m", "place", "-t", "rsna_lp")
    assert done.exit_code == 2
    assert "MEDBENCH_OFFLINE=maybe: expected 1 or 0" in done.stderr


CONFIG = """
method = ["clip", "place"]
task = "rsna_det"
fraction = [0.01, "10%"]
seed = [0, 1]
recipe = "paper"
output = "from-config"
data-root = "/data"
exclude_broken = true
resume = false
[data]
rsna = "/films"
[set.pretrain]
lr = 1e-4
[set]
"method.width" = 8
"""


def test_a_config_file_gives_defaults_and_flags_win(asked: list[RunRequest], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    assert medbench("run", "-C", config).exit_code == 0
    done = medbench(
        "run", "--task", "rsna_lp", "--seed", "5", "--config", config, "--output", "flag", "--resume"
    )
    assert done.exit_code == 0
    first, second = asked
    assert first.methods == ("clip", "place") and first.tasks == ("rsna_det",)
    assert first.fractions == (0.01, 0.1) and first.seeds == (0, 1)
    assert first.recipe == "paper" and first.exclude_broken and not first.resume
    # A config file is named on the command line, so it wins over the environment.
    assert first.results == Path("from-config")
    assert first.data_root == Path("/data") and first.data == {"rsna": Path("/films")}
    assert first.overrides == {"pretrain.lr": "0.0001", "method.width": "8"}
    assert (
        second.tasks == ("rsna_lp",)
        and second.seeds == (5,)
        and second.results == Path("flag")
        and second.resume
    )
    assert second.methods == ("clip", "place")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("metod = 'place'", "no flag --metod. Did you mean 'method'?"),
        ("config = 'x'", "no flag --config."),
        ("method = ", "is not TOML"),
        ("device = ['cpu', 'cuda']", "--device takes one value"),
        ("seed = 'x'", "expected whole numbers from 0"),
    ],
)
def test_a_wrong_config_file(content: str, expected: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(content)
    done = medbench("run", "-m", "place", "-t", "rsna_lp", "-C", config)
    assert done.exit_code == 2
    assert expected in " ".join(done.stderr.split())


def test_a_config_file_that_is_not_there() -> None:
    done = medbench("run", "-C", "nowhere.toml")
    assert done.exit_code == 2
    assert "nowhere.toml can not be read (No such file or directory)" in " ".join(done.stderr.split())


# Mistakes, and exit codes.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "-t", "rsna_det"], "No method is named. Give --method NAME; known methods: "),
        (["run", "-m", "place"], "No task is named. Give --task NAME; known tasks: "),
        (
            ["run", "-m", "plaec", "-t", "rsna_det"],
            "Unknown method 'plaec'. Did you mean 'place'? Known methods: ",
        ),
        (["plan", "-m", "place", "-t", "rsna_dte"], "Unknown task 'rsna_dte'. Did you mean 'rsna_det'?"),
        (["pretrain", "-m", "x*"], "No methods match 'x*'"),
        (
            ["run", "-m", "place", "-t", "rsna_lp", "--data", "rnsa=/x"],
            "Unknown dataset 'rnsa'. Did you mean 'rsna'?",
        ),
        (["run", "-m", "place", "-t", "rsna_lp", "--data", "rsna"], "--data rsna: expected NAME=VALUE"),
        (["run", "-m", "place", "-t", "rsna_lp", "--device", "tpu"], "--device tpu"),
        (["list", "metods"], "Unknown kind 'metods'. Kinds: methods, tasks, datasets, leaderboards"),
        (["info", "plaec"], "Nothing is called 'plaec'. Did you mean 'place'?"),
        (["info", "rsna", "--recipe", "tiny"], "--recipe: a dataset has none"),
        (["info", "place", "--recipe", "huge"], "place has no recipe 'huge'"),
        (["leaderboard", "--format", "html5"], "--format html5 is not known. Formats: "),
        (["results", "list", "--results", "nowhere"], "No results folder "),
        (["data", "verify", "rnsa"], "Unknown dataset 'rnsa'"),
        (["run", "--metod", "place"], "--metod"),
        (["data", "phantom", "rsna"], "--out"),
    ],
)
def test_a_users_mistake_is_explained_without_a_traceback(arguments: list[str], expected: str) -> None:
    done = medbench(*arguments)
    assert done.exit_code == 2
    assert expected in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def failing_with(error: BaseException) -> Callable[..., Any]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("why"), 2), (DataError("why"), 3), (WeightsError("why"), 4), (PluginError("why"), 5)],
)
def test_what_stops_a_run_decides_the_exit_code(
    error: MedbenchError, code: int, asked: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medbench.runner.run", failing_with(error))
    done = medbench("run", "-m", "place", "-t", "rsna_lp")
    assert (done.exit_code, done.stderr, done.stdout) == (code, "medbench: why\n", "")
    assert "Traceback" in medbench("run", "-m", "place", "-t", "rsna_lp", "-v").stderr


def test_an_interruption_says_how_to_go_on(asked: list[RunRequest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medbench.runner.run", failing_with(KeyboardInterrupt()))
    done = medbench("run", "-m", "place", "-t", "rsna_lp")
    assert done.exit_code == 130
    assert done.stderr == "medbench: interrupted; run the same command again to go on\n"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (FakeOutcome(failed=0, total=3), 0),
        (FakeOutcome(failed=1, total=3), 1),
        (FakeOutcome(failed=1, total=3, errors=(PluginError("no cv2"),)), 1),
        (FakeOutcome(failed=3, total=3, errors=(PluginError("no cv2"),)), 5),
        (FakeOutcome(failed=2, total=3, errors=(PluginError("no cv2"),), skipped=1), 5),
        (FakeOutcome(failed=3, total=3), 1),
    ],
)
def test_failed_cells_show_in_the_exit_code(
    outcome: FakeOutcome, code: int, asked: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medbench.runner.run", lambda request, catalogue: outcome)
    assert medbench("run", "-m", "place", "-t", "rsna_lp").exit_code == code


def test_records_as_json(asked: list[RunRequest]) -> None:
    done = medbench("run", "-m", "place", "-t", "rsna_lp", "--json")
    assert json.loads(done.stdout) == [{"cell_id": "abc"}]


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    body = "import medbench.describe\ndef broken(*_): raise RuntimeError('our bug')\nmedbench.describe.rows = broken"
    plugin = tmp_path / "breaks_us.py"
    plugin.write_text(PLUGIN.format(body=body))
    done = process("list", "methods", "--plugin", plugin)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "RuntimeError: our bug" in done.stderr


# Plugins.


def test_a_plugin_file(tmp_path: Path) -> None:
    plugin = tmp_path / "cli_plugin.py"
    plugin.write_text(PLUGIN.format(body=""))
    assert "extra" in medbench("list", "methods", "--plugin", plugin).stdout
    assert f"from:         {plugin}" in medbench("info", "extra", "--plugin", plugin).stdout
    traced = medbench("list", "methods", "--plugin", plugin, "--trace-plugins")
    assert f"hook: {plugin}: medbench_methods() -> [extra]\n" in traced.stderr


def test_a_plugin_that_was_asked_for_and_fails_stops_the_command(tmp_path: Path) -> None:
    plugin = tmp_path / "bad_cli_plugin.py"
    plugin.write_text("raise RuntimeError('planted')")
    done = medbench("list", "methods", "--plugin", plugin)
    assert done.exit_code == 5
    assert "can not be imported (RuntimeError: planted)" in done.stderr and "Traceback" not in done.stderr
    assert "Traceback" in medbench("list", "methods", "--plugin", plugin, "-v").stderr


def test_the_environments_plugins_are_left_out_with_no_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDBENCH_PLUGINS", "no_such_module_at_all")
    assert medbench("list", "methods").exit_code == 5
    assert medbench("list", "methods", "--no-plugins").exit_code == 0


@pytest.fixture
def broken_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed plugin that fails at import."""
    site = tmp_path / "site"
    info = site / "broken_dist-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "broken_dist.py").write_text("raise RuntimeError('planted')")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken_dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medbench]\nbroken = broken_dist\n")
    monkeypatch.syspath_prepend(str(site))
    yield "broken_dist"
    sys.modules.pop("broken_dist", None)


def test_an_installed_plugin_that_fails_is_a_warning(broken_distribution: str) -> None:
    done = medbench("list", "methods")
    assert done.exit_code == 0
    assert "place" in done.stdout
    [line] = done.stderr.splitlines()
    assert line == (
        "medbench: warning: plugin broken (broken_dist 1.0): can not be imported (RuntimeError: planted)"
    )


def test_plugins_list_shows_tracebacks(broken_distribution: str) -> None:
    done = medbench("plugins", "list")
    assert done.exit_code == 0 and done.stderr == ""
    assert "medbench_datasets, medbench_tasks" in done.stdout
    assert "RuntimeError: planted" in done.stdout and 'broken_dist.py", line 1' in done.stdout
    content = json.loads(medbench("plugins", "list", "--json").stdout)
    assert content["problems"][0]["plugin"] == "broken"
    assert {"methods", "tasks", "leaderboards"} <= {row["plugin"] for row in content["plugins"]}


# Looking things up.


def test_list_tells_fidelity_and_owner() -> None:
    rows = {row["name"]: row for row in json.loads(medbench("list", "methods", "--json").stdout)}
    assert rows["place"]["fidelity"] == "reconstruction"
    assert rows["place"]["from"].startswith("medbench ")
    assert "name" in medbench("list", "tasks").stdout.splitlines()[0]
    for kind, name in [("datasets", "mimic_cxr"), ("leaderboards", "csv"), ("tasks", "rsna_lp")]:
        assert name in medbench("list", kind).stdout


def test_info_says_where_it_lives_and_what_it_holds() -> None:
    text = medbench("info", "place").stdout
    assert "fidelity:     reconstruction" in text
    [file] = [line.split()[1] for line in text.splitlines() if line.startswith("file:")]
    path, _, line = file.rpartition(":")
    assert Path(path).name == "place.py"
    assert Path(path).read_text().splitlines()[int(line) - 1].startswith("class Place")
    fields = medbench("info", "place", "--recipe", "tiny").stdout
    assert "pretrain.lr = " in fields and "method." in fields
    assert "task." in medbench("info", "rsna_lp", "--recipe", "micro").stdout
    assert "official" not in fields
    assert "26,684" in medbench("info", "rsna").stdout


def test_info_of_a_target_that_does_not_exist(tmp_path: Path) -> None:
    plugin = tmp_path / "vague_plugin_file.py"
    plugin.write_text(PLUGIN.format(body=""))
    assert "file:         not found" in medbench("info", "extra", "--plugin", plugin).stdout


# Signals.

SLOW = "import sys, time; print('ready', file=sys.stderr, flush=True); time.sleep(60)"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_130(how: signal.Signals, tmp_path: Path) -> None:
    plugin = tmp_path / "slow_plugin.py"
    plugin.write_text(SLOW)
    with subprocess.Popen(
        command("list", "methods", "--plugin", plugin), stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        assert run.stderr.readline() == "ready\n"
        run.send_signal(how)
        assert run.wait(timeout=30) == 130
        assert run.stderr.read() == "medbench: interrupted; run the same command again to go on\n"


FORKING = """
import multiprocessing, sys, time
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
time.sleep(0.5)
worker.terminate()
worker.join(30)
print(worker.exitcode, file=sys.stderr)
"""


def test_a_worker_that_is_told_to_stop_ends_quietly(tmp_path: Path) -> None:
    plugin = tmp_path / "forking_plugin.py"
    plugin.write_text(PLUGIN.format(body=FORKING))
    done = process("list", "methods", "--plugin", plugin)
    assert (done.returncode, done.stderr) == (0, f"{-signal.SIGTERM}\n")


# Data.


def write_phantom(folder: Path, patients: int = 12) -> Result:
    return medbench("data", "phantom", "rsna", "--out", folder, "--patients", patients, "--seed", 3)


def test_a_phantom_is_written_in_the_real_layout_and_verified(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    done = write_phantom(folder)
    assert done.exit_code == 0 and done.stdout == f"{folder}\n"
    assert all(line.startswith("[phantom]") for line in done.stderr.splitlines())
    assert len(list((folder / "stage_2_train_images").glob("*.dcm"))) == 12
    done = medbench("data", "verify", "rsna", "--data", f"rsna={folder}", "--full")
    assert done.exit_code == 0
    assert "PHANTOM data; 12 images of 12 patients are in order" in done.stdout
    status = medbench("data", "status", "--data", f"rsna={folder}", "--json")
    rows = {row["dataset"]: row for row in json.loads(status.stdout)["datasets"]}
    assert rows["rsna"] == {"dataset": "rsna", "state": "phantom", "folder": str(folder)}
    assert rows["mimic_cxr"]["state"] == "no folder named"


def test_what_is_wrong_with_a_dataset_is_named_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    write_phantom(folder)
    films = sorted((folder / "stage_2_train_images").glob("*.dcm"))
    films[0].unlink()
    films[1].write_bytes(films[1].read_bytes()[:2000])
    done = medbench("data", "verify", "rsna", "--data", f"rsna={folder}", "--full", "-q")
    assert done.exit_code == 3
    assert "10 images of 10 patients are in order" in done.stdout
    assert re.search(r"no such file +1 ", done.stdout)
    assert films[0].name in done.stdout and films[1].name in done.stdout
    assert "--exclude-broken" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("verb", [["data", "verify", "rsna"], ["run", "-m", "random", "-t", "rsna_lp", "-q"]])
def test_a_dataset_that_is_not_there_is_never_replaced(verb: list[str], tmp_path: Path) -> None:
    done = medbench(*verb, "--data-root", tmp_path)
    assert done.exit_code == 3
    assert str(tmp_path / "rsna") in done.stderr
    assert "https://" in done.stderr and "medbench data verify rsna" in done.stderr


def test_data_status_without_data_says_phantom(medbench_home: Path) -> None:
    text = medbench("data", "status").stdout
    assert "none named; runs use PHANTOM data" in text
    assert f"cache: {medbench_home / 'cache'} (empty)" in text


def test_a_dataset_without_a_twin(tmp_path: Path) -> None:
    done = medbench("data", "phantom", "table", "--out", tmp_path / "x")
    assert done.exit_code == 3
    assert "table has no phantom twin" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corpus", "nope"], "Unknown dataset 'nope'"),
        (["--corpus", "table:"], "Give it as --corpus table:FILE."),
        (["--corpus", "table"], "Give it as --corpus table:FILE."),
        (["--column", "report=x"], "give it with --corpus table:FILE"),
        (["--set", "method.size=100"], "size is 100 and resize 72 px; expected 0 < size <= resize"),
        (["--set", "method.std=0"], "expected numbers above 0"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused_also_where_nothing_is_pretrained(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDBENCH_RESULTS", str(tmp_path / "results"))
    done = medbench("run", "-m", "random", "-t", "rsna_lp", "--recipe", "micro", *flags)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("text_heads=5", "text_width is 64; expected a multiple of method.text_heads"),
        ("text_layers=0", "text_layers is 0; expected at least 1"),
        ("embed=0", "embed is 0; expected at least 1"),
        ("size=200", "size is 200 and resize 72"),
    ],
)
def test_a_recipe_that_can_not_be_built_is_refused(field: str, message: str) -> None:
    done = medbench("plan", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", "--set", f"method.{field}")
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_plan_looks_at_the_checkpoint_before_there_are_phantoms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDBENCH_CACHE", str(tmp_path))
    done = medbench("plan", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", "--checkpoint", "/nope")
    assert done.exit_code == 4
    assert "missing: --checkpoint /nope: looked for /nope and found nothing there" in done.stdout


def test_a_corpus_without_reports_is_found_by_the_plan_too() -> None:
    done = medbench("plan", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", "--corpus", "rsna")
    assert done.exit_code == 2
    assert "it has no reports to learn from. With reports: " in done.stderr


# Doctor.


def test_doctor_finds_a_whole_installation_usable(tmp_path: Path) -> None:
    done = medbench("doctor")
    assert done.exit_code == 0, done.output
    for word in ("torch 2", "cpu: ", "cv2 ", "methods", "PHANTOM", "usable"):
        assert word in done.stdout
    assert json.loads(medbench("doctor", "--json").stdout)["usable"] is True


def test_doctor_names_the_cure_for_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "medbench.heads.mmdet_ops.check_opencv", lambda: "libGL.so.1 is missing; apt-get install libgl1"
    )
    done = medbench("doctor")
    assert done.exit_code == 5
    assert "libGL.so.1 is missing; apt-get install libgl1" in done.stdout and "wrong: OpenCV" in done.stdout


def test_doctor_reports_plugins_and_data(broken_distribution: str, tmp_path: Path) -> None:
    done = medbench("doctor", "-v", "--data", f"rsna={tmp_path / 'nothing'}")
    assert done.exit_code == 3
    assert "plugin broken (broken_dist 1.0): can not be imported" in done.stdout
    assert "Traceback" in done.stdout
    assert f"rsna: {tmp_path / 'nothing'}, not there" in done.stdout and "get it from https://" in done.stdout
    assert medbench("doctor").exit_code == 0  # somebody else's broken plugin does not make medbench unusable


def test_doctor_survives_what_does_not_even_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medbench.doctor._devices", failing_with(OSError("libcudart.so is missing")))
    done = medbench("doctor")
    assert done.exit_code == 5
    assert "OSError: libcudart.so is missing" in done.stdout and "plugins" in done.stdout


def test_doctor_and_a_data_root_that_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDBENCH_DATA", "/no/such/folder")
    done = medbench("doctor")
    assert done.exit_code == 3
    assert "/no/such/folder is no folder" in done.stdout
    done = medbench("doctor", "--data", "rsna=/no/such/rsna")  # what else is wrong is not hidden by it
    assert "/no/such/folder is no folder" in done.stdout and "rsna: /no/such/rsna, not there" in done.stdout


def test_doctor_and_a_cache_that_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("MEDBENCH_CACHE", str(tmp_path / "cache"))
    done = medbench("doctor")
    assert done.exit_code == 2
    assert f"{tmp_path / 'cache'} is no folder" in done.stdout and "MEDBENCH_CACHE" in done.stdout


# One run from end to end, and what can be asked of its records.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A home with the results of one small run, which tests must not change."""
    home = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        command("run", "-m", "random", "-t", "rsna_lp", "--recipe", "micro", "--device", "cpu"),
        env=os.environ | {"MEDBENCH_HOME": str(home), "MEDBENCH_RESULTS": str(home / "results")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return home, done


@pytest.fixture
def in_finished(
    finished: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A copy of these results, with the cache of the original."""
    import shutil

    shutil.copytree(finished[0] / "results", tmp_path / "results", dirs_exist_ok=True)
    monkeypatch.setenv("MEDBENCH_HOME", str(finished[0]))
    return tmp_path / "results"


def test_a_run_prints_its_table_and_nothing_else_on_stdout(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = finished
    assert done.returncode == 0, done.stderr
    assert "PHANTOM" in done.stdout and "random (baseline)" in done.stdout and "auroc" in done.stdout
    assert "n/a" in done.stdout  # 1 % of the micro phantom is too small to train on, and says so
    assert all(line.startswith("[phantom]") for line in done.stderr.splitlines() if line.strip())


def test_a_run_that_is_done_prints_the_same_again(
    in_finished: Path, finished: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    again = process("run", "-m", "random", "-t", "rsna_lp", "--recipe", "micro", "--device", "cpu")
    assert again.stdout == finished[1].stdout


def test_the_plan_of_a_run_that_is_done(in_finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medbench.memory.keep_freed_memory", lambda: True)  # for the process of a run only
    wanted = ("-m", "random", "-t", "rsna_lp", "--recipe", "micro", "--device", "cpu")
    planned = medbench("run", *wanted, "--dry-run")
    assert planned.exit_code == 0
    assert "0 of 3 cells to do" in planned.stdout
    assert planned.stdout == medbench("plan", *wanted).stdout
    assert {cell["state"] for cell in json.loads(medbench("plan", *wanted, "--json").stdout)["cells"]} == {
        "done (ok)",
        "done (skipped)",
    }


def test_records_are_listed(in_finished: Path) -> None:
    done = medbench("results", "list")
    assert done.exit_code == 0
    assert done.stdout.count("random (baseline)") == 3
    records = json.loads(medbench("results", "list", "--json").stdout)
    assert [record["schema"] for record in records] == ["medbench.result/1"] * 3


def test_records_verify(in_finished: Path) -> None:
    done = medbench("results", "verify")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "3 records checked, 0 with something wrong: accept"


def change_record(results: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    for path in sorted(results.glob("*/*/*/*.json")):
        record = json.loads(path.read_text())
        if record["status"] == "ok":
            change(record)
            path.write_text(json.dumps(record))
            return path
    raise AssertionError("no finished record")


def raise_value(record: dict[str, Any]) -> None:
    record["metrics"][0]["value"] += 0.01


def edit_identity(record: dict[str, Any]) -> None:
    record["identity"]["recipe"] = "tiny"


def add_field(record: dict[str, Any]) -> None:
    record["note"] = "mine"


def edit_config_hash(record: dict[str, Any]) -> None:
    record["config_sha256"] = "0" * 64


def change_primary(record: dict[str, Any]) -> None:
    record["primary_metric"] = "average_precision"


def turn_direction(record: dict[str, Any]) -> None:
    record["metrics"][0]["higher_is_better"] = False


def raise_n(record: dict[str, Any]) -> None:
    record["metrics"][0]["n"] += 1


def call_skipped(record: dict[str, Any]) -> None:
    record["status"], record["reason"] = "skipped", "because"


def raise_count(record: dict[str, Any]) -> None:
    record["counts"]["test"] = 9999


def drop_metric(record: dict[str, Any]) -> None:
    record["metrics"].pop()


def repeat_metric(record: dict[str, Any]) -> None:
    record["metrics"].append(record["metrics"][0])


def change_bin(record: dict[str, Any]) -> None:
    record["reliability"][0]["edges"][1] += 0.001


def drop_diagram(record: dict[str, Any]) -> None:
    record["reliability"].pop()


def old_version(record: dict[str, Any]) -> None:
    record["identity"]["task_version"] = 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (raise_value, "auroc: value "),
        (edit_identity, "it was edited"),
        (edit_identity, "expected at "),
        (edit_config_hash, "config_sha256 is 000000000000, its configs have "),
        (change_primary, "primary_metric is average_precision, that of rsna_lp is auroc"),
        (turn_direction, "auroc: higher_is_better False recorded, True computed"),
        (raise_n, "auroc: n "),
        (call_skipped, "a skipped record holds metrics: it was edited"),
        (raise_count, "counts: 9999 test samples recorded, its id list has "),
        (add_field, "not a medbench.result/1 record (note: "),
        (drop_metric, "metrics recorded: "),
        (repeat_metric, "metrics recorded: "),
        (change_bin, "reliability pneumonia width: edges 1 "),
        (drop_diagram, "blocks recorded: "),
        (old_version, "rsna_lp is installed at version "),
    ],
)
def test_an_edited_record_is_found(
    change: Callable[[dict[str, Any]], None], expected: str, in_finished: Path
) -> None:
    path = change_record(in_finished, change)
    done = medbench("results", "verify")
    assert done.exit_code == 3
    assert f"{path}: " in done.stdout and expected in done.stdout
    assert "3 records checked, 1 with something wrong" in done.stdout


def test_a_record_without_groups_and_diagrams_is_incomplete(in_finished: Path) -> None:
    change_record(in_finished, lambda record: record.update(subgroups=[], reliability=[]))
    done = medbench("results", "verify")
    assert done.exit_code == 3
    assert "blocks recorded: ; computed: reliability " in done.stdout
    assert "`medbench results rescore --out DIR` makes it anew" in done.stdout


def test_an_edited_id_list_is_found(in_finished: Path) -> None:
    (path, *_) = sorted(in_finished.rglob("splits/*.json"))
    parts = json.loads(path.read_text())
    parts["train"] = parts["train"][1:]
    path.write_text(json.dumps(parts))
    done = medbench("results", "verify")
    assert done.exit_code == 3
    assert f"the ids in splits/{path.name} have the hash " in done.stdout


def test_edited_predictions_are_found(in_finished: Path) -> None:
    path = sorted(in_finished.rglob("*.parquet"))[0]
    table = pd.read_parquet(path)
    table.iloc[:-1].to_parquet(path, index=False)
    done = medbench("results", "verify")
    assert done.exit_code == 3
    assert path.name in done.stdout and "SHA-256" in done.stdout
    path.unlink()
    assert "are not beside it" in medbench("results", "verify").stdout


def test_missing_id_lists_are_found(in_finished: Path) -> None:
    for path in (in_finished / "splits").iterdir():
        path.unlink()
    done = medbench("results", "verify")
    assert done.exit_code == 3
    assert "split_sha256: its id list" in done.stdout


def test_kernels_that_are_not_deterministic_are_recorded(
    in_finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in in_finished.glob("*/*/*/*.json"):
        assert json.loads(path.read_text())["environment"]["nondeterministic"] == []
        path.unlink()

    def warns(kernel: str, error: bool) -> Callable[..., None]:
        def call(*args: object) -> None:
            warnings.warn(
                f"{kernel} does not have a deterministic implementation, but you set it", stacklevel=2
            )
            if error:
                raise ValueError("planted")

        return call

    monkeypatch.setattr(
        "medbench.protocols.linear_probe.LinearProbe.extract", warns("extracting_cuda", False)
    )
    monkeypatch.setattr("medbench.protocols.linear_probe.LinearProbe.evaluate", warns("training_cuda", True))
    done = medbench("run", "-m", "random", "-t", "rsna_lp", "--recipe", "micro", "--device", "cpu", "-q")
    assert done.exit_code == 1
    records = [json.loads(path.read_text()) for path in in_finished.rglob("*.failed-*.json")]
    assert records
    for record in records:
        assert record["environment"]["nondeterministic"] == [
            "extracting_cuda does not have a deterministic implementation",
            "training_cuda does not have a deterministic implementation",
        ]


def test_the_leaderboard_is_made_of_the_records(in_finished: Path) -> None:
    done = medbench("leaderboard")
    assert done.exit_code == 0, done.output
    assert "random" in done.stdout and "PHANTOM" in done.stdout.upper()
    whole = medbench("leaderboard", "--format", "json", "--results", in_finished)
    assert whole.exit_code == 0
    assert json.loads(whole.stdout)["tables"]


def test_json_of_a_real_run(in_finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medbench.memory.keep_freed_memory", lambda: True)
    done = medbench(
        "run", "-m", "random", "-t", "rsna_lp", "--recipe", "micro", "--device", "cpu", "--json", "-q"
    )
    assert done.exit_code == 0 and done.stderr == ""
    assert {record["status"] for record in json.loads(done.stdout)} == {"ok", "skipped"}
