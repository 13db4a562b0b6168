"""Weights on disk: the same ones come back, or an error says why not."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medbench import weights as module
from medbench.errors import WeightsError
from medbench.method import Method, Recipe, Setup, from_disk
from medbench.model import ImageTextBatch, Preprocessing
from medbench.records import read_record
from medbench.weights import (
    config_json,
    content_on_disk,
    load,
    read_info,
    save,
    save_tensors,
    tensors_sha256,
    untrained,
)


@dataclass(frozen=True)
class Part:
    layers: int = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 3
    kind: Literal["a", "b"] = "a"
    betas: tuple[float, ...] = (0.9, 0.99)
    part: Part = field(default_factory=Part)
    other: Part | None = None


class Net(nn.Module):
    preprocessing = Preprocessing(size=4, resize=4)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.tied = nn.Linear(2, width)
        self.tied.weight = self.body[0].weight
        self.flat = nn.Parameter(torch.randn(4, 3).T)  # not contiguous


class Tiny(Method):
    recipes: Mapping[str, Recipe] = {"micro": Recipe(Config())}  # type: ignore[misc]

    def __init__(self, config: Config, vocabulary: bytes) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.model: Any = Net(config.width)

    @classmethod
    def from_corpus(cls, config: Any, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        return cls(config, repr(reports).encode())

    @classmethod
    def from_assets(cls, config: Any, assets: Mapping[str, bytes]) -> Self:
        return cls(config, assets["text/vocabulary.txt"])

    def assets(self) -> Mapping[str, bytes]:
        return {"text/vocabulary.txt": self.vocabulary}

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        raise NotImplementedError


CONFIG = Config(width=5, kind="b", betas=(0.5,), part=Part(7), other=Part(2))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Tiny, Path]:
    torch.manual_seed(0)
    method = Tiny(CONFIG, b"words")
    method.model.body[1].running_mean.normal_()
    save(method, tmp_path / "w", {"method": "tiny", "seed": 1})
    return method, tmp_path / "w"


def test_round_trip(saved: tuple[Tiny, Path]) -> None:
    method, folder = saved
    for path in (folder, folder / "weights.safetensors"):
        found = load(path, Tiny, "tiny")
        assert found.path == folder
        assert isinstance(found.method, Tiny)
        assert found.method.config == CONFIG
        assert found.method.vocabulary == b"words"
        assert not found.method.training
        assert found.info["seed"] == 1
        assert found.sha256 == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        before, after = method.state_dict(), found.method.state_dict()
        assert list(before) == list(after)
        assert "model.body.1.running_mean" in after
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["w"]


def test_same_weights_same_bytes(saved: tuple[Tiny, Path], tmp_path: Path) -> None:
    method, folder = saved
    again = save_tensors(method, tmp_path / "again.safetensors")
    assert again == read_info(folder)[1]["sha256"]
    assert tensors_sha256(method) == tensors_sha256(load(folder, Tiny, "tiny").method)
    method.model.flat.data[0, 0] += 1
    assert save_tensors(method, tmp_path / "again.safetensors") != again


def test_tensors_that_were_saved_before_are_taken_as_they_are(
    saved: tuple[Tiny, Path], tmp_path: Path
) -> None:
    method, _ = saved
    sha256 = save_tensors(method, tmp_path / "best.safetensors")
    method.model.flat.data.zero_()
    assert save(method, tmp_path / "v", {"method": "tiny"}, tmp_path / "best.safetensors") == sha256
    assert load(tmp_path / "v", Tiny, "tiny").method.model.flat.abs().sum() > 0


def test_a_save_that_fails_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **named: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        save(Tiny(CONFIG, b""), tmp_path / "w", {"method": "tiny"})
    assert not (tmp_path / "w").exists()


def test_config_json_round_trips_through_json() -> None:
    plain = json.loads(json.dumps(config_json(CONFIG)))
    assert plain == {"width": 5, "kind": "b", "betas": [0.5], "part": {"layers": 7}, "other": {"layers": 2}}


def test_another_method(saved: tuple[Tiny, Path]) -> None:
    with pytest.raises(
        WeightsError, match=r"weights of the method `tiny`, asked for as `place`\. Use --method tiny"
    ):
        load(saved[1], Tiny, "place")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_flip, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_damaged_file(saved: tuple[Tiny, Path], damage: Callable[[Path], None]) -> None:
    damage(saved[1] / "weights.safetensors")
    with pytest.raises(
        WeightsError, match=r"weights\.safetensors: SHA-256 .*expected .*is damaged or not the one"
    ) as e:
        load(saved[1], Tiny, "tiny")
    assert e.value.exit_code == 4


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Other tensors, with a weights.json that knows them."""
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")
    _reinfo(folder, sha256=hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest())


def _reinfo(folder: Path, **changes: Any) -> None:
    info = json.loads((folder / "weights.json").read_text())
    (folder / "weights.json").write_text(json.dumps(info | changes))


