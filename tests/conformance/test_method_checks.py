"""Every check finds the bug that is planted for it, and leaves the sound method alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medbench.conformance.check import Outcome, perform
from medbench.conformance.method_checks import CHECKS
from medbench.conformance.method_subject import MethodSubject
from medbench.plugins import Catalogue, load_catalogue

HERE = Path(__file__).resolve().parent
BY_NAME = {check.__name__: check for check in CHECKS}
BUGS = {
    "docs": "no docstring of planted:bug_docs",
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
}
"""Of the bugs in planted.py, by the check that has to find each: words of what it says."""


@pytest.fixture(scope="module")
def catalogue() -> Iterator[Catalogue]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE.parent / "plugin_example"))
        yield load_catalogue((str(HERE / "planted.py"), "medbench_example"), third_party=False)
    for name in [name for name in sys.modules if name.split(".")[0] in ("planted", "medbench_example")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


def outcome(check: str, name: str, catalogue: Catalogue, folder: Path) -> Outcome:
    subject = MethodSubject(catalogue.lookup_method(name), catalogue, folder)
    return perform(BY_NAME[check], subject, "method", name)


def test_every_check_has_a_bug_to_find(catalogue: Catalogue) -> None:
    assert {f"bug_{name}" for name in BUGS} | {"sound", "gathers", "example_method"} == {
        name for name in catalogue.methods if catalogue.owner("methods", name).name != "medbench"
    }
    assert {name.partition("__")[0] for name in BUGS} == set(BY_NAME)


@pytest.mark.parametrize("bug", BUGS)
def test_the_bug_is_found(bug: str, catalogue: Catalogue, folder: Path) -> None:
    found = outcome(bug.partition("__")[0], f"bug_{bug}", catalogue, folder)
    assert found.status == "failed", found
    assert BUGS[bug] in found.what


@pytest.mark.parametrize("check", [name for name in BY_NAME if name != "gather"])
def test_a_sound_method_passes(check: str, catalogue: Catalogue, folder: Path) -> None:
    found = outcome(check, "example_method", catalogue, folder)
    assert found.status == "passed", found


def test_a_method_that_gathers_is_held_against_one_process(catalogue: Catalogue, folder: Path) -> None:
    found = outcome("gather", "gathers", catalogue, folder)
    assert found.status == "passed", found
    without = outcome("gather", "example_method", catalogue, folder)
    assert without.status == "not applicable"
    assert "ExampleConfig has no field `gather`" in without.what
