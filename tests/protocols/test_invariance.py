"""What must not change a number: the size of a batch, the number of workers; and what test labels must not change.

Every task of the catalogue is in here by being declared: those of `QUICK` by default, all of them each night.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medbench.data.prepared import prepare
from medbench.model import ImageFeatures, VisionLanguageModel
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.protocols import features, pyramids
from medbench.request import RunRequest
from medbench.runner import Runner
from medbench.task import Environment, Evaluation, Metric, Task, TaskData

CATALOGUE = load_catalogue(third_party=False)

QUICK = ("rsna_det", "rsna_knn", "rsna_lp")
"""One task of each protocol that takes seconds."""

ENCODERS = ("random", "clip", "place")
"""The first of these that serves a task is used; `random` is not pretrained, and knows no text."""

BATCHES = ("predict_batch",)
"""Fields of a protocol's config that hold the size of a batch which nothing is trained on."""

TRUTH = ("label_", "boxes", "box_labels", "regions")
"""Columns of an index that tell the truth, by how they start."""

PREDICTED = ("score", "pred", "present_", "absent_", "pair_")
"""Columns of predictions that do not, by how they start; a pair is a film and its report, whatever their labels."""

TOLD = ("sample", "patient", "direction", "gallery", "films")
"""Columns of predictions that say what a row is about."""


def tasks() -> list[Any]:
    names = [name for name, spec in CATALOGUE.tasks.items() if not spec.family]
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.nightly) for name in names]


@dataclass(frozen=True)
class Case:
    """A task, on phantom films, and an encoder for it."""

    model: VisionLanguageModel
    data: TaskData
    env: Environment
    make: Callable[[], Task]

    def evaluate(self, workdir: Path, **changes: Any) -> tuple[Evaluation, Sequence[Metric]]:
        """With other data, another config or `batch_size` of the encoder; nothing comes from the feature cache."""
        workdir.mkdir(parents=True)
        env = replace(self.env, workdir=workdir, encoder="", cache=None)
        data: TaskData = changes.get("data", self.data)
        task = self.make()
        task.config = changes.get("config", task.config)
        # Protocols of pairs take the size of a batch here, the others have it in their config.
        takes = "batch_size" in inspect.signature(task.extract).parameters
        batch = {"batch_size": changes["batch_size"]} if takes and "batch_size" in changes else {}
        seen = task.extract(self.model, data, env, **batch)
        try:
            found = task.evaluate(seen, data, data.split.train, 0, env)
        finally:
            if hasattr(seen, "close"):
                seen.close()
        return found, task.score(found.predictions)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def case_of(cache: Path) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            spec = CATALOGUE.tasks[name]
            method = next(m for m in ENCODERS if spec.needs <= CATALOGUE.methods[m].provides)
            request = RunRequest(
                (method,),
                (name,),
                cache / "results",
                cache,
                recipe="micro",
                device="cpu",
                precision="32",
                quiet=True,
            )
            runner = Runner(request, CATALOGUE)
            encoder = runner.planner.encoder(CATALOGUE.methods[method], 0)
            model, info = runner.model(encoder)
            data = runner.planner.group(encoder, spec).data
            env = runner.environment(cache, encoder, info)
            made[name] = Case(model, data, env, lambda: CATALOGUE.make_task(spec, "micro"))
        return made[name]

    return case


def numbers(metrics: Sequence[Metric]) -> dict[str, list[float]]:
    """All numbers of metrics, NaN for what is not defined."""
    return {
        metric.name: [
            np.nan if value is None else value
            for value in (metric.value, metric.low, metric.high, *metric.per_class.values())
        ]
        for metric in metrics
    }


def watch_batches(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Films a forward pass without gradient, of all passes to come."""
    seen: set[int] = set()
    encode = type(model).encode_image

    def watched(self: VisionLanguageModel, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        if not torch.is_grad_enabled():
            seen.add(len(images))
        return encode(self, images, pyramid=pyramid)

    monkeypatch.setattr(type(model), "encode_image", watched)
    return seen


def with_batches(config: Any, size: int) -> Any:
    """The same config with other sizes of batches that nothing is trained on."""
    if not is_dataclass(config) or isinstance(config, type):
        return config
    return replace(config, **{f.name: size for f in fields(config) if f.name in BATCHES})


@pytest.mark.parametrize("name", tasks())
def test_the_size_of_a_batch_changes_no_metric(
    name: str, case_of: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name)
    config = case.make().config
    found, seen = [], []
    for size in (64, 7):
        with monkeypatch.context() as patch:
            patch.setattr(pyramids, "BATCH_SIZE", size)
            patch.setattr(features.pooled_features, "__defaults__", (size,))
            seen.append(watch_batches(case.model, patch))
            _, metrics = case.evaluate(
                tmp_path / str(size), config=with_batches(config, size), batch_size=size
            )
        found.append(numbers(metrics))
    assert seen[0] != seen[1]  # the size was changed indeed
    assert found[0].keys() == found[1].keys()
    for metric, values in found[0].items():
        np.testing.assert_allclose(found[1][metric], values, atol=1e-6, rtol=0, err_msg=metric)


@pytest.mark.parametrize("name", tasks())
def test_the_labels_of_the_test_films_change_nothing_that_is_chosen(
    name: str, case_of: Callable[[str], Case], tmp_path: Path
) -> None:
    case = case_of(name)
    index, rows = case.data.index, case.data.split.test
    shuffled = np.random.default_rng(0).permutation(rows)
    table = index.table.copy()
    moved = [column for column in table if str(column).startswith(TRUTH)]
    assert moved
    for column in moved:
        values = table[column].to_numpy(copy=True)
        values[rows] = values[shuffled]
        table[column] = values
    data = replace(case.data, index=replace(index, table=table))
    plain, _ = case.evaluate(tmp_path / "plain")
    other, _ = case.evaluate(tmp_path / "other", data=data)
    assert other.search == plain.search
    predicted = [column for column in plain.predictions if str(column).startswith(PREDICTED)]
    assert predicted
    for column in predicted:
        for one, two in zip(plain.predictions[column], other.predictions[column], strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    truth = [column for column in plain.predictions if column not in (*predicted, *TOLD)]
    same = [
        all(
            np.array_equal(np.asarray(one), np.asarray(two))
            for one, two in zip(plain.predictions[column], other.predictions[column], strict=True)
        )
        for column in truth
    ]
    assert not truth or not all(same)  # they were shuffled indeed


def test_the_number_of_workers_changes_no_film(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    """Workers decode films, and nothing else."""
    index = case_of("rsna_lp").data.index
    hashes = {
        prepare(index, 72, "pad", tmp_path / str(n), workers=n, progress=Progress(quiet=True)).sha256
        for n in (1, 2)
    }
    assert len(hashes) == 1
