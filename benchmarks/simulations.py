"""How often intervals hold the truth, and how often two equal methods are called different: by simulation.

    python benchmarks/simulations.py --write docs/statistics.md

Test sets are drawn again and again from a world whose truth is known, and are given to the code that makes records and
leaderboards. **Coverage**: the share of 95 % intervals that hold the true value, over 1,000 test sets; of average
precisions, which take longer, over 300. **Rejections**: the share of comparisons of two methods that are equal in truth
with p < 0.05, over 5,000 test sets; of average precisions over 800.

As in a test set of medbench, patients keep their names and strata from one repeat to the next, so that all repeats
share one set of bootstrap weights; with it 2,000 draws of an AUROC are one product of matrices.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tables
from scipy.special import ndtr, ndtri

from medbench.metrics.bootstrap import (
    left_out_blocks,
    linear_draws,
    logit_bounds,
    logit_interval,
    patient_bootstrap_weights,
    percentile_interval,
    smaller_stratum,
)
from medbench.metrics.detection import IOUS_40_75, Detections, match, weighted_average_precision
from medbench.statistics.paired import judged

Floats = npt.NDArray[np.float64]
Bounds = tuple[float | None, float | None]

BATCH = 25
"""Test sets that are worked on at once."""

COVERAGE, MAP, REJECTIONS = "coverage", "map", "rejections"


@dataclass(frozen=True)
class Cohort:
    """A test set of which the patients are known and the films are not yet.

    Attributes:
        patients: (N,) names.
        truth: (N,) True for positive films, which come first.
        weights: (D, N) float32, how often each film is in each draw.
        positive, negative: columns of them.
        pairs: (D,) of a positive and a negative film in each draw.
        of: (N,) number of the patient.
    """

    patients: npt.NDArray[np.str_]
    truth: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]
    positive: npt.NDArray[np.float32]
    negative: npt.NDArray[np.float32]
    pairs: Floats
    of: npt.NDArray[np.int64]

    @classmethod
    def of(cls, films: int, positives: int, films_each: int = 1, *, strata: bool = True) -> "Cohort":
        """`films_each` films of every patient, all positive or all negative."""
        patients = np.array([f"p{k // films_each:05}" for k in range(films)])
        truth = np.arange(films) < positives
        positive = truth if strata else np.zeros(films, np.bool_)
        weights = patient_bootstrap_weights(patients.tolist(), positive).astype(np.float32)
        return cls._made(patients, truth, weights, np.arange(films) // films_each)

    @classmethod
    def _made(
        cls,
        patients: npt.NDArray[np.str_],
        truth: npt.NDArray[np.bool_],
        weights: npt.NDArray[np.float32],
        of: npt.NDArray[np.int64],
    ) -> "Cohort":
        ill, well = weights[:, truth], weights[:, ~truth]
        pairs = ill.sum(axis=1, dtype=np.float64) * well.sum(axis=1, dtype=np.float64)
        return cls(patients, truth, weights, ill, well, pairs, of)

    def classes(self, positives: Sequence[int]) -> list["Cohort"]:
        """One cohort a class: no film has two, and the draws are those of the films that have any."""
        ends = np.cumsum(positives)
        if ends[-1] != np.count_nonzero(self.truth):
            raise ValueError(f"classes of {positives} positives, {np.count_nonzero(self.truth)} in all")
        film = np.arange(len(self.truth))
        return [
            self._made(self.patients, (film >= end - own) & (film < end), self.weights, self.of)
            for own, end in zip(positives, ends.tolist(), strict=True)
        ]

    @property
    def units(self) -> int:
        """Patients with positive films, or without any, whichever are fewer."""
        return smaller_stratum(len(np.unique(self.of)), len(np.unique(self.of[self.truth])))

    def aurocs(self, scores: Floats) -> "Aurocs":
        """Of many models at once; counts stay below 2^24, where float32 is exact.

        Args:
            scores: (M, N) without ties.
        """
        ill, well = scores[:, self.truth], scores[:, ~self.truth]
        outranked = (ill[:, None, :] > well[:, :, None]).astype(np.float32)  # (M, negatives, positives)
        beside = outranked.transpose(1, 0, 2).reshape(well.shape[1], -1)
        won = (self.negative @ beside).reshape(len(self.negative), *ill.shape)  # (D, M, positives)
        with np.errstate(invalid="ignore"):  # a draw without any film of a rare class: NaN
            draws = np.einsum("dmp,dp->md", won, self.positive).astype(np.float64) / self.pairs
        values = outranked.mean(axis=(1, 2), dtype=np.float64)
        # As `medbench.statistics.delong.auroc_influence`, for all models at once.
        moves = np.zeros((len(scores), self.of.max() + 1))
        for films, shares in ((self.truth, outranked.mean(axis=1)), (~self.truth, outranked.mean(axis=2))):
            members = np.eye(moves.shape[1])[self.of[films]]  # (films, patients)
            units = len(np.unique(self.of[films]))
            moves += (shares - values[:, None]) @ members / films.sum() * math.sqrt(units / (units - 1))
        return Aurocs(values, draws, moves)


@dataclass(frozen=True, eq=False)
class Aurocs:
    """Of M models: areas (M,), bootstrap draws (M, D), and influences of patients (M, P)."""

    areas: Floats
    draws: Floats
    moves: Floats


# Coverage.


def auroc_intervals(
    cohort: Cohort, area: float, rng: np.random.Generator, repeats: int
) -> Iterator[dict[str, Bounds]]:
    """Intervals of an AUROC of normal scores whose truth is `area`; half of a score is the patient's own."""
    units = cohort.units
    shift, patients = math.sqrt(2) * ndtri(area), int(cohort.of.max()) + 1
    for models in _batches(repeats):
        own = rng.normal(size=(models, patients)) * math.sqrt(0.5)
        film = rng.normal(size=(models, len(cohort.of))) * math.sqrt(0.5)
        found = cohort.aurocs(shift * cohort.truth + own[:, cohort.of] + film)
        for value, draws, moves in zip(found.areas, found.draws, found.moves, strict=True):
            yield {
                "bootstrap, log-odds (recorded)": logit_interval(float(value), draws, units),
                "DeLong, log-odds": logit_bounds(float(value), float(np.sqrt(moves @ moves)), units),
                "bootstrap, percentiles": percentile_interval(draws),
            }


