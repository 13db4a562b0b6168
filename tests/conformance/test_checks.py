"""Every check finds the bugs that are planted for it, and the example plugin has none."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.conformance import kit
from medbench.conformance.check import Failed, NotApplicable, Outcome, perform
from medbench.plugins import Catalogue

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "tests" / "plugin_example"

BUGS: Mapping[kit.CheckedKind, Mapping[str, str]] = {
    "methods": {
        "docs": "no docstring of planted_methods:bug_method_docs",
        "declaration": "expected also paper",
        "shapes": "embed_text of lengths up to",
        "shapes__pyramid": "the map at stride 2 of shape (8, 16, 16, 16)",
        "dtypes": "found pooled of torch.float64",
        "preprocessing": "mean (123.7, 123.7, 123.7)",
        "preprocessing__scale": "within -20 and 20",
        "determinism": "two forward passes of one model in eval mode that differ in pooled",
        "determinism__build": "two builds with one seed that differ in model.image_head.bias",
        "batch_invariance": "another pooled feature of a film alone than in a batch",
        "padding": "another text pooled feature",
        "modes": "in eval mode after encode_image; expected the mode before it, training",
        "modes__train": "model.stages in training mode after eval()",
        "frozen": "a gradient of pooled",
        "frozen__changes": "model.mean, which encoding in eval mode changed",
        "gradients": "can not be fine-tuned",
        "device_moves": "the attribute model.weights, which is no parameter and no buffer, in mul at",
        "device_moves__made": "a tensor of shape (8,), in cross_entropy at",
        "training_step": "that differs in loss contrast",
        "training_step__nan": "the loss extra of nan",
        "round_trip": "off after saving and loading",
        "round_trip__queue": "the loss contrast",
        "gather": "in two processes",
        "end_to_end": "shape",
    },
    "tasks": {
        "declaration": "the split 'mgca_dett'",
        "docs": "no reference",
        "metrics": "auroc as the first metric; expected map",
        "metrics__direction": "auroc with higher_is_better=True; expected False",
        "recompute": "another auroc from predictions that were written and read again",
        "bounds": "auroc 0.000 of a perfect predictor",
        "determinism": "that differ in score_pneumonia",
        "fractions": "expected rising numbers in (0, 1]",
        "fractions__films": "no prediction of 1 of 30 test films",
        "unseen_labels": "score_pneumonia, which changes where labels of films",
        "positives": "positives of int64",
        "end_to_end": "random on bug_task_end_to_end failed (NotRecordable:",
    },
    "datasets": {
        "declaration": "no splits",
        "docs": "the summary ''",
        "access": "no licence",
        "index": "the sample 1.png twice",
        "index__sizes": "expected 7 bytes, as `bytes` says",
        "images": "0.png",
        "splits": "1 patients are in both train and val",
        "repeatable": "other rows when the folder is read again",
        "reports": "0 reports without a sentence",
        "phantom": "another twin when it is written again",
        "missing_file": "though 0.png is gone",
    },
}
"""Of the bugs in planted_*.py, by the check that has to find each: words of what it says."""

CASES = [pytest.param(kind, bug, id=f"{kind}-{bug}") for kind, bugs in BUGS.items() for bug in bugs]
PREFIXES = {"methods": "bug_method_", "tasks": "bug_task_", "datasets": "bug_data_"}


def outcome(kind: kit.CheckedKind, check: str, name: str, catalogue: Catalogue, folder: Path) -> Outcome:
    [body] = [each for each in kit.checks_of(kind) if each.__name__ == check]
    subject = kit.subject_of(catalogue, kind, name, folder, {})
    return perform(body, subject, kind[:-1], name)


@pytest.mark.parametrize("kind", kit.KINDS)
def test_every_check_has_a_bug_to_find(kind: kit.CheckedKind, planted: Catalogue) -> None:
    names = {name for name in planted.specs(kind) if name.startswith(PREFIXES[kind])}
    assert {PREFIXES[kind] + bug for bug in BUGS[kind]} == names
    checks = [check.__name__ for check in kit.checks_of(kind)]
    assert {bug.partition("__")[0] for bug in BUGS[kind]} == set(checks)
    assert len(set(checks)) == len(checks)


@pytest.mark.parametrize(("kind", "bug"), CASES)
def test_the_bug_is_found(kind: kit.CheckedKind, bug: str, planted: Catalogue, folder: Path) -> None:
    found = outcome(kind, bug.partition("__")[0], PREFIXES[kind] + bug, planted, folder)
    assert found.status == "failed", found
    assert BUGS[kind][bug] in found.what


def test_a_method_that_gathers_is_held_against_one_process(planted: Catalogue, folder: Path) -> None:
    found = outcome("methods", "gather", "gathers", planted, folder)
    assert found.status == "passed", found


def test_a_sound_dataset_passes(planted: Catalogue, folder: Path) -> None:
    found = list(kit.check(planted, [("datasets", "sound_data")], folder, {}))
    assert {each.status for each in found if each.check != "reports"} == {"passed"}, found


def test_the_example_passes_all_checks_as_the_verb_runs_them(
    monkeypatch: pytest.MonkeyPatch, medbench_home: Path
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    arguments = ["plugins", "check", "--plugin", "medbench_example", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    found = [Outcome(**each) for each in json.loads(done.stdout)]
    names = [("method", "example_method", "methods"), ("task", "example_task", "tasks")]
    ran = [
        (kind, name, check.__name__)
        for kind, name, kinds in names
        for check in kit.checks_of(kinds)  # type: ignore[arg-type]
    ]
    assert [(each.kind, each.name, each.check) for each in found] == ran
    assert [each for each in found if each.status == "failed"] == []
    [beside] = [each for each in found if each.status == "not applicable"]
    assert beside.check == "gather" and "ExampleConfig has no field `gather`" in beside.what
    assert done.exit_code == 0
    assert not list(medbench_home.rglob("weights"))  # nothing that a check made is found by a run


def test_a_check_that_failed_is_a_line_and_exit_code_5(
    monkeypatch: pytest.MonkeyPatch, medbench_home: Path
) -> None:
    def sound(subject: object) -> str:
        return "all is well"

    def beside(subject: object) -> str:
        raise NotApplicable("there is none")

    def broken(subject: object) -> str:
        raise Failed("one", "two", "Add one.")

    def raises(subject: object) -> str:
        raise KeyError("film")

    monkeypatch.setattr(kit, "checks_of", lambda kind: (sound, beside, broken, raises))
    done = CliRunner().invoke(app, ["plugins", "check", "random", "--no-plugins"], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert lines[0] == "passed          method random: sound: all is well"
    assert lines[1] == "not applicable  method random: beside: there is none"
    assert lines[2] == "failed          method random: broken: found one; expected two. Add one."
    assert re.fullmatch(
        rf"failed          method random: raises: found KeyError: 'film' \({re.escape(__file__)}:\d+\); "
        "expected no error. Mend what raises it",
        lines[3],
    )
    assert lines[4:] == ["4 checks: 1 passed, 2 failed, 1 not applicable"]
    assert done.exit_code == 5


def test_names_that_are_none(medbench_home: Path) -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["plugins", "check", "--no-plugins", *arguments])
        assert done.exit_code == 2
        return done.stderr

    assert "No method, task or dataset is called 'randon'. Did you mean 'random'?" in said("randon")
    assert "No plugin adds a method, a task or a dataset." in said()


def test_the_same_checks_as_tests(monkeypatch: pytest.MonkeyPatch, medbench_home: Path) -> None:
    monkeypatch.setenv("MEDBENCH_PLUGINS", "medbench_example")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(EXAMPLE), *filter(None, sys.path)]))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "medbench.conformance.pytest_options",
        "-p",
        "no:cacheprovider",
    ]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=300, check=False
        )

    kept = ("--task", "example_task", "-v", "-k", "docs or declaration")
    done = run("--pyargs", "medbench.conformance", *kept)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[example_task-declaration] PASSED" in done.stdout
    assert "[example_task-docs] PASSED" in done.stdout
    assert "2 passed, 8 deselected" in done.stdout
    unknown = run("--pyargs", "medbench.conformance", "--method", "example_metod")
    assert unknown.returncode == 2
    assert "Did you mean 'example_method'?" in unknown.stdout + unknown.stderr
    without = run("--method", "example_method", "tests/test_seeding.py")
    assert without.returncode == 4
    assert "unrecognized arguments: --method" in without.stderr


@pytest.mark.parametrize("kind", kit.KINDS)
def test_the_page_names_every_check_in_its_order(kind: kit.CheckedKind) -> None:
    page = (REPOSITORY / "docs" / "conformance.md").read_text()
    section = page.split(f"## A {kind[:-1]}\n")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert named == [check.__name__ for check in kit.checks_of(kind)]
