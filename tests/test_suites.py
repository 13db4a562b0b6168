"""Suites: what their files may say, what is said of mistakes, how they are narrowed and divided, and that they run."""

import importlib
import json
import re
import shlex
import shutil
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner, Result

from medbench import cost
from medbench.cli import app
from medbench.errors import DataError, UsageError
from medbench.plan import CellState, Plan, WeightsState, plan
from medbench.plugins import load_catalogue
from medbench.records import ResultStore, read_predictions
from medbench.request import RunRequest
from medbench.runner import RunOutcome, run_all
from medbench.suites import File, Suite, read_suite, shard_of

REPOSITORY = Path(__file__).resolve().parents[1]
SUITES = sorted((REPOSITORY / "suites").glob("*.toml"))
CATALOGUE = load_catalogue(third_party=False)
TRAINED = [name for name, spec in CATALOGUE.methods.items() if not spec.released_only]

SMALL = """
data = "phantom"
recipe = "micro"
methods = ["clip", "random"]
tasks = ["rsna_lp", "rsna_zs"]
"""

Cell = tuple[str, str | None, tuple[tuple[str, str], ...], str, float, int]


def suite(folder: Path, text: str) -> Suite:
    path = folder / "suite.toml"
    path.write_text(text)
    return read_suite(path, CATALOGUE)


def base(folder: Path, **changes: Any) -> RunRequest:
    paths = {"results": folder / "results", "cache": folder / "cache"}
    return RunRequest((), (), **{**paths, **changes}, device="cpu", quiet=True)


def cells(requests: tuple[RunRequest, ...]) -> list[Cell]:
    """Every cell that a run of these requests computes, as often as it is asked for."""
    return [
        (method, request.checkpoint, tuple(request.overrides.items()), task, fraction, seed)
        for request in requests
        for method, task, seed in product(request.methods, request.tasks, request.seeds)
        for fraction in fractions(task, request)
    ]


def fractions(task: str, request: RunRequest) -> tuple[float, ...]:
    own = CATALOGUE.lookup_task(task).fractions
    return (request.fractions or own) if own else (1.0,)


# What a file may say.


def test_a_suite_is_every_method_on_every_task_that_it_serves(tmp_path: Path) -> None:
    read = suite(tmp_path, SMALL + 'fractions = ["1%", 1.0]\nseeds = [0, 2]\n')
    requests = read.requests(base(tmp_path))
    lp = [(m, None, (), "rsna_lp", f, s) for m in ("clip", "random") for s in (0, 2) for f in (0.01, 1.0)]
    assert Counter(cells(requests)) == Counter(
        [*lp, *(("clip", None, (), "rsna_zs", 1.0, s) for s in (0, 2))]
    )
    assert [(r.methods, r.seeds, r.tasks) for r in requests[:2]] == [
        (("clip",), (0,), ("rsna_lp", "rsna_zs")),
        (("clip",), (2,), ("rsna_lp", "rsna_zs")),
    ]
    assert read.left_out == ("rsna_zs (random does not provide embedding, text.pooled)",)
    assert {(r.recipe, r.real_data) for r in requests} == {("micro", False)}


def test_what_a_grid_does_not_say_is_said_above_all_grids(tmp_path: Path) -> None:
    read = suite(
        tmp_path,
        SMALL.replace("tasks", "seeds = [0, 1]\ntasks")
        + """
[[grid]]
[[grid]]
methods = "clip"
tasks = "rsna_det"
fractions = 1
seeds = 5
[grid.set.method]
temperature = 0.1
""",
    )
    (last,) = [r for r in read.requests(base(tmp_path)) if r.overrides]
    assert (last.methods, last.tasks, last.seeds, last.fractions) == (("clip",), ("rsna_det",), (5,), (1.0,))
    assert last.overrides == {"method.temperature": "0.1"}
    assert len(read.encoders) == 5


def test_grids_that_say_the_same_cell_twice_run_it_once(tmp_path: Path) -> None:
    text = SMALL + '[[grid]]\n[[grid]]\nfractions = ["10%", "100%"]\ntasks = ["rsna_lp", "rsna_det"]\n'
    requests = suite(tmp_path, text).requests(base(tmp_path))
    assert max(Counter(cells(requests)).values()) == 1
    clip = {(task, f) for method, _, _, task, f, _ in cells(requests) if method == "clip"}
    lp, det = ({("rsna_lp", f) for f in (0.01, 0.1, 1.0)}, {("rsna_det", f) for f in (0.1, 1.0)})
    assert clip == lp | det | {("rsna_zs", 1.0)}