def macro_intervals(
    cohorts: Sequence[Cohort], area: float, rng: np.random.Generator, repeats: int
) -> Iterator[dict[str, Bounds]]:
    """Intervals of the mean AUROC over classes of one test set (`Cohort.classes`), each of a true `area`."""
    units, shift = min(cohort.units for cohort in cohorts), math.sqrt(2) * ndtri(area)
    for models in _batches(repeats):
        each = []
        for cohort in cohorts:
            each.append(cohort.aurocs(shift * cohort.truth + rng.normal(size=(models, len(cohort.truth)))))
        areas, drawn, moved = (
            np.mean([getattr(one, part) for one in each], axis=0) for part in ("areas", "draws", "moves")
        )
        for value, draws, moves in zip(areas, drawn, moved, strict=True):
            yield {
                "bootstrap, log-odds (recorded)": logit_interval(float(value), draws, units),
                "DeLong, log-odds": logit_bounds(float(value), float(np.sqrt(moves @ moves)), units),
                "bootstrap, percentiles": percentile_interval(draws),
            }


def _batches(total: int) -> Iterator[int]:
    for start in range(0, total, BATCH):
        yield min(BATCH, total - start)


def mean_intervals(
    cohort: Cohort, draw: Callable[[int], Floats], repeats: int
) -> Iterator[dict[str, Bounds]]:
    """Intervals of a mean over films.

    Args:
        cohort: test set.
        draw: number of test sets -> (N, repeats) values of films.
        repeats: of them.
    """
    values = draw(repeats)
    draws = (cohort.weights @ values.astype(np.float32)) / cohort.weights.sum(axis=1)[:, None]
    for own in draws.T:
        yield {"bootstrap, percentiles (recorded)": percentile_interval(own.astype(np.float64))}


