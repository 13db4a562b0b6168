import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from medbench.errors import UsageError
from medbench.method import Setup
from medbench_methods.modules import masked_language
from medbench_methods.modules.masked_language import (
    ABOUT,
    TENSORS,
    TIMED,
    TOKENIZER,
    _batches,
    _disguise,
    _rate,
    pick_words,
)
from medbench_methods.modules.text_encoder import TextConfig, TextEncoder, build_text

SIDES, FINDINGS, SIZES = (
    ("left", "right"),
    ("effusion", "opacity", "atelectasis"),
    ("small", "moderate", "large"),
)
REPORTS = [
    [
        f"there is a {size} {side} pleural {finding}",
        f"heart size is {'normal' if side == 'left' else 'enlarged'}",
    ]
    for size in SIZES
    for side in SIDES
    for finding in FINDINGS
] * 2 + [["no change"]]
CONFIG = TextConfig(
    text_encoder="scratch",
    text_layers=1,
    text_width=32,
    text_heads=4,
    text_vocabulary=70,  # small, so that words fall into pieces
    text_max_tokens=40,
    text_dropout=0.1,
    text_mlm_epochs=2,
    text_mlm_batch=8,
)


def build(config: TextConfig = CONFIG, **setup: Any) -> dict[str, torch.Tensor]:
    encoder, _ = build_text(config, REPORTS, Setup(**setup))
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one | two)


def only(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def test_hidden_words_are_told_better_afterwards(tmp_path: Path) -> None:
    lines: list[str] = []
    config = dataclasses.replace(CONFIG, text_mlm_epochs=25, text_mlm_lr=5e-3, text_dropout=0.0)
    build(config, store=tmp_path, say=lines.append)
    about = json.loads((only(tmp_path) / ABOUT).read_text())
    assert about["accuracy_after"] > about["accuracy_before"] + 0.2
    assert about["loss_of_last_epoch"] < 2.5  # of log(vocabulary), 4.2
    assert (about["reports"], about["trained_reports"], about["epochs"]) == (len(REPORTS), len(REPORTS), 25)
    assert len(lines) == 1
    assert lines[0].startswith(f"text encoder: masked words of {len(REPORTS)} reports, 25 epochs, ")
    assert "% of the hidden words told before" in lines[0]


def test_found_is_what_was_made_bit_for_bit(tmp_path: Path) -> None:
    lines: list[str] = []
    made = build(store=tmp_path, say=lines.append)
    before = (only(tmp_path) / ABOUT).stat().st_mtime_ns
    assert equal(build(store=tmp_path, say=lines.append), made)
    assert (only(tmp_path) / ABOUT).stat().st_mtime_ns == before
    assert lines[1].startswith("text encoder: found, masked words of ")
    found = Setup(store=tmp_path)
    build_text(CONFIG, REPORTS, found)
    assert found.times == {TIMED: json.loads((only(tmp_path) / ABOUT).read_text())["seconds"]}
    assert equal(build(), made)  # without a store
    _, tokenizer = build_text(CONFIG, REPORTS, Setup(store=tmp_path))
    _, fresh = build_text(CONFIG, REPORTS, Setup())
    assert tokenizer.to_bytes() == fresh.to_bytes()


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    for setup in (Setup(), Setup(store=tmp_path), Setup(store=tmp_path)):
        torch.manual_seed(5)
        build_text(CONFIG, REPORTS, setup)
        assert torch.equal(torch.rand(3), wanted)
    torch.manual_seed(6)  # and it decides nothing
    assert equal(build(), build(store=tmp_path))


def test_what_it_depends_on_is_in_the_key_and_nothing_else(tmp_path: Path) -> None:
    first = build(store=tmp_path)
    for other in (
        dataclasses.replace(CONFIG, text_pooling="mean"),
        dataclasses.replace(CONFIG, text_frozen_layers=1),
    ):
        assert equal(build(other, store=tmp_path), first)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    for changes, setup in (
        ({}, {"seed": 1}),
        ({"text_mlm_epochs": 1}, {}),
        ({"text_mlm_share": 0.3}, {}),
        ({"text_mlm_lr": 1e-3}, {}),
        ({"text_dropout": 0.0}, {}),
    ):
        assert not equal(build(dataclasses.replace(CONFIG, **changes), store=tmp_path, **setup), first)
    build_text(CONFIG, REPORTS[:-1], Setup(store=tmp_path))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 7


def test_methods_share_it(tmp_path: Path) -> None:
    from medbench_methods.clip import Clip
    from medbench_methods.place import Place

    lines: list[str] = []
    setup = Setup(offline=True, store=tmp_path, say=lines.append)
    states = [
        method.from_corpus(method.recipes["micro"].config, REPORTS, setup).model.text_encoder.state_dict()
        for method in (Clip, Place)
    ]
    assert equal(*states)
    assert ["found" in line for line in lines] == [False, True]


def test_without_epochs_nothing_is_trained_or_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    torch.manual_seed(0)
    build(dataclasses.replace(CONFIG, text_mlm_epochs=0), store=tmp_path, say=lines.append)
    assert list(tmp_path.iterdir()) == []
    assert lines == []


@pytest.mark.parametrize("name", [TENSORS, TOKENIZER, ABOUT])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_made_again_and_said(tmp_path: Path, name: str, damage: str) -> None:
    lines: list[str] = []
    made = build(store=tmp_path)
    file = only(tmp_path) / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else content[:-9] + b"???" + content[-6:])
    assert equal(build(store=tmp_path, say=lines.append), made)
    assert "it is made again" in lines[0]
    assert lines[1].startswith("text encoder: masked words of ")
    if name != ABOUT:  # it holds the seconds that it took
        assert file.read_bytes() == content
    assert equal(build(store=tmp_path, say=lines.append), made)
    assert "found" in lines[2]


