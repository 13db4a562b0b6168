"""Prompt files: what the shipped ones hold, and which mistakes in one are answered."""

import sys
from pathlib import Path

import pytest

from medbench.errors import UsageError
from medbench.protocols.prompts import read_prompts
from medbench_tasks import medbench_tasks

SHIPPED = {
    spec.name: (spec.given["prompts"], spec.given.get("classes"))
    for spec in medbench_tasks()
    if "prompts" in spec.given
}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_prompts_have_a_source_and_are_there_for_every_class(name: str) -> None:
    where, classes = SHIPPED[name]
    prompts = read_prompts(where)
    assert len(prompts.source) >= len("medbench")
    everywhere = []
    for label in classes or ("any_label",):
        scored, pool = prompts.scored(label), prompts.pool(label)
        for part in (scored.present, scored.absent, pool.present, pool.absent):
            assert len(set(part)) == len(part)
            assert all(text == text.lower().strip() and "{" not in text for text in part)
        assert scored.present and bool(scored.absent) == (not prompts.exclusive)
        assert set(scored.present) <= set(pool.present) and set(scored.absent) <= set(pool.absent)
        assert len(pool.present) > 5  # something to draw from
        everywhere += [*pool.present, *pool.absent]
    assert len(set(everywhere)) == len(everywhere)  # no prompt speaks for two classes


def test_the_combinations_of_gloria() -> None:
    prompts = read_prompts("medbench_tasks:prompts/chexpert_5x200.toml")
    assert prompts.exclusive and prompts.ensemble == "max"
    names = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
    # 54 of the last are released, 18 of them given twice.
    assert [len(prompts.scored(name).present) for name in names] == [210, 15, 192, 18, 36]
    assert "mild linear atelectasis at the left lung base" in prompts.scored("atelectasis").present
    assert "small left subpulmonic pleural effusion" in prompts.scored("pleural_effusion").present
    assert prompts.pool("edema") == prompts.scored("edema")


def test_the_pair_of_chexzero_and_the_phrases_of_biovil() -> None:
    pairs = read_prompts("medbench_tasks:prompts/pairs.toml").scored("pleural_thickening")
    assert (pairs.present, pairs.absent) == (("pleural thickening",), ("no pleural thickening",))
    phrases = read_prompts("medbench_tasks:prompts/pneumonia.toml").scored("pneumonia")
    assert len(phrases.present) == len(phrases.absent) == 4
    assert "no evidence of acute pneumonia" in phrases.absent


GOOD = 'source = "x"\nensemble = "max"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD, "either"),
        (GOOD + 'words.a = {p = ["b"]}\ntemplates = {present = ["{}"], absent = ["no {}"]}', "either"),
        ('ensemble = "max"\nwords.a = {p = ["b"]}', "expected a source"),
        ('source = "x"\nensemble = "median"\nwords.a = {p = ["b"]}', "expected max or mean"),
        (GOOD + 'words.a = {p = ["b", "B."]}', "a has 'b' more than once"),
        (GOOD + "words.a = {p = []}", "a has no prompt"),
        (GOOD + 'words.a = {p = ["", "b"], q = [""]}', "an empty one"),
        (GOOD + 'templates = {present = ["yes"], absent = ["no {}"]}', "found 'yes'"),
        (GOOD + 'templates = {present = ["{}"]}', "present and absent, found present"),
        (GOOD + 'words.a = {p = ["b"]}\nfoo = 1', "unknown keys foo"),
        ("= 3", "Invalid"),
    ],
)
def test_mistakes_are_named(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / f"prompts_{abs(hash(text))}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "p.toml").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UsageError, match=said):
        read_prompts(f"{package.name}:p.toml")


def test_a_file_or_a_class_that_is_not_there() -> None:
    for where in ("medbench_tasks:prompts/none.toml", "no_such_package:p.toml"):
        with pytest.raises(UsageError, match="can not be read"):
            read_prompts(where)
    with pytest.raises(UsageError, match=r"no prompts for the class 'fracture'.*atelectasis"):
        read_prompts("medbench_tasks:prompts/chexpert_5x200.toml").scored("fracture")