def test_the_seeds_of_a_checkpoint_are_one_encoder(tmp_path: Path) -> None:
    read = suite(tmp_path, SMALL + 'seeds = [0, 1]\ncheckpoint = "weights"\n')
    assert [(e.method, e.seed) for e in read.encoders] == [("clip", None), ("random", None)]
    assert read.requests(base(tmp_path))[0].seeds == (0, 1)


def test_real_suites_never_fall_back_to_phantoms(tmp_path: Path) -> None:
    text = SMALL.replace('"phantom"', '"real"').replace("micro", "paper")
    assert all(request.real_data for request in suite(tmp_path, text).requests(base(tmp_path)))
    text = SMALL.replace('data = "phantom"', "") + 'corpus = "mimic_cxr"\n[data]\nrsna = "~/rsna"\n'
    read = suite(tmp_path, text)
    (request, *_) = read.requests(base(tmp_path))
    assert request.data == {"rsna": Path("~/rsna").expanduser()} and request.corpus == "mimic_cxr"
    (request, *_) = read.requests(base(tmp_path, data={"rsna": Path("/mine")}, corpus="table:x.csv"))
    assert request.data == {"rsna": Path("/mine")} and request.corpus == "table:x.csv"


def test_phantom_suites_take_no_data(tmp_path: Path) -> None:
    for named in ({"data_root": Path("/x")}, {"data": {"rsna": Path("/x")}}, {"corpus": "table:x.csv"}):
        with pytest.raises(UsageError, match=r"is on phantoms .* Leave out --data-root, --data, --corpus"):
            suite(tmp_path, SMALL).requests(base(tmp_path, **named))


def test_a_suite_can_fix_the_precision(tmp_path: Path) -> None:
    read = suite(tmp_path, SMALL + 'precision = "32"\n')
    assert {r.precision for r in read.requests(base(tmp_path))} == {"32"}
    with pytest.raises(UsageError, match=r"--precision bf16: .* is computed in 32"):
        read.requests(base(tmp_path, precision="bf16"))
    assert suite(tmp_path, SMALL).requests(base(tmp_path, precision="bf16"))[0].precision == "bf16"