def dice_of(truth: npt.NDArray[np.bool_], rng: np.random.Generator) -> Callable[[int], Floats]:
    """Dice of films: of 85 % of those without a mask 1, else 0; of those with one 0 for a fifth, else spread."""

    def draw(repeats: int) -> Floats:
        shape = (len(truth), repeats)
        found = np.where(rng.random(shape) < 0.2, 0.0, rng.beta(6, 3, shape))
        return np.where(truth[:, None], found, (rng.random(shape) < 0.85) * 1.0)

    return draw


def dice_truth(truth: npt.NDArray[np.bool_]) -> float:
    """Mean of `dice_of`."""
    return float(np.where(truth, 0.8 * 6 / 9, 0.85).mean())


def hits_of(films: int, share: float, rng: np.random.Generator) -> Callable[[int], Floats]:
    """Precision at 5: five neighbours, each of the query's class with a chance that differs by query."""

    def draw(repeats: int) -> Floats:
        chance = rng.beta(4 * share, 4 * (1 - share), (films, repeats))
        return rng.binomial(5, chance) / 5

    return draw


def boxes_of(truth: npt.NDArray[np.bool_], rng: np.random.Generator, shift: float = 1.0) -> Detections:
    """One true box on positive films, and a detector: a noisy box on it, false alarms anywhere.

    Args:
        truth: (N,) whether a film has a true box.
        rng: of the boxes.
        shift: how far the scores of boxes on true ones lie above those of false alarms; 1 is a fair detector.
    """
    true = squares(int(truth.sum()), rng)
    near = true + rng.normal(0, 4, true.shape)
    return detector(truth, true, near, rng.normal(shift, 1, len(near)), rng)


def squares(count: int, rng: np.random.Generator) -> Floats:
    """(count, 4) boxes anywhere."""
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(20, 40, (count, 2))], axis=1)


def detector(
    truth: npt.NDArray[np.bool_], true: Floats, near: Floats, sure: Floats, rng: np.random.Generator
) -> Detections:
    """One true box on positive films, one found near it, with normal scores `sure`; and false alarms anywhere."""
    films = len(truth)
    alarms = rng.poisson(0.5, films)
    false = squares(int(alarms.sum()), rng)
    scores = np.concatenate([sure, rng.normal(0, 1, len(false))])
    film = np.concatenate([np.flatnonzero(truth), np.repeat(np.arange(films), alarms)])
    order = np.argsort(film, kind="stable")
    ends = np.cumsum(truth + alarms)[:-1]
    return Detections(
        np.split(true, np.cumsum(truth)[:-1]),
        np.split(np.concatenate([near, false])[order], ends),
        np.split(ndtr(scores)[order], ends),
    )


def map_of(detections: Detections, weights: npt.NDArray[np.int32]) -> Floats:
    """(R, N) weights -> (R,) `map_40_75`."""
    [matches] = match(detections, IOUS_40_75)
    return weighted_average_precision(matches, weights).mean(axis=1)


def map_left_out(detections: Detections, cohort: Cohort) -> Floats:
    """(P,) `map_40_75` with each patient left out."""
    blocks = left_out_blocks(cohort.patients.tolist(), cohort.truth)
    return np.concatenate([map_of(detections, weights) for weights in blocks])