def test_coverage_names_and_counts_what_does_not_fit(saved: tuple[Tiny, Path]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["model.tied.bias"], tensors["model.flat"]
        tensors["model.extra"] = torch.zeros(1)
        tensors["model.body.0.bias"] = torch.zeros(9)

    total = len(saved[0].state_dict())
    _rewrite(saved[1], change)
    with pytest.raises(WeightsError) as error:
        load(saved[1], Tiny, "tiny")
    text = str(error.value)
    assert f"{total - 3} of {total} tensors fit the model" in text
    assert "2 missing: model.flat, model.tied.bias" in text
    assert "1 unexpected: model.extra" in text
    assert "1 of another shape: model.body.0.bias (9,) for (5,)" in text


def test_long_lists_are_cut(saved: tuple[Tiny, Path]) -> None:
    _rewrite(saved[1], lambda tensors: tensors.update({f"extra{i}": torch.zeros(1) for i in range(8)}))
    with pytest.raises(WeightsError, match="8 unexpected: extra0, extra1, extra2, extra3, extra4 and 3 more"):
        load(saved[1], Tiny, "tiny")


def test_not_a_safetensors_file(saved: tuple[Tiny, Path]) -> None:
    path = saved[1] / "weights.safetensors"
    path.write_bytes(b"nonsense")
    _reinfo(saved[1], sha256=hashlib.sha256(b"nonsense").hexdigest())
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load(saved[1], Tiny, "tiny")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({**config_json(CONFIG), "depth": 3}, "unknown fields depth"),
        ({**config_json(CONFIG), "kind": "c"}, "Input should be 'a' or 'b'"),
        ({**config_json(CONFIG), "width": "wide"}, "valid integer"),
    ],
)
def test_config_of_another_version(saved: tuple[Tiny, Path], config: dict[str, Any], what: str) -> None:
    _reinfo(saved[1], config=config)
    with pytest.raises(WeightsError, match=f"(?s)its config is not one of Config in this version.*{what}"):
        load(saved[1], Tiny, "tiny")


def test_paths_that_hold_no_weights(saved: tuple[Tiny, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file or folder"):
        load(tmp_path / "nowhere", Tiny, "tiny")
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(
        WeightsError, match=r"model\.pth: expected weights\.safetensors.*\.pt, \.pth.*are not opened"
    ):
        load(tmp_path / "model.pth", Tiny, "tiny")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty: weights\.json and weights\.safetensors not found"):
        load(tmp_path / "empty", Tiny, "tiny")
    (saved[1] / "weights.json").unlink()
    with pytest.raises(WeightsError, match=r"w: weights\.json not found"):
        load(saved[1] / "weights.safetensors", Tiny, "tiny")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "method": 3, "sha256": "", "config": {}}', "{"]
)
def test_description_that_is_none(saved: tuple[Tiny, Path], text: str) -> None:
    (saved[1] / "weights.json").write_text(text)
    with pytest.raises(WeightsError, match=r"weights\.json: not readable as a description of weights"):
        load(saved[1], Tiny, "tiny")


def test_format_of_the_future(saved: tuple[Tiny, Path]) -> None:
    _reinfo(saved[1], format=2)
    with pytest.raises(WeightsError, match="format 2, this version of medbench reads format 1"):
        load(saved[1], Tiny, "tiny")


def test_untrained_depends_on_the_seed_alone() -> None:
    recipe = Tiny.recipes["micro"]
    first = untrained(Tiny, recipe, "tiny", 0)
    torch.rand(3)
    assert untrained(Tiny, recipe, "tiny", 0).sha256 == first.sha256 == tensors_sha256(first.method)
    assert untrained(Tiny, recipe, "tiny", 1).sha256 != first.sha256
    assert first.path is None
    assert not first.method.training
    assert first.info["config"] == config_json(Config())


@dataclass(frozen=True)
class Named:
    text_encoder: str | None = field(default="scratch", metadata=from_disk("scratch"))
    name: str = "a.txt"


@dataclass(frozen=True)
class Renamed(Named):
    text_encoder: str | None = "other"


def test_content_of_files_that_a_config_names_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "scratch"):
        Path(name).write_text("one")
    assert content_on_disk(Named()) == {}  # `scratch` stands for something else, `name` names no file
    assert content_on_disk(Named(None)) == content_on_disk(Named("nowhere")) == {}
    assert content_on_disk(Named("a.txt")).keys() == {"on_disk.text_encoder"}
    folder = tmp_path / "other" / "deep"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    seen = [content_on_disk(Renamed())]
    (folder / "config.json").write_text("{ }")
    seen.append(content_on_disk(Renamed()))
    (folder / "config.json").rename(folder / "conf.json")
    seen.append(content_on_disk(Renamed()))
    assert len({str(one) for one in seen}) == 3
    assert all(one for one in seen)


RESULTS = Path(__file__).resolve().parents[1] / "leaderboards" / "results" / "tiny"


@pytest.mark.parametrize(
    "name", ["clip", "convirt", "gloria", "mflag", "mgca", "mrm", "place", "reclf", "sista"]
)
def test_recipes_are_those_that_committed_records_were_made_with(name: str) -> None:
    """A field that is added must not take records from those who look for them."""
    from medbench.plugins import load_catalogue

    recipe = load_catalogue(third_party=False).load("methods", name).recipes["tiny"]
    record = read_record(next(iter(sorted((RESULTS / name / "rsna_lp").glob("1pct-s0-*.json")))))
    assert record.identity.method_config == config_json(recipe.config)
    assert record.identity.pretrain_config == config_json(recipe.pretrain)
    assert record.identity.cell_id() == record.cell_id
