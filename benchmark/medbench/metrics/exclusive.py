"""Classes of which every film has exactly one: which one is it?

The class with the highest score is named. Classes that share the highest score share the film in equal parts, so that a
collapsed encoder is at chance whatever the order of the classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.metrics.bootstrap import DRAWS, bootstrap_blocks, percentile_interval
from medbench.task import Metric

Floats = npt.NDArray[np.float64]

INTERVAL = f"95 % percentile bootstrap over patients, {DRAWS} draws, no strata"
"""How `Metric.interval` names what this file makes: every film has a class."""

_TARGET = "target_"


def accuracy(target: Floats, score: Floats) -> float | None:
    """Share of films whose class has the highest score.

    Args:
        target: (N, C) 1, 0, or NaN where not known; a film without exactly one 1, or with a NaN, does not count.
        score: (N, C) finite, on one scale for all classes.

    Returns:
        0 to 1; None if no film counts.
    """
    kept = _single(target)
    if not kept.any():
        return None
    return float((target[kept] * _named(score[kept])).sum() / kept.sum())


def exclusive_metrics(predictions: pd.DataFrame) -> tuple[Metric, ...]:
    """`accuracy` and `macro_f1`, with intervals.

    F1 of a class is 2 hits / (films of the class + films named so), 0 where there are films of it and none is hit.
    Without a film of some class its F1, and so their plain mean, is not defined.

    Args:
        predictions: one row a film with `patient`, and `target_<class>` and `score_<class>` as in `accuracy`.

    Returns:
        Accuracy first; `per_class` of it is the share of the films of a class that are named right.

    Raises:
        ValueError: a score is not finite.
    """
    columns = [str(column) for column in predictions]
    classes = [column.removeprefix(_TARGET) for column in columns if column.startswith(_TARGET)]
    target = predictions[[f"target_{name}" for name in classes]].to_numpy(np.float64)  # (N, C)
    score = predictions[[f"score_{name}" for name in classes]].to_numpy(np.float64)
    kept = _single(target)
    target, score = target[kept], score[kept]
    if not len(target):
        nothing = "no film with exactly one class"
        return tuple(
            Metric(name, None, None, None, INTERVAL, 0, per_class=dict.fromkeys(classes), reason=nothing)
            for name in ("accuracy", "macro_f1")
        )
    if not np.isfinite(score).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(score))} of {score.size} scores are not finite")
    named = _named(score)
    whole = _Counts.of(target, named, np.ones((1, len(target))))
    patients = predictions["patient"].to_numpy(dtype=str)[kept].tolist()
    # Everyone has a class: one stratum.
    blocks = bootstrap_blocks(patients, np.zeros(len(target), np.bool_))
    draws = [_Counts.of(target, named, weights.astype(np.float64)) for weights in blocks]
    empty = [name for name, films in zip(classes, whole.films[0], strict=True) if not films]
    reason = f"no film of {', '.join(empty)}" if empty else ""
    bounds = percentile_interval(np.concatenate([counts.accuracy() for counts in draws]))
    f1_bounds = percentile_interval(np.concatenate([counts.f1().mean(axis=1) for counts in draws]))
    return (
        Metric(
            name="accuracy",
            value=float(whole.accuracy()[0]),
            low=bounds[0],
            high=bounds[1],
            interval=INTERVAL,
            n=len(target),
            per_class=_by_class(classes, whole.recall()[0]),
            reason=reason,
        ),
        Metric(
            name="macro_f1",
            value=None if empty else float(whole.f1()[0].mean()),
            low=None if empty else f1_bounds[0],
            high=None if empty else f1_bounds[1],
            interval=INTERVAL,
            n=len(target),
            per_class=_by_class(classes, whole.f1()[0]),
            reason=reason,
        ),
    )


class _Counts:
    """Films of each class, films named so, and hits, (D, C) in D draws."""

    def __init__(self, films: Floats, named: Floats, hits: Floats) -> None:
        self.films, self.named, self.hits = films, named, hits

    @classmethod
    def of(cls, target: Floats, named: Floats, weights: Floats) -> "_Counts":
        """From (N, C) truths and shares, and (D, N) weights."""
        return cls(weights @ target, weights @ named, weights @ (target * named))

    def accuracy(self) -> Floats:
        """(D,)."""
        found: Floats = self.hits.sum(axis=1) / self.films.sum(axis=1)
        return found

    def recall(self) -> Floats:
        """(D, C), NaN without films of the class."""
        return _ratio(self.hits, self.films, self.films)

    def f1(self) -> Floats:
        """(D, C), NaN without films of the class."""
        return _ratio(2 * self.hits, self.films + self.named, self.films)


def _ratio(above: Floats, below: Floats, where: Floats) -> Floats:
    out: Floats = np.full(above.shape, np.nan)
    np.divide(above, below, out=out, where=where > 0)
    return out


def _by_class(classes: Sequence[str], values: Floats) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)
    }


def _single(target: Floats) -> npt.NDArray[np.bool_]:
    """(N,) whether a film has exactly one class, and all of its labels are known."""
    single: npt.NDArray[np.bool_] = ((target == 1).sum(axis=1) == 1) & ~np.isnan(target).any(axis=1)
    return single


def _named(score: Floats) -> Floats:
    """(N, C) shares, 1 a film in all."""
    best = (score == score.max(axis=1, keepdims=True)).astype(np.float64)
    shared: Floats = best / best.sum(axis=1, keepdims=True)
    return shared