# What is wrong.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + "task = 1\n", "task: no such field. Did you mean 'tasks'? Fields: methods, tasks,"),
        (
            SMALL + "[[grid]]\n\nmethod = 1\n",
            "grid 1, method: no such field. Did you mean 'methods'?",
        ),
        (SMALL + "\n[[grid]]\nrecipe = 'tiny'\n", "grid 1, recipe: no such field. Fields: methods,"),
        (
            SMALL.replace("clip", "clp"),
            "methods: Unknown method 'clp'. Did you mean 'clip'? Known methods:",
        ),
        (
            SMALL.replace("rsna_zs", "rsna_sz"),
            "tasks: Unknown task 'rsna_sz'. Did you mean 'rsna_zs'?",
        ),
        (
            SMALL + '[[grid]]\n[[grid]]\ntasks = [\n  "rsna_lp",\n  "rsna_pl",  # here\n]\n',
            "grid 2, tasks: Unknown task 'rsna_pl'. Did you mean 'rsna_lp'?",
        ),
        (SMALL + "seeds = [0,\n'1']\n", "seeds: found '1'; Input should be a valid integer"),
        (SMALL + "seeds = -1\n", "seeds: found -1; Input should be greater than or equal to 0"),
        (SMALL + "seeds = []\n", "seeds: found []; List should have at least 1 item"),
        (SMALL + "seeds = [true]\n", "seeds: found True; Input should be a valid integer"),
        (
            SMALL + "fractions = [0.1, '200%']\n",
            "fractions: found [0.1, '200%']; expected a share as 0.01",
        ),
        (SMALL + "fractions = true\n", "fractions: found True; expected a share as 0.01 or 1%"),
        (
            SMALL.replace("micro", "tinny"),
            "recipe: found 'tinny'; expected tiny, paper or micro. Did you mean",
        ),
        (SMALL + "precision = '16'\n", "precision: found '16'; expected auto, 32 or bf16."),
        (SMALL + "corpus = 3\n", "corpus: found 3; Input should be a valid string"),
        (
            SMALL.replace('"phantom"', '"fantom"'),
            'data: found \'fantom\'; expected "phantom", "real",',
        ),
        (
            SMALL.replace('data = "phantom"', "") + "[data]\nrnsa = '/x'\n",
            "data.rnsa: Unknown dataset 'rnsa'. Did you mean 'rsna'?",
        ),
        (SMALL.replace('data = "phantom"', ""), 'no field \'data\'. Add data = "phantom" or data = "real".'),
        (
            SMALL.replace('recipe = "micro"', ""),
            'no field \'recipe\'. Add recipe = "tiny" or recipe = "paper".',
        ),
        (
            'data = "phantom"\nrecipe = "tiny"\nmethods = "clip"\n',
            "the file: names no tasks. Add a line tasks = [...].",
        ),
        (
            'data = "phantom"\nrecipe = "tiny"\nmethods = "clip"\n[[grid]]\ntasks = "rsna_lp"\n[[grid]]\nseeds = 1\n',
            "grid 2: names no tasks.",
        ),
        (SMALL + "[grid]\n", "grid: found {}; Input should be a valid list"),
        (SMALL + "tasks = 1\n", "not TOML: Cannot overwrite a value (at line 6"),
        ("data = phantom", "not TOML: Invalid value (at line 1, column 8)"),
    ],
)
def test_mistakes_are_said_with_the_grid_and_the_field(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        suite(tmp_path, text)
    assert str(tmp_path / "suite.toml") in str(error.value)
    assert said in str(error.value)


def test_every_mistake_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)seeds: .*task: "):
        suite(tmp_path, SMALL + "task = 1\nseeds = 'x'\n")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nope\.toml: can not be read \(No such file"):
        read_suite(tmp_path / "nope.toml", CATALOGUE)


@pytest.mark.parametrize("typed", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_shards_that_are_none(typed: str) -> None:
    with pytest.raises(UsageError, match=r"expected I/N with I from 1 to N, as 1/4"):
        shard_of(typed)


# Splits.


def test_a_grid_can_say_the_split(tmp_path: Path) -> None:
    read = suite(tmp_path, SMALL + '[[grid]]\n[[grid]]\ntasks = "rsna_lp"\nsplit = "mgca_cls"\n')
    requests = read.requests(base(tmp_path))
    assert [(r.methods, r.split, r.tasks) for r in requests] == [
        (("clip",), None, ("rsna_lp", "rsna_zs")),
        (("clip",), "mgca_cls", ("rsna_lp",)),
        (("random",), None, ("rsna_lp",)),
        (("random",), "mgca_cls", ("rsna_lp",)),
    ]
    assert len(read.encoders) == 2, "what is pretrained does not depend on the split of a task"
    (part,) = read.narrowed(CATALOGUE, tasks=["rsna_lp"], methods=["clip"]).encoders
    assert {split for _, _, split in part.cells} == {None, "mgca_cls"}
    lists = suite(tmp_path, SMALL + 'split = "lists:mine"\n').requests(base(tmp_path))
    assert {request.split for request in lists} == {"lists:mine"}


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (
            'split = "mgca_clss"',
            "grid 1, split: rsna, which rsna_lp is run on, has no split 'mgca_clss'. Did you",
        ),
        (
            'tasks = "covidx_lp"\nsplit = "x"',
            "grid 1, split: covidx, which covidx_lp is run on, has no split 'x'.",
        ),
        (
            'tasks = "lp:table:x.csv"\nsplit = "x"',
            "grid 1, split: table, which lp:table:x.csv is run on, has no",
        ),
        ("split = 3", "grid 1, split: found 3; Input should be a valid string"),
        ('split = ""', "grid 1, split: found ''; String should have at least 1 char"),
    ],
)
def test_splits_that_are_none(grid: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        suite(tmp_path, f"{SMALL}[[grid]]\n{grid}\n")
    assert said in str(error.value)


def test_the_published_matrix_is_on_the_published_splits(tmp_path: Path) -> None:
    """What is held against published figures on a split is run on it."""
    import tomllib

    content = (REPOSITORY / "leaderboards" / "medbench_leaderboards" / "protocol_map.toml").read_text()
    compared = {(p["ours"], p["split"]) for p in tomllib.loads(content)["protocol"] if "ours" in p}
    requests = read_suite(REPOSITORY / "suites" / "paper.toml", CATALOGUE).requests(base(tmp_path))
    run = {
        (task, request.split or CATALOGUE.lookup_task(task).make("paper").split)
        for request in requests
        for task in request.tasks
        if task in {ours for ours, _ in compared}
    }
    assert run == compared


# Parts of a suite.


def test_a_part_of_a_suite(tmp_path: Path) -> None:
    read = suite(tmp_path, SMALL + "seeds = [0, 1]\n")
    part = read.narrowed(CATALOGUE, methods=["cl*"], tasks=["rsna_lp"], wanted=[0.1], seeds=[1])
    assert cells(part.requests(base(tmp_path))) == [("clip", None, (), "rsna_lp", 0.1, 1)]
    whole = read.narrowed(CATALOGUE, methods=["*"], tasks=["rsna_*"])
    assert cells(whole.requests(base(tmp_path))) == cells(read.requests(base(tmp_path)))
    # To a task that trains nothing a label fraction means nothing.
    part = read.narrowed(CATALOGUE, tasks=["rsna_zs"], wanted=[0.01])
    assert len(cells(part.requests(base(tmp_path)))) == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"methods": ["place"]}, r"--method place: not in .*suite\.toml\. Its methods: clip, random"),
        ({"methods": ["plac"]}, r"Unknown method 'plac'\. Did you mean 'place'"),
        (
            {"tasks": ["rsna_lp@mgca"]},
            r"--task rsna_lp@mgca: not in .* Did you mean 'rsna_lp'\? Its tasks: rsna_lp",
        ),
        ({"seeds": [0, 3]}, r"--seed 3: not in .*suite\.toml, which has 0\."),
        ({"wanted": [0.5]}, r"--fraction 0\.5: not in .* which has 0\.01, 0\.1, 1\."),
        ({"methods": ["random"], "tasks": ["rsna_zs"]}, r"(?s)no cell .*rsna_zs \(random does not provide"),
    ],
)
def test_what_is_not_in_a_suite_can_not_be_asked_of_it(asked: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        suite(tmp_path, SMALL).narrowed(CATALOGUE, **asked)


names = st.lists(st.sampled_from(["random", "clip", "place", "mrm"]), min_size=1, max_size=4)
tasks = st.lists(st.sampled_from(["rsna_lp", "rsna_zs", "rsna_knn", "siim_seg"]), min_size=1, max_size=3)
seeds = st.lists(st.integers(0, 4), min_size=1, max_size=4)
shares = st.sampled_from(['"all"', "[0.01]", '["10%", 1.0]', "[0.1, 0.01]"])
extras = st.sampled_from(["", 'checkpoint = "a"\n', "set = {method.temperature = 1}\n"])
grids = st.lists(st.tuples(names, tasks, seeds, shares, extras), min_size=1, max_size=3)


@settings(deadline=None, max_examples=60)
@given(grids, st.integers(1, 9))
def test_shards_are_disjoint_and_together_the_whole(said: list[Any], of: int) -> None:
    import tempfile

    text = 'data = "phantom"\nrecipe = "tiny"\n' + "".join(
        f"[[grid]]\nmethods = {m}\ntasks = {t}\nseeds = {s}\nfractions = {f}\n{more}"
        for m, t, s, f, more in said
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        read, again = suite(path, text), suite(path, text)
        whole = cells(read.requests(base(path)))
        assert len(whole) == len(set(whole)), "a cell is asked for once"
        parts = [read.shard(number, of) for number in range(1, of + 1)]
        assert parts == [again.shard(number, of) for number in range(1, of + 1)]
        found = [cells(part.requests(base(path))) for part in parts]
        assert Counter(cell for part in found for cell in part) == Counter(whole)
        # A pretraining is a method at a seed with its settings; of a checkpoint all seeds are one encoder.
        encoders = [{(m, c, o, None if c else s) for m, c, o, _, _, s in part} for part in found]
        assert sum(map(len, encoders)) == len(set().union(*encoders))
        assert max(map(len, encoders)) - min(map(len, encoders)) <= 1


# The command line.


pytestmark = pytest.mark.usefixtures("medbench_home")


def medbench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """Requests that reach the runner, which does nothing."""
    reached: list[RunRequest] = []

    def run_none(requests: tuple[RunRequest, ...], catalogue: object) -> RunOutcome:
        reached.extend(requests)
        return RunOutcome(errors=[DataError("planted")] if "broken" in str(requests[0].results) else [])

    monkeypatch.setattr("medbench.runner.run_all", run_none)
    monkeypatch.setattr("medbench.memory.keep_freed_memory", lambda: True)
    return reached


def test_flags_take_a_part_and_say_where_and_how(
    asked: list[RunRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.toml").write_text(SMALL + "seeds = [0, 1]\n")
    monkeypatch.setenv("MEDBENCH_DATA", "/data")  # of other runs: these are on phantoms
    how = ("--device", "cpu", "--output", tmp_path / "out", "--overwrite", "--no-resume", "-q")
    done = medbench("run", "--suite", tmp_path / "s.toml", *how, "-m", "clip", "--shard", "2/2")
    assert done.exit_code == 0, done.output
    (request,) = asked
    assert cells((request,))[0][-1] == 1 and request.methods == ("clip",)
    assert (request.results, request.device, request.resume) == (tmp_path / "out", "cpu", False)
    assert request.overwrite and request.quiet and request.data_root is None
    assert "left out" not in done.stderr
    done = medbench("run", "--suite", tmp_path / "s.toml")
    assert "left out: rsna_zs (random does not provide embedding, text.pooled)" in done.stderr


@pytest.mark.parametrize(
    "flag", [("--recipe", "tiny"), ("--set", "a=1"), ("--checkpoint", "x"), ("--split", "x")]
)
def test_what_is_measured_the_suite_says(
    flag: tuple[str, str], asked: list[RunRequest], tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text(SMALL)
    done = medbench("run", "--suite", tmp_path / "s.toml", *flag)
    assert done.exit_code == 2 and f"{flag[0]}: what is measured, the suite says." in done.stderr


def test_exit_codes_of_a_suite(asked: list[RunRequest], tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SMALL)
    assert medbench("run", "--suite", tmp_path / "s.toml", "--shard", "1/2").exit_code == 0
    for verb in ("run", "plan"):
        done = medbench(verb, "--suite", tmp_path / "s.toml", "--shard", "3/3")
        assert done.exit_code == 0 and "nothing is in shard 3/3 of" in done.stdout
    assert medbench("run", "--suite", tmp_path / "s.toml", "--output", tmp_path / "broken").exit_code == 3
    done = medbench("run", "-m", "clip", "-t", "rsna_lp", "--shard", "1/2")
    assert done.exit_code == 2 and "give it with --suite FILE" in done.stderr


# The suites of the repository.


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_committed_suites_can_be_read(path: Path, tmp_path: Path) -> None:
    read = read_suite(path, CATALOGUE)
    assert read.requests(base(tmp_path))


def test_the_phantom_suite_is_every_method_on_a_task_of_each_family(tmp_path: Path) -> None:
    read = read_suite(REPOSITORY / "suites" / "phantom.toml", CATALOGUE)
    assert {e.method for e in read.encoders} == set(TRAINED)
    assert len(read.encoders) == 33
    found = cells(read.requests(base(tmp_path)))
    dual = [name for name in TRAINED if "embedding" in CATALOGUE.methods[name].provides]
    assert len(found) == 3 * (11 * (3 + 3 + 3 + 3 + 3) + 2 * len(dual))
    assert {request.fractions for request in read.requests(base(tmp_path))} == {(0.01, 0.1, 1.0)}


def test_the_published_matrix_has_every_method() -> None:
    read = read_suite(REPOSITORY / "suites" / "paper.toml", CATALOGUE)
    assert {e.method for e in read.encoders} == set(CATALOGUE.methods) - {
        "released"
    }  # which is anybody's file
    assert {e.checkpoint for e in read.encoders if CATALOGUE.methods[e.method].released_only} == {
        f"released/{name}"
        for name, spec in CATALOGUE.methods.items()
        if spec.released_only and name != "released"
    }


def test_the_suite_of_real_films_is_what_the_script_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    script = importlib.import_module("real_films")
    read = read_suite(REPOSITORY / "suites" / "real_films.toml", CATALOGUE)
    asked = set()
    for part in script.PARTS:
        words = shlex.split(part.words)
        typed = get_command(app).commands["run"].make_context("run", words).params  # type: ignore[attr-defined]
        assert typed["corpus"] in (None, read.corpus)
        for method, task in product(*(",".join(typed[key]).split(",") for key in ("method", "task"))):
            asked.add((method, None, (), task, 1.0, 0))
    assert set(cells(read.narrowed(CATALOGUE, seeds=[0]).requests(base(tmp_path)))) == asked


@pytest.mark.parametrize("name", ["phantom", "real_films", "paper"])
def test_the_page_says_how_large_a_suite_is(name: str, tmp_path: Path) -> None:
    read = read_suite(REPOSITORY / "suites" / f"{name}.toml", CATALOGUE)
    page = (REPOSITORY / "docs" / "suites.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `suites/{name}.toml`")]
    assert f"{len(cells(read.requests(base(tmp_path)))):,} cells" in row
    trained = [e for e in read.encoders if e.checkpoint is None and CATALOGUE.methods[e.method].pretrains]
    if name != "real_films":
        assert f"{len(trained)} pretrainings" in row


def test_the_fields_of_a_suite_are_described() -> None:
    page = (REPOSITORY / "docs" / "suites.md").read_text()
    for name in File.model_fields:
        assert re.search(rf"^\|[^|]*`{name}`", page, flags=re.MULTILINE), name


@pytest.mark.parametrize(
    "block",
    re.findall(r"^```toml\n(.*?)^```", (REPOSITORY / "docs" / "suites.md").read_text(), flags=re.M | re.S),
)
def test_the_suite_of_the_page_can_be_read(block: str, tmp_path: Path) -> None:
    assert len(cells(suite(tmp_path, block).requests(base(tmp_path)))) == 3 * 3 * 2 * 2 + 3


def test_the_plan_of_the_published_matrix_says_what_is_missing(tmp_path: Path) -> None:
    done = medbench(
        "plan", "--suite", REPOSITORY / "suites" / "paper.toml", "-m", "medclip,random", "-t", "rsna_*"
    )
    assert done.exit_code == 3
    assert "Get it from https://www.rsna.org/" in done.stdout
    assert "--checkpoint released/medclip: looked for" in done.stdout
    assert "medbench weights import FILE --method medclip --out released/medclip" in done.stdout
    assert re.search(r"random +\d+ +0 +0 +\d+ +0 +\d+ never timed", done.stdout)
    assert "GPU hours" not in done.stdout  # neither is pretrained
    assert "left out: rsna_zs (random, medclip do not provide embedding, text.pooled)" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ([60.0, 240.0], "2 of 2 cells to do; about 5 min (by earlier runs here"),
        ([300.0, None], "2 of 2 cells to do; at least 5 min (by earlier runs here"),
        ([300.0, None], "; 1 part never timed"),
        ([None, None], "2 of 2 cells to do; 2 parts never timed"),
    ],
)
def test_a_plan_promises_no_more_than_it_knows(seconds: list[float | None], said: str) -> None:
    states = tuple(CellState("clip", "", "t", 1.0, seed, "to do", own) for seed, own in enumerate(seconds))
    assert said in Plan((), (), states, ()).text()


def test_a_plan_estimates_what_was_never_timed_and_says_what_it_assumes() -> None:
    weights = (
        WeightsState("mgca", "", 0, "to pretrain", None, 30.0),
        WeightsState("mgca", "", 1, "to pretrain", None, 30.0),
        WeightsState("clip", "", 0, "to pretrain", 60.0),
        WeightsState("mine", "", 0, "to pretrain", None),
    )
    text = Plan((), weights, (), (), (), pairs=212_345).text()
    assert (
        "2 of 3 pretrainings never timed: about 60 GPU hours for the 212,345 pairs of the corpus; an est"
        in text
    )
    assert "one A100 (312 TFLOP/s in bf16) of which 30% is assumed to be reached" in text
    assert "Not in it: cells, mine" in text
    text = Plan((), weights[:1], (), (), ()).text()
    assert (
        "1 of 1 pretrainings never timed: about 30 GPU hours for every 100,000 pairs of the corpus, which"
        in text
    )
    assert "GPU hours" not in Plan((), weights[2:], (), (), ()).text()


def test_gpu_hours_are_operations_over_what_a_gpu_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cost.PRETRAIN_GFLOP, ("mine", "paper"), 93.6)
    assert cost.gpu_hours("mine", "paper", 10, 36_000) == pytest.approx(0.1)  # 93.6 GFLOP in a millisecond
    assert cost.gpu_hours("mine", "tiny", 10, 36_000) is None


def test_operations_were_counted_of_methods_that_there_are() -> None:
    for name, recipe in cost.PRETRAIN_GFLOP:
        assert CATALOGUE.methods[name].pretrains
        assert recipe in CATALOGUE.load("methods", name).recipes


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Path]:
    """The quick suite, and a folder with its cache and, in `results`, its records."""
    folder = tmp_path_factory.mktemp("micro")
    read = read_suite(REPOSITORY / "suites" / "micro.toml", CATALOGUE)
    assert not run_all(read.requests(base(folder)), CATALOGUE).failed
    return read, folder