def map_intervals(
    cohort: Cohort, shift: float, rng: np.random.Generator, repeats: int
) -> Iterator[dict[str, Bounds]]:
    """Intervals of an average precision; see `boxes_of` for `shift`."""
    weights, whole = cohort.weights.astype(np.int32), np.ones((1, len(cohort.truth)), np.int32)
    patients = cohort.patients.tolist()
    units = smaller_stratum(len(cohort.truth), int(cohort.truth.sum()))  # a film a patient
    for _ in range(repeats):
        found = boxes_of(cohort.truth, rng, shift)
        draws = map_of(found, weights)
        value = float(map_of(found, whole)[0])
        left_out = map_left_out(found, cohort)
        smooth = linear_draws(draws[:, None], left_out[:, None], patients, cohort.truth)[:, 0]
        yield {
            "jackknife, log-odds, centred (recorded)": logit_interval(value, smooth, units, centred=True),
            "bootstrap, log-odds, centred": logit_interval(value, draws, units, centred=True),
            "bootstrap, percentiles": percentile_interval(draws),
        }


def coverage(intervals: Iterator[dict[str, Bounds]], truth: float) -> dict[str, float]:
    """Share of intervals that hold the truth, by kind."""
    held: dict[str, list[bool]] = {}
    for each in intervals:
        for kind, (low, high) in each.items():
            inside = low is not None and high is not None and low <= truth <= high
            held.setdefault(kind, []).append(inside)
    return {kind: float(np.mean(own)) for kind, own in held.items()}


SIZES = ((100, 15), (300, 40), (1000, 150))
"""Films, and of them positives."""


def coverages(repeats: int, seed: int) -> Iterator[dict[str, str]]:
    """A row a metric, size and kind of interval."""
    for films, positives in SIZES:
        cohort = Cohort.of(films, positives)
        for area in (0.85, 0.95) if films == 1000 else (0.7, 0.85, 0.95):
            rng = np.random.default_rng([seed, films, int(100 * area)])
            found = coverage(auroc_intervals(cohort, area, rng, repeats), area)
            yield from _rows(f"AUROC {area}", films, positives, "1", found, repeats)
    for films, positives in ((300, 40), (600, 80)):
        rng = np.random.default_rng([seed, films, 1])
        found = coverage(auroc_intervals(Cohort.of(films, positives, 2), 0.85, rng, repeats), 0.85)
        yield from _rows("AUROC 0.85", films, positives, "2", found, repeats)
    for films, classes in ((400, (60, 6)), (400, (60, 45)), (1000, (60, 45, 50))):
        rng = np.random.default_rng([seed, films, *classes])
        cohorts = Cohort.of(films, sum(classes)).classes(classes)
        found = coverage(macro_intervals(cohorts, 0.85, rng, repeats), 0.85)
        each = " and ".join(map(str, classes)) if len(classes) < 3 else ", ".join(map(str, classes))
        yield from _rows("macro AUROC 0.85", films, each, "1", found, repeats)
    for films, positives in SIZES:
        cohort = Cohort.of(films, positives)
        rng = np.random.default_rng([seed, films, 2])
        intervals = mean_intervals(cohort, dice_of(cohort.truth, rng), repeats)
        found = coverage(intervals, dice_truth(cohort.truth))
        yield from _rows("Dice, mean", films, positives, "1", found, repeats)
    for films, share in ((100, 0.3), (300, 0.3), (1000, 0.3)):
        rng = np.random.default_rng([seed, films, 3])
        intervals = mean_intervals(Cohort.of(films, 0, strata=False), hits_of(films, share, rng), repeats)
        yield from _rows("P@5", films, 0, "1", coverage(intervals, share), repeats)


MANY = 500_000
"""Films whose average precision is as good as the true one."""

DETECTORS = ((100, 15, 1.0), (300, 40, 1.0), (300, 40, -0.5), (1000, 150, 1.0))
"""Films, positives, and `shift` of `boxes_of`: a fair detector and a weak one."""


