"""The published linear probe: losses against loops, what is augmented, early stop, and going on after a kill."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.errors import DataError
from medbench.model import ImageFeatures, Preprocessing
from medbench.progress import Progress
from medbench.protocols import linear_probe_mgca
from medbench.protocols.linear_probe_mgca import JITTER, RECIPES, MgcaLinearProbe, MgcaProbeConfig
from medbench.protocols.training import Schedule
from medbench.task import Environment, TaskData

N, SIDE, SIZE = 90, 14, 10
LONG = MgcaProbeConfig(
    schedules=(Schedule(up_to=1.0, lr=0.05, batch_size=8, epochs=60, validate_every=1, patience=60),)
)


class Encoder(nn.Module):
    """A convolution with BatchNorm, as frozen encoders have; counts the films that pass."""

    preprocessing = Preprocessing(size=SIZE, resize=SIDE)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.seen: list[Tensor] = []

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        assert not self.net[1].training
        self.seen.append(images.clone())
        maps = self.net(images)
        return ImageFeatures(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))


@pytest.fixture
def encoder() -> Encoder:
    return Encoder().train()


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(torch.device("cpu"), "32", tmp_path, Progress(quiet=True))


@pytest.fixture
def data() -> TaskData:
    rng = np.random.default_rng(0)
    ill = rng.random(N) < 0.4
    films = np.clip(rng.normal(100 + 40 * ill[:, None, None], 25, (N, SIDE, SIDE)), 0, 255).astype(np.uint8)
    table = pd.DataFrame({"sample": [f"s{k}" for k in range(N)], "patient": [f"p{k}" for k in range(N)]})
    table["label_a"] = ill * 1.0
    table["label_b"] = np.where(rng.random(N) < 0.2, np.nan, ~ill * 1.0)
    split = Split("any", *(np.sort(part) for part in np.split(rng.permutation(N), [50, 70])))
    prepared = PreparedImages(films, np.full((N, 2), SIDE), "hash")
    return TaskData(Index("d", Path(), "phantom", table, ("a", "b")), split, lambda side, fit: prepared)


def task(**given: Any) -> MgcaLinearProbe:
    return MgcaLinearProbe("micro", **{"split": "any", "classes": ("a", "b"), **given})


def test_paper_is_as_published() -> None:
    (schedule,) = RECIPES["paper"].schedules
    assert (schedule.lr, schedule.batch_size, schedule.epochs, schedule.patience) == (5e-4, 48, 50, 10)
    assert RECIPES["paper"].weight_decay == 1e-6


def test_the_encoder_stays_as_it_is(encoder: Encoder, data: TaskData, env: Environment) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    rng = torch.random.get_rng_state()
    result = task(jitter=True).evaluate(task().extract(encoder, data, env), data, data.split.train, 0, env)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(module.training for module in encoder.modules())
    assert torch.equal(torch.random.get_rng_state(), rng)
    kinds = ("target", "score", "threshold")
    assert list(result.predictions) == ["sample", "patient", *(f"{kind}_{c}" for c in "ab" for kind in kinds)]
    assert np.isfinite(result.predictions[["score_a", "score_b"]].to_numpy()).all()
    assert not list(env.workdir.iterdir())


def test_every_epoch_cuts_training_films_anew_and_no_others(
    encoder: Encoder, data: TaskData, env: Environment
) -> None:
    probe = task()
    features = probe.extract(encoder, data, env)
    assert sum(map(len, encoder.seen)) == len(data.split.val) + len(data.split.test)
    encoder.seen.clear()
    probe.evaluate(features, data, data.split.train, 0, env)
    # 50 films in batches of 16 without the last two, three epochs
    assert [len(batch) for batch in encoder.seen] == [16] * 9
    films = {film.numpy().tobytes() for batch in encoder.seen for film in batch}
    assert len(films) > 100


def test_a_fraction_smaller_than_a_batch_is_trained_on(
    encoder: Encoder, data: TaskData, env: Environment
) -> None:
    features = task().extract(encoder, data, env)
    encoder.seen.clear()
    task().evaluate(features, data, data.split.train[:9], 0, env)
    assert [len(batch) for batch in encoder.seen] == [9] * 3


def test_jitter_changes_films_and_the_crop_alone_does_not(data: TaskData, env: Environment) -> None:
    values = {}
    for jitter in (False, True):
        encoder = Encoder()
        features = task().extract(encoder, data, env)
        encoder.seen.clear()
        task(jitter=jitter).evaluate(features, data, data.split.train, 0, env)
        whole = ((torch.cat(encoder.seen)[:, 0] * 0.5 + 0.5) * 255).numpy()
        values[jitter] = np.abs(whole - whole.round()).max()
    assert values[False] < 1e-3  # the grey values of the file
    assert values[True] > 0.1
    assert JITTER.flip == 0.5


def test_the_best_validation_loss_is_tested(
    encoder: Encoder, data: TaskData, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "micro", LONG)
    probe = task()
    features = probe.extract(encoder, data, env)
    seen = []
    measure = MgcaLinearProbe._loss_of

    def watched(self: MgcaLinearProbe, *given: Any) -> Tensor:
        loss = measure(self, *given)
        seen.append(float(loss))
        return loss

    monkeypatch.setattr(MgcaLinearProbe, "_loss_of", watched)
    search = probe.evaluate(features, data, data.split.train, 0, env).search
    assert search["chosen"] == {
        "epoch": int(np.argmin(seen)) + 1,
        "validation_log_likelihood": -min(seen),
    }


def test_it_learns_eight_films(
    encoder: Encoder, data: TaskData, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "micro", LONG)
    labels = data.index.table["label_a"].to_numpy()
    eight = np.sort(np.concatenate([data.split.train[labels[data.split.train] == v][:4] for v in (0, 1)]))
    same = dataclasses.replace(data, split=Split("any", eight, eight, eight))
    probe = task(classes=("a",))
    result = probe.evaluate(probe.extract(encoder, same, env), same, eight, 0, env)
    assert probe.score(result.predictions)[0].value >= 0.9


@pytest.mark.parametrize("exclusive", [False, True])
def test_test_labels_decide_nothing(
    exclusive: bool, encoder: Encoder, data: TaskData, env: Environment
) -> None:
    results = []
    for flipped in (False, True):
        table = data.index.table.copy()
        if exclusive:
            table["label_b"] = 1 - table["label_a"]
        if flipped:
            names = ["label_a", "label_b"]
            table.loc[data.split.test, names] = 1 - table.loc[data.split.test, names]
        own = dataclasses.replace(data, index=dataclasses.replace(data.index, table=table))
        probe = task(exclusive=exclusive)
        results.append(probe.evaluate(probe.extract(encoder, own, env), own, data.split.train, 0, env))
    assert results[0].search == results[1].search
    assert (results[0].predictions["score_a"] == results[1].predictions["score_a"]).all()


def test_the_batch_that_predicts_does_not_matter(
    encoder: Encoder, data: TaskData, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = task()
    whole = probe.evaluate(probe.extract(encoder, data, env), data, data.split.train, 0, env).predictions
    extract = linear_probe_mgca.pooled_features
    monkeypatch.setattr(linear_probe_mgca, "pooled_features", lambda *given: extract(*given, batch_size=3))
    parts = probe.evaluate(probe.extract(encoder, data, env), data, data.split.train, 0, env).predictions
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-6, atol=1e-6)


def test_seeds_differ_and_repeat(encoder: Encoder, data: TaskData, env: Environment) -> None:
    probe = task()
    features = probe.extract(encoder, data, env)
    one, same, other = (
        probe.evaluate(features, data, data.split.train, seed, env).predictions for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, same)
    assert not (one["score_a"] == other["score_a"]).all()
    assert probe.depends_on_seed(1.0)


def test_it_goes_on_after_a_kill(
    encoder: Encoder, data: TaskData, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = task(jitter=True)
    features = probe.extract(encoder, data, env)
    whole = probe.evaluate(features, data, data.split.train, 0, env)
    encode, passed = encoder.encode_image, [0]

    def killed(images: Tensor, pyramid: bool = False) -> ImageFeatures:
        passed[0] += 1
        if passed[0] == 5:  # in the second epoch
            raise KeyboardInterrupt
        return encode(images, pyramid)

    monkeypatch.setattr(encoder, "encode_image", killed)
    with pytest.raises(KeyboardInterrupt):
        probe.evaluate(features, data, data.split.train, 0, env)
    assert len(list(env.workdir.iterdir())) == 1
    again = probe.evaluate(features, data, data.split.train, 0, env)
    assert passed[0] == 5 + 6  # two epochs of three batches
    pd.testing.assert_frame_equal(whole.predictions, again.predictions)
    assert whole.search == again.search


def test_no_label_to_choose_on(encoder: Encoder, data: TaskData, env: Environment) -> None:
    table = data.index.table.copy()
    table.loc[data.split.val, ["label_a", "label_b"]] = np.nan
    own = dataclasses.replace(data, index=dataclasses.replace(data.index, table=table))
    with pytest.raises(DataError, match="no label of the 20 validation films is known"):
        task().extract(encoder, own, env)
    rows, nobody = data.split, np.zeros(0, np.int64)
    for split, said in (
        (Split("any", rows.train, nobody, rows.test), "no label of the 0 validation films"),
        (Split("any", rows.train, rows.val, nobody), "split any has no film to test"),
    ):
        with pytest.raises(DataError, match=said):
            task().extract(encoder, dataclasses.replace(data, split=split), env)
    assert not encoder.seen


def test_a_class_absent_from_the_fraction_has_one_score(
    encoder: Encoder, data: TaskData, env: Environment
) -> None:
    train = data.split.train[data.index.table["label_a"].to_numpy()[data.split.train] == 0]
    probe = task()
    result = probe.evaluate(probe.extract(encoder, data, env), data, train, 0, env)
    said = (
        f"the training fraction holds 0 positives and {len(train)} negatives: every film has the same score"
    )
    assert result.search["notes"]["a"] == said
    np.testing.assert_allclose(result.predictions["score_a"], np.log(0.5 / (len(train) + 0.5)))
    assert result.predictions["threshold_a"].isna().all()


def test_an_exclusive_class_absent_from_the_fraction_is_never_named(
    encoder: Encoder, data: TaskData, env: Environment
) -> None:
    which = np.random.default_rng(0).integers(0, 3, N)
    names = ("x", "y", "z")
    table = data.index.table.assign(**{f"label_{name}": (which == k) * 1.0 for k, name in enumerate(names)})
    own = dataclasses.replace(data, index=dataclasses.replace(data.index, table=table, labels=names))
    probe = task(exclusive=True, classes=names)
    features = probe.extract(encoder, own, env)
    for left in ((0, 1), (1,)):
        train = data.split.train[np.isin(which[data.split.train], left)]
        found = probe.evaluate(features, own, train, 0, env)
        scores = found.predictions[[f"score_{name}" for name in names]].to_numpy()
        assert np.isin(scores.argmax(1), left).all()
        assert len(set(scores[:, 2])) == 1
        if len(left) == 2:
            np.testing.assert_allclose(scores[:, 0], -scores[:, 1], atol=1e-9)
            assert list(found.search["notes"]) == ["z"]