def contents(results: Path) -> dict[str, Any]:
    """Files of a results folder, records without their times."""
    found: dict[str, Any] = {}
    for path in sorted(results.rglob("*.json")):
        found[str(path.relative_to(results))] = {
            k: v for k, v in json.loads(path.read_text()).items() if k != "times"
        }
    return found


def test_a_suite_that_is_done_is_not_done_again(micro: tuple[Suite, Path]) -> None:
    read, folder = micro
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    outcome = run_all(read.requests(base(folder)), CATALOGUE)
    assert not outcome.failed and not outcome.errors
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == before
    assert sorted(record.cell_id for record in outcome.records) == sorted(
        record.cell_id for record in ResultStore(folder / "results").records()
    )


def test_the_cells_that_are_planned_are_the_cells_that_are_recorded(
    micro: tuple[Suite, Path], tmp_path: Path
) -> None:
    read, folder = micro
    recorded = Counter(
        (i.method, i.task, i.fraction, i.seed)
        for i in (r.identity for r in ResultStore(folder / "results").records())
    )
    for results, state in ((folder / "results", "done"), (tmp_path, "to ")):
        planned = plan(read.requests(base(folder, results=results)), CATALOGUE)
        assert Counter((c.method, c.task, c.fraction, c.seed) for c in planned.cells) == recorded
        assert all(cell.state.startswith(state) for cell in planned.cells)
        assert not planned.missing
        assert sum(method.cells for method in planned.methods) == len(planned.cells)
    fresh = plan(read.requests(base(tmp_path)), CATALOGUE)  # before there is any film
    assert Counter((c.method, c.task, c.fraction, c.seed) for c in fresh.cells) == recorded