def map_coverages(
    repeats: int, seed: int, detectors: Sequence[tuple[int, int, float]] = DETECTORS
) -> Iterator[dict[str, str]]:
    """Those of average precision."""
    for films, positives, shift in detectors:
        rng = np.random.default_rng([seed, 4, films, int(10 * (1 + shift))])
        many = np.arange(MANY) < round(MANY * positives / films)  # false alarms on healthy films count
        truth = float(map_of(boxes_of(many, rng, shift), np.ones((1, MANY), np.int32))[0])
        found = coverage(map_intervals(Cohort.of(films, positives), shift, rng, repeats), truth)
        yield from _rows(f"mAP {truth:.2f}", films, positives, "1", found, repeats)


def _rows(
    metric: str, films: int, positives: int | str, each: str, found: dict[str, float], repeats: int
) -> Iterator[dict[str, str]]:
    for kind, share in found.items():
        yield {
            "metric, true value": metric,
            "films": f"{films:,}",
            "positive": (f"{positives:,}" if isinstance(positives, int) else positives) if positives else "–",
            "films a patient": each,
            "interval": kind,
            "coverage": _percent(share, repeats),
        }


def _percent(share: float, repeats: int) -> str:
    """With the standard error of the simulation itself."""
    return f"{100 * share:.1f} % ± {100 * math.sqrt(share * (1 - share) / repeats):.1f}"


# Comparisons.


@dataclass(frozen=True)
class World:
    """Two methods that are equal in truth.

    Attributes:
        seeds: of each.
        training: standard deviation over seeds: of how far a model tells positives from negatives, which has mean 1.5;
            or, of a mean over films, of how good a model is, where films differ by 1.
    """

    seeds: int
    training: float

    def scores(self, cohort: Cohort, rng: np.random.Generator, repeats: int) -> Floats:
        """(repeats, 2, seeds, N) of a class."""
        shift = rng.normal(1.5, self.training, (repeats, 2, self.seeds, 1))
        return shift * cohort.truth + self._hard(cohort, rng, repeats)

    def ease(self, cohort: Cohort, rng: np.random.Generator, repeats: int) -> Floats:
        """(repeats, 2, seeds, N) how well each model does on each film, standard normal without training noise."""
        shift = rng.normal(0, self.training, (repeats, 2, self.seeds, 1))
        return shift + self._hard(cohort, rng, repeats) / math.sqrt(1.5)

    def _hard(self, cohort: Cohort, rng: np.random.Generator, repeats: int) -> Floats:
        """What is hard for all, what is hard for one method, and what is for one model."""
        n, shape = len(cohort.truth), (repeats, 2, self.seeds)
        hard = rng.normal(size=(repeats, 1, 1, cohort.of.max() + 1))[..., cohort.of]
        found: Floats = hard + 0.5 * rng.normal(size=(repeats, 2, 1, n)) + 0.5 * rng.normal(size=(*shape, n))
        return found


Tested = tuple[Floats, dict[str, Floats]]
"""Of many comparisons: values (repeats, 2, seeds), and by test what moves them (repeats, 2, seeds, M)."""

Measure = Callable[[Cohort, World, np.random.Generator, int], Tested]


def of_aurocs(cohort: Cohort, world: World, rng: np.random.Generator, repeats: int) -> Tested:
    """AUROCs, by DeLong and by their draws."""
    scores = world.scores(cohort, rng, repeats)
    shape = scores.shape[:3]
    found = cohort.aurocs(scores.reshape(-1, scores.shape[-1]))
    noises = {"DeLong": found.moves.reshape(*shape, -1), BOOTSTRAP: _centred(found.draws).reshape(*shape, -1)}
    return found.areas.reshape(shape), noises


def of_means(films: Callable[[Cohort, Floats, np.random.Generator], Floats]) -> Measure:
    """A mean over films, by its draws.

    Args:
        films: cohort, (repeats, 2, seeds, N) `World.ease` -> the value of each film.
    """

    def measure(cohort: Cohort, world: World, rng: np.random.Generator, repeats: int) -> Tested:
        values = films(cohort, world.ease(cohort, rng, repeats), rng)
        draws = values.reshape(-1, len(cohort.truth)) @ cohort.weights.T / cohort.weights.sum(axis=1)
        return values.mean(axis=-1), {BOOTSTRAP: _centred(draws).reshape(*values.shape[:3], -1)}

    return measure


