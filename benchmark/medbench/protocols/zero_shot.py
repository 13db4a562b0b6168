"""Zero-shot classification: films are held against what classes are called in words. Nothing is trained or chosen.

The similarities of a film to the prompts of a class become one, by their maximum (GLoRIA) or their mean (CXR-CLIP), as
the prompt set says. Then

- classes that exclude each other: each class' similarity is z-scored over the test films (GLoRIA's released code,
  gloria.py, zero_shot_classification), and the largest wins;
- a class that is there or not: the similarity to its being there less that to its being absent, whose softmax is what
  CheXzero gives. It is there where the difference is above 0.

Neither is a probability: cosines have no temperature here, so nothing is said of calibration.

How far the number hangs on the wording is a metric of its own, `..._prompts_5`: the same score from 5 prompts drawn
for each class, 100 times. Its bounds are those of the draws. They say nothing of patients, and the bootstrap intervals
of the other metrics nothing of prompts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medbench.errors import DataError
from medbench.metrics.bootstrap import INTERVAL, bootstrap_blocks, percentile_interval
from medbench.metrics.calibration import Reliability
from medbench.metrics.classification import accuracy, classification_metrics, macro_auroc
from medbench.model import VisionLanguageModel
from medbench.protocols.classification import Classification, class_names, log_odds
from medbench.protocols.prompts import Ensemble, Prompts, read_prompts
from medbench.protocols.similarity import BATCH_SIZE, compare
from medbench.seeding import derive_seed
from medbench.task import Environment, Evaluation, Metric, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

Similar = tuple[Floats, ...]
"""(T, A) similarities to a class' being there, (T, B) to its being absent; B is 0 where it can't be denied."""


@dataclass(frozen=True)
class ZeroShotConfig:
    """Numbers of the protocol; the same at every recipe."""

    prompts: str
    """The prompt set, as `medbench.protocols.prompts.read_prompts` takes it."""
    prompts_sha256: str
    """Of its file."""
    source: str
    """Where its words come from."""
    ensemble: Ensemble
    """How the similarities to several prompts of a class become one; the prompt set says it."""
    drawn: int = 5
    """Prompts a class in each draw (GLoRIA's released code and MedCLIP's take 5 or 10)."""
    draws: int = 100
    """Draws of prompts (ours)."""
    similarity: str = (
        "cosine of embeddings; with a local similarity of the model, the mean of both as they are"
    )
    """Of a film and a prompt."""


@dataclass(frozen=True)
class PromptSimilarities:
    """How near the test films are to prompts.

    Attributes:
        prompts: P of them, each once.
        similar: (T, P) float64.
        said: which similarities were taken.
    """

    prompts: Mapping[str, int]
    similar: Floats
    said: str

    def of(self, prompts: Sequence[str]) -> Floats:
        """(T, len(prompts))."""
        return self.similar[:, [self.prompts[prompt] for prompt in prompts]]


class ZeroShot(Classification):
    """Classes by their names.

    Args:
        recipe: `tiny`, `paper` or `micro`.
        split: of the dataset; its test part is scored.
        prompts: the prompt set ("medbench_tasks:prompts/pairs.toml"). It decides whether classes exclude each other.
        classes: label columns of the index, without the prefix; empty for all that the index has.
    """

    config: ZeroShotConfig

    def __init__(self, recipe: str, *, split: str, prompts: str, classes: Sequence[str] = ()) -> None:
        self.prompts = read_prompts(prompts)
        super().__init__(recipe, split=split, classes=classes, exclusive=self.prompts.exclusive)
        self.config = ZeroShotConfig(prompts, self.prompts.sha256, self.prompts.source, self.prompts.ensemble)

    def extract(
        self, model: VisionLanguageModel, data: TaskData, env: Environment, batch_size: int = BATCH_SIZE
    ) -> PromptSimilarities:
        """Similarities of the test films to all prompts, those that draws are taken from included.

        Args:
            model: with a joint space.
            data: its test part is scored.
            env: see `medbench.protocols.similarity.compare`.
            batch_size: of a forward pass; changes nothing but time and memory.

        Raises:
            DataError: nobody tests.
            WeightsError: see `medbench.protocols.similarity.compare`.
        """
        if not len(data.split.test):
            raise DataError(
                f"{data.index.dataset}: split {data.split.name} has no test part, so nothing to classify."
            )
        said = [
            prompt
            for name in self.names(data.index)
            for prompts in (self.prompts.scored(name), self.prompts.pool(name))
            for prompt in (*prompts.present, *prompts.absent)
        ]
        unique = list(dict.fromkeys(said))
        compared = compare(model, data, data.split.test, [[prompt] for prompt in unique], env, batch_size)
        return PromptSimilarities(
            {prompt: number for number, prompt in enumerate(unique)}, compared.averaged(), compared.said
        )

    def evaluate(
        self, features: PromptSimilarities, data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Score the test films.

        `predictions` are those of `Classification`, where a label is there if its being there is more similar than its
        being absent, as published: the least score above 0 is its threshold. Beside them are, for each class,
        `present_<class>` and, where it can be denied, `absent_<class>`: lists of float32, the similarities to the
        prompts that draws are taken from, in the order of the set. `score` draws from these.
        """
        names = self.names(data.index)
        scores = self._scores([self._similar(features, self.prompts.scored(name)) for name in names])
        predictions = self.predictions(data, scores)
        for name in names:
            if not self.exclusive:
                predictions[f"threshold_{name}"] = _ABOVE_ZERO
            for part, values in zip(_PARTS, self._similar(features, self.prompts.pool(name)), strict=True):
                if values.shape[1]:
                    predictions[f"{part}_{name}"] = list(values.astype(np.float32))
        search = {
            "grid": {},
            "trials": 0,
            "selected_on": "nothing: no label and no validation film is used",
            "similarity": features.said,
            "prompts": {name: _counts(self.prompts.scored(name)) for name in names},
            "drawn_from": {name: _counts(self.prompts.pool(name)) for name in names},
        }
        return Evaluation(predictions, search)

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """Those of all test films, and how far the primary one hangs on the wording, see `prompt_spread`."""
        return [*self._of_films(predictions), self.prompt_spread(predictions)]

    def score_group(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """The same without draws of prompts, which speak of wording and not of patients.

        Within a group they would be something else, too: z-scores are taken over all test films.
        """
        reason = "of all test films alone: it is about the wording"
        return [*self._of_films(predictions), replace(self._spread(predictions), reason=reason)]

    def reliability(self, predictions: pd.DataFrame) -> Sequence[Reliability]:
        """None: cosines have no temperature, so that no probability is claimed."""
        return ()

    def prompt_spread(self, predictions: pd.DataFrame) -> Metric:
        """The primary metric over draws of prompts: value is the median, low and high hold 95 % of the draws.

        `accuracy_prompts_5` of exclusive classes, else `auroc_prompts_5` or, of several, `macro_auroc_prompts_5`. The
        prompts of draw d are the same for every model and every dataset with that prompt set.
        """
        names, target = _targets(predictions)
        similar = [tuple(_matrix(predictions, f"{part}_{name}") for part in _PARTS) for name in names]
        drawn = self.config.drawn
        metric, (_, measure) = self._spread(predictions), self._measure()
        if all(part.shape[1] <= drawn for parts in similar for part in parts):
            return replace(metric, reason=f"no class has more than {drawn} prompts to draw from")
        values = [measure(target, self._scores(some)) for some in self._draws(names, similar)]
        known = [value for value in values if value is not None]
        metric = replace(
            metric, reason="" if self.exclusive and known else _why(names, target, self.exclusive)
        )
        if not known:
            return metric
        low, middle, high = (float(q) for q in np.quantile(known, [0.025, 0.5, 0.975]))
        return replace(metric, value=middle, low=low, high=high)

    def _of_films(self, predictions: pd.DataFrame) -> list[Metric]:
        """Metrics with intervals over patients, the primary one first."""
        names, macro = _targets(predictions)[0], len(self.classes) != 1
        found = list(classification_metrics(predictions, names, macro=macro, exclusive=self.exclusive))
        return found if self.exclusive else [*found, label_accuracy(predictions, names, macro=macro)]

    def _spread(self, predictions: pd.DataFrame) -> Metric:
        """The metric of `prompt_spread` without its value."""
        target = _targets(predictions)[1]
        return Metric(
            name=f"{self._measure()[0]}_prompts_{self.config.drawn}",
            value=None,
            low=None,
            high=None,
            interval=f"2.5 to 97.5 % of {self.config.draws} draws of {self.config.drawn} prompts a class, the value is"
            " their median; nothing about patients",
            n=int((~np.isnan(target)).any(axis=1).sum()),
        )

    def _measure(self) -> tuple[str, Callable[[Floats, Floats], float | None]]:
        """Name and function of the primary metric."""
        if self.exclusive:
            return "accuracy", accuracy
        return "auroc" if len(self.classes) == 1 else "macro_auroc", macro_auroc

    def depends_on_seed(self, fraction: float) -> bool:
        """Draws of prompts are the same for every seed."""
        return False

    def _similar(self, features: PromptSimilarities, prompts: Prompts) -> Similar:
        return features.of(prompts.present), features.of(prompts.absent)

    def _scores(self, similar: Sequence[Similar]) -> Floats:
        """(T, C) log-odds, from the similarities of each class; no order of films matters."""
        one = np.max if self.config.ensemble == "max" else _mean
        present = np.stack([one(part, axis=1) for part, _ in similar], axis=1)  # (T, C)
        if not self.exclusive:
            absent = np.stack([one(part, axis=1) for _, part in similar], axis=1)
            odds: Floats = present - absent
            return odds
        odds = log_odds(torch.from_numpy(_z_scores(present))).numpy()
        return odds

    def _draws(self, names: Sequence[str], similar: Sequence[Similar]) -> Iterator[list[Similar]]:
        """Similarities to the prompts of each draw; a class with no more prompts than are drawn has them all."""
        for draw in range(self.config.draws):
            chosen = []
            for name, parts in zip(names, similar, strict=True):
                some = []
                for which, part in zip(_PARTS, parts, strict=True):
                    generator = np.random.Generator(
                        np.random.PCG64(derive_seed("prompts", draw, name, which))
                    )
                    count = min(self.config.drawn, part.shape[1])
                    some.append(part[:, np.sort(generator.permutation(part.shape[1])[:count])])
                chosen.append(tuple(some))
            yield chosen


_PARTS = ("present", "absent")

_ABOVE_ZERO = float(np.nextafter(0, 1))
"""Threshold of a difference of similarities: films are named from a threshold up, and none where both are the same."""


def label_accuracy(predictions: pd.DataFrame, names: Sequence[str], *, macro: bool) -> Metric:
    """Share of films whose label is told right, there or not; of several labels the plain mean over them.

    Args:
        predictions: one row a film with `patient`, `target_<class>` and `score_<class>`; above 0 the label is there.
        names: of the classes.
        macro: whether it is the mean that is asked for; False needs a single class.

    Returns:
        `accuracy` or `macro_accuracy`. A class that no film is labelled for is left out, and named.
    """
    target, score = (
        predictions[[f"{part}_{name}" for name in names]].to_numpy(np.float64) for part in ("target", "score")
    )
    known = ~np.isnan(target)
    right = known & ((score > 0) == (target == 1))
    there, shares = known.any(axis=0), _shares(right.sum(axis=0), known.sum(axis=0))
    each = [float(share) if some else None for share, some in zip(shares, there, strict=True)]
    metric = Metric(
        name="macro_accuracy" if macro else "accuracy",
        value=None,
        low=None,
        high=None,
        interval=INTERVAL,
        n=int(known.any(axis=1).sum()),
        per_class=dict(zip(names, each, strict=True)) if macro else {},
        reason="; ".join(
            f"{name}: no film has a label" for name, some in zip(names, there, strict=True) if not some
        ),
    )
    if not there.any():
        return metric
    counted = [part[:, there].astype(np.float64) for part in (right, known)]
    drawn = [
        _shares(*(weights @ part for part in counted)).mean(axis=1)
        for weights in bootstrap_blocks(
            predictions["patient"].astype(str).tolist(), (target == 1).any(axis=1)
        )
    ]
    low, high = percentile_interval(np.concatenate(drawn))
    value = float(np.mean([share for share in each if share is not None]))
    return replace(metric, value=value, low=low, high=high)


def _shares(right: npt.NDArray[Any], known: npt.NDArray[Any]) -> Floats:
    """Counts of what is right and of what is known -> what share is right, NaN where nothing is known."""
    shares: Floats = np.full(known.shape, np.nan)
    np.divide(right, known, out=shares, where=known > 0)
    return shares


def _targets(predictions: pd.DataFrame) -> tuple[list[str], Floats]:
    """Names of the classes, and (T, C) their labels."""
    names = class_names(predictions)
    return names, predictions[[f"target_{name}" for name in names]].to_numpy(np.float64)


def _counts(prompts: Prompts) -> dict[str, int]:
    counts = {"present": len(prompts.present), "absent": len(prompts.absent)}
    return {name: count for name, count in counts.items() if count}


def _matrix(predictions: pd.DataFrame, column: str) -> Floats:
    """(T, P) from a column of lists; (T, 0) without it."""
    if column not in predictions:
        return np.zeros((len(predictions), 0))
    return np.stack(predictions[column].to_list()).astype(np.float64)


def _mean(values: Floats, axis: int) -> Floats:
    """Exact where all are equal, which a sum divided by its count is not."""
    first = values.take([0], axis=axis)
    mean: Floats = (values - first).mean(axis=axis) + first.squeeze(axis)
    return mean


def _z_scores(values: Floats) -> Floats:
    """(T, C) -> columns with mean 0 and standard deviation 1 over the films, 0 where they are all equal."""
    moved = values - values[:1]  # equal ones are then exactly 0, and no rounding is blown up
    spread = moved.std(axis=0)
    z: Floats = (moved - moved.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.where(spread > 0, z, 0.0)


def _why(names: Sequence[str], target: Floats, exclusive: bool) -> str:
    """Why the primary metric has no value for these labels, or which classes are left out of its mean."""
    if exclusive:
        return "no film has a known class"
    counts = {
        name: (int((t == 1).sum()), int((t == 0).sum())) for name, t in zip(names, target.T, strict=True)
    }
    return "; ".join(
        f"{name}: {positives} positives and {negatives} negatives"
        for name, (positives, negatives) in counts.items()
        if not positives or not negatives
    )