def test_shards_of_several_machines_are_the_whole(micro: tuple[Suite, Path], tmp_path: Path) -> None:
    read, folder = micro
    whole = tmp_path / "whole"
    for number in (1, 2):
        own = tmp_path / f"machine-{number}"
        run_all(
            read.shard(number, 2).requests(base(tmp_path, results=own, cache=folder / "cache")), CATALOGUE
        )
        assert 0 < len(contents(own)) < len(contents(folder / "results"))
        shutil.copytree(own, whole, dirs_exist_ok=True)
    assert contents(whole) == contents(folder / "results")
    # The same cells of yet another machine: the copies that come last stay, whole.
    shutil.copytree(folder / "results", whole, dirs_exist_ok=True)
    store = ResultStore(whole)
    for path, record in zip(store.files(), store.records(), strict=True):
        assert len(read_predictions(path, record)) == record.counts.test
    assert [r.times for r in store.records()] == [r.times for r in ResultStore(folder / "results").records()]


def test_a_request_that_stops_costs_itself_alone(
    micro: tuple[Suite, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, folder = micro
    from medbench.runner import Runner

    begin = Runner.begin

    def stopped(runner: Runner) -> None:
        if runner.request.methods == ("random",):
            raise DataError("planted")
        begin(runner)

    monkeypatch.setattr(Runner, "begin", stopped)
    outcome = run_all(read.requests(base(folder)), CATALOGUE)
    assert {str(error) for error in outcome.errors} == {"planted"}
    assert {record.identity.method for record in outcome.records} == {"clip"}


def test_nothing_is_computed_before_all_is_checked(micro: tuple[Suite, Path], tmp_path: Path) -> None:
    read = suite(
        tmp_path, SMALL + '[[grid]]\nmethods = "random"\n[[grid]]\ncheckpoint = "nowhere"\nmethods = "clip"\n'
    )
    with pytest.raises(Exception, match="--checkpoint nowhere: looked for"):
        run_all(read.requests(base(tmp_path, cache=micro[1] / "cache")), CATALOGUE)
    assert not (tmp_path / "results").exists()