def of_boxes(cohort: Cohort, world: World, rng: np.random.Generator, repeats: int) -> Tested:
    """Average precisions of detectors that find it hard on the same films, by the draws of records.

    Scores of true boxes vary by film, method and model as those of `World.scores` do; boxes lie about the true ones
    partly alike; false alarms are each model's own.
    """
    shape = (repeats, 2, world.seeds)
    values, moves = np.empty(shape), np.empty((*shape, len(cohort.weights)))
    ease = world.ease(cohort, rng, repeats)[..., cohort.truth]
    whole, nothing = np.ones((1, len(cohort.truth)), np.int32), np.zeros((len(cohort.weights), 1))
    for repeat in range(repeats):
        true = squares(int(cohort.truth.sum()), rng)
        alike = true + rng.normal(0, 3, true.shape)
        for method, seed in np.ndindex(shape[1:]):
            near = alike + rng.normal(0, 2.6, true.shape)
            found = detector(cohort.truth, true, near, 1 + ease[repeat, method, seed], rng)
            values[repeat, method, seed] = map_of(found, whole)[0]
            left_out = map_left_out(found, cohort)[:, None]
            # What the draws are about does not matter to a comparison: nothing is put in its place.
            smooth = linear_draws(nothing, left_out, cohort.patients.tolist(), cohort.truth)
            moves[repeat, method, seed] = smooth[:, 0]
    return values, {BOOTSTRAP: _centred(moves.reshape(-1, moves.shape[-1])).reshape(moves.shape)}


def dice_by_ease(cohort: Cohort, ease: Floats, rng: np.random.Generator) -> Floats:
    """Dice of films: a mask is missed (0) on a fifth of them, and a healthy film has one (0) in 15 %."""
    found = np.where(ease < ndtri(0.2), 0.0, ndtr(0.3 + 0.6 * ease))
    return np.where(cohort.truth, found, (ease > ndtri(0.15)) * 1.0)


def hits_by_ease(cohort: Cohort, ease: Floats, rng: np.random.Generator) -> Floats:
    """Precision at 5 of queries."""
    return rng.binomial(5, ndtr(ease - 0.6)) / 5


def _centred(draws: Floats) -> Floats:
    """(M, D) -> the same, with products that are covariances."""
    found: Floats = (draws - draws.mean(axis=1, keepdims=True)) / math.sqrt(draws.shape[1] - 1)
    return found


def rejections(
    cohort: Cohort, world: World, rng: np.random.Generator, repeats: int, measure: Measure = of_aurocs
) -> dict[str, float]:
    """Share of p-values below 0.05, by test."""
    below: dict[str, int] = {}
    for batch in _batches(repeats):
        values, noises = measure(cohort, world, rng, batch)
        for name, noise in noises.items():
            below[name] = below.get(name, 0) + int(np.count_nonzero(p_values(values, noise) < 0.05))
    return {name: count / repeats for name, count in below.items()}


def p_values(values: Floats, noise: Floats) -> Floats:
    """Of many comparisons at once, as `medbench.statistics.paired.differences` has them.

    Args:
        values: (repeats, 2, seeds).
        noise: (repeats, 2, seeds, M), whose products are covariances.
    """
    seeds = values.shape[2]
    means = values.mean(axis=2)
    moved = noise.mean(axis=2)
    test = ((moved[:, 0] - moved[:, 1]) ** 2).sum(axis=-1)
    spread, apart = np.full(means.shape, np.nan), np.zeros(len(values))
    if seeds > 1:
        spread = values.var(axis=2, ddof=1) / seeds
        apart = noise.var(axis=2, ddof=1).sum(axis=(1, 2)) / seeds
    count = np.full(len(values), seeds)
    return judged(means[:, 0] - means[:, 1], test, spread.T, apart, np.stack([count, count])).p