@pytest.mark.parametrize("place", ["save_file", "write_atomic", "sha256_file"])
def test_interrupted_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(masked_language, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(store=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert equal(build(store=tmp_path), build())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    build(store=tmp_path)
    name = only(tmp_path).name
    only(tmp_path).rename(tmp_path / f"{name}.1.tmp")
    build(store=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [name]


def _build_in(store: Path) -> None:
    torch.set_num_threads(1)
    build(store=store)


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build_in, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert equal(build(store=tmp_path), build())


def test_words_are_hidden_with_all_their_pieces() -> None:
    _, tokenizer = build_text(dataclasses.replace(CONFIG, text_mlm_epochs=0), REPORTS, Setup())
    text = tokenizer(REPORTS * 20)
    hidden = pick_words(text.word, 0.3, torch.Generator().manual_seed(0))
    words = pieces = hidden_words = 0
    for b in range(len(text.ids)):
        for w in range(int(text.word[b].max()) + 1):
            of_the_word = hidden[b, text.word[b] == w]
            assert of_the_word.all() or not of_the_word.any()
            words, hidden_words = words + 1, hidden_words + int(of_the_word[0])
            pieces += len(of_the_word) > 1
    assert pieces > 0
    assert hidden_words / words == pytest.approx(0.3, abs=0.03)
    assert not hidden[text.word < 0].any()
    assert pick_words(text.word, 1.0)[text.word >= 0].all()
    assert not pick_words(text.word, 0.0).any()


def test_hidden_words_are_shown_as_bert_shows_them() -> None:
    _, tokenizer = build_text(dataclasses.replace(CONFIG, text_mlm_epochs=0), REPORTS, Setup())
    text = tokenizer(REPORTS * 20)
    draw = torch.Generator().manual_seed(0)
    assert tokenizer.mask_id is not None
    hidden = pick_words(text.word, 0.5, draw)
    shown = _disguise(text, hidden, tokenizer.mask_id, len(tokenizer), draw)
    assert torch.equal(shown[~hidden], text.ids[~hidden])
    masked = (shown == tokenizer.mask_id)[hidden].float().mean().item()
    same = (shown == text.ids)[hidden].float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.03)
    assert same == pytest.approx(0.1, abs=0.03)
    assert shown[hidden].min() >= tokenizer.mask_id  # of the special tokens only [MASK]


def test_batches_hold_reports_of_one_length_and_every_report_once() -> None:
    lengths = torch.randint(5, 90, (500,), generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    first, second = _batches(lengths, 16, draw), _batches(lengths, 16, draw)
    assert torch.equal(torch.cat(first).sort().values, torch.arange(500))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert max(int(lengths[rows].max() - lengths[rows].min()) for rows in first) < 16


def test_the_rate_rises_and_falls() -> None:
    rates = [_rate(step, 50) for step in range(50)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert _rate(0, 1) == 1


def test_what_can_not_be_done_is_refused() -> None:
    for field, value in (("epochs", -1), ("share", 0.0), ("share", 1.5), ("lr", 0.0), ("batch", 0)):
        with pytest.raises(UsageError, match=f"text_mlm_{field} is {value}; expected"):
            build(dataclasses.replace(CONFIG, **{f"text_mlm_{field}": value}))
    with pytest.raises(UsageError, match=r"no report with a word to learn from.*text_mlm_epochs=0"):
        build_text(CONFIG, [[], [""]], Setup())


def test_the_encoder_is_left_as_a_fresh_one() -> None:
    encoder, _ = build_text(CONFIG, REPORTS, Setup())
    assert isinstance(encoder, TextEncoder)
    assert encoder.bert.training
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())
    assert all(p.device.type == "cpu" and p.dtype == torch.float32 for p in encoder.parameters())