MEASURES: dict[str, Measure] = {
    "AUROC": of_aurocs,
    "Dice, mean": of_means(dice_by_ease),
    "P@5": of_means(hits_by_ease),
    "mAP": of_boxes,
}

Worlds = Sequence[tuple[str, str, World, tuple[int, int, int]]]
"""The metric, what it is called, the methods, and films, positives and films a patient."""

WORLDS: Worlds = (
    ("AUROC", "one seed, no training noise", World(1, 0.0), (300, 40, 1)),
    ("AUROC", "three seeds, training noise", World(3, 0.15), (300, 40, 1)),
    ("AUROC", "one seed, no training noise", World(1, 0.0), (600, 80, 2)),
    ("AUROC", "three seeds, no training noise", World(3, 0.0), (300, 40, 1)),
    ("AUROC", "one seed, training noise, which is not counted", World(1, 0.15), (300, 40, 1)),
    ("Dice, mean", "one seed, no training noise", World(1, 0.0), (300, 40, 1)),
    ("Dice, mean", "three seeds, training noise", World(3, 0.15), (300, 40, 1)),
    ("P@5", "one seed, no training noise", World(1, 0.0), (300, 0, 1)),
    ("P@5", "three seeds, training noise", World(3, 0.15), (300, 0, 1)),
    ("mAP", "one seed, no training noise", World(1, 0.0), (300, 40, 1)),
)

BOOTSTRAP = "paired bootstrap"


def comparisons(
    repeats: int, map_repeats: int, seed: int, worlds: Worlds = WORLDS
) -> Iterator[dict[str, str]]:
    """A row a world; those of average precision with `map_repeats`."""
    for number, (metric, name, world, (films, positives, each)) in enumerate(worlds):
        rng = np.random.default_rng([seed, 5, number])
        cohort = Cohort.of(films, positives, each, strata=positives > 0)
        count = map_repeats if metric == "mAP" else repeats
        found = rejections(cohort, world, rng, count, MEASURES[metric])
        yield {
            "two equal methods": f"{metric}: {name}",
            "films": f"{films:,}",
            "positive": f"{positives:,}" if positives else "–",
            "films a patient": str(each),
            **{
                f"called different by {test}": _percent(found[test], count) if test in found else "–"
                for test in ("DeLong", BOOTSTRAP)
            },
        }


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="Coverage of intervals and rejections of true hypotheses.")
    parser.add_argument("--repeats", type=int, default=1000, help="test sets a coverage; default 1000")
    parser.add_argument(
        "--map-repeats", type=int, default=300, help="those of average precision; default 300"
    )
    parser.add_argument("--comparisons", type=int, default=5000, help="test sets a comparison; default 5000")
    parser.add_argument(
        "--map-comparisons", type=int, default=800, help="those of average precision; default 800"
    )
    parser.add_argument("--only", choices=[COVERAGE, MAP, REJECTIONS], help="one of the tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into its blocks")
    options = parser.parse_args()
    for name, rows in (
        (COVERAGE, coverages(options.repeats, options.seed)),
        (MAP, map_coverages(options.map_repeats, options.seed)),
        (REJECTIONS, comparisons(options.comparisons, options.map_comparisons, options.seed)),
    ):
        if options.only not in (None, name):
            continue
        started = time.monotonic()
        text = tables.markdown(list(_told(rows)), [])
        print(f"{text}\n\n({name}: {time.monotonic() - started:.0f} s)\n", flush=True)
        if options.write is not None:
            tables.write(options.write, name, text, name.capitalize())


def _told(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The same rows, each printed when it is there: the next may take minutes."""
    for row in rows:
        print(" | ".join(row.values()), file=sys.stderr, flush=True)
        yield row


if __name__ == "__main__":
    main()
