"""Label-free probe (`knn`): the nearest training films vote. Nothing is trained.

Features are centred on the mean of the films that vote and brought to length 1, as Y. Wang et al. do (SimpleShot, arXiv
1911.04623, "CL2N"): pooled features of most encoders lie in a narrow cone, where without centring all films are alike.
The nearest k films of the fraction by cosine vote with weight exp((cosine - cosine of the nearest) / temperature), as
Z. Wu et al. weight them (arXiv 1805.01978, section 3.4; temperature 0.07). A class's neighbours are the nearest films
whose label is known.

The share of the votes for a class, with one vote more that is the share of the class in the whole fraction, is its
probability; the score is its log-odds. That vote keeps the score finite and tells films apart from which k of k
neighbours speak for a class, as few neighbours would not. k is chosen on validation as the penalty of `lp` is: for each
class by AUROC, or for classes that exclude each other in common by accuracy; of equally good ones by the log-loss, then
the largest. A class without a positive or a negative in the fraction is treated as there, too.

Cosines are computed in float64 and rounded to 4e-9; of equal ones the film that comes first in the index is nearer. So
films that are in a set twice do not make the neighbours depend on how films are put into blocks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from medbench.protocols.probe_features import FeatureProbe, ProbeFeatures, Scaling
from medbench.protocols.selection import choose, one_valued, prior_log_odds
from medbench.task import Environment, Evaluation, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_GRID, _PLACE = 2.0**-28, 2.0**-50
"""What cosines are rounded to, and what a place in the fraction makes up; up to 2 million films keep apart."""

QUERIES = 512
"""Films whose votes are counted at a time."""


@dataclass(frozen=True)
class NearestNeighboursConfig:
    """Numbers of the protocol; the same at every recipe.

    Attributes:
        neighbours: the grid, ascending; own choice around the 10, 20, 100 and 200 of DINO (arXiv 2104.14294). A
            fraction with fewer films gives all that it has.
        temperature: of the votes, from arXiv 1805.01978.
        scaling: what is done to the features first.
        choose: what k is chosen by, see `medbench.protocols.selection.choose`.
    """

    neighbours: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    temperature: float = 0.07
    scaling: str = "centred on the mean of the films of the fraction whose label is known, length 1"
    choose: str = (
        "validation AUROC of the class, accuracy where classes exclude each other; of equal ones the lower validation"
        " log-loss, then the largest k"
    )


class NearestNeighbours(FeatureProbe):
    """Labels that may occur together, each with its own neighbours, or classes that exclude each other."""

    config = NearestNeighboursConfig()

    def evaluate(
        self, features: ProbeFeatures, data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Choose k on validation by the votes of `train`, let it vote on the test rows."""
        classes, split = self.names(data.index), data.split
        labels, validation = self.labels(data.index, train), self.labels(data.index, split.val)
        absent = one_valued(labels, classes, "training fraction")
        prior = prior_log_odds(labels, exclusive=self.exclusive)
        asked = np.concatenate([split.val, split.test])
        scores = np.broadcast_to(prior, (len(self.config.neighbours), len(asked), len(classes))).copy()
        voted = np.array([k for k, name in enumerate(classes) if name not in absent], np.int64)
        known = ~np.isnan(labels)
        # Classes that are known for the same films have the same neighbours; usually that is all of them.
        patterns, which = np.unique(known[:, voted], axis=1, return_inverse=True)
        for number, pattern in enumerate(patterns.T):
            own = voted[which.ravel() == number]
            near, cosine = nearest(features, train[pattern], asked, max(self.config.neighbours), env.device)
            share = 1 / (1 + np.exp(-prior[own]))
            scores[:, :, own] = self._votes(labels[pattern][:, own], near, cosine, share)
        held = len(split.val)
        choice = choose(
            "neighbours",
            self.config.neighbours,
            validation,
            scores[:, :held],
            classes,
            exclusive=self.exclusive,
            untrained={name: f"{note}: every film has the same score" for name, note in absent.items()},
        )
        found = choice.of(scores)
        return Evaluation(self.predictions(data, found[held:], found[:held]), choice.search)

    def _votes(self, labels: Floats, near: Tensor, cosine: Tensor, prior: Floats) -> Floats:
        """(K, M, C) log-odds by number of neighbours.

        Args:
            labels: (n, C) 1 or 0, of the films that vote.
            near: (M, k) which of them are nearest, the nearest first.
            cosine: (M, k) of these.
            prior: (C,) share of each class.
        """
        truth = torch.from_numpy(labels).to(near.device)
        extra = torch.from_numpy(prior).to(near.device)
        upto = [min(k, near.shape[1]) - 1 for k in self.config.neighbours]
        parts = []
        for start in range(0, len(near), QUERIES):
            block = slice(start, start + QUERIES)
            weight = ((cosine[block] - cosine[block, :1]) / self.config.temperature).exp()  # (b, k)
            votes = weight.cumsum(1)[:, upto]  # (b, K)
            spoken = (weight[..., None] * truth[near[block]]).cumsum(1)[:, upto]  # (b, K, C)
            share = (spoken + extra) / (votes + 1)[..., None]
            parts.append((share / (1 - share)).log().transpose(0, 1).cpu().numpy())
        scores: Floats = np.concatenate(parts, axis=1)
        return scores


def nearest(
    features: ProbeFeatures, train: Rows, asked: Rows, most: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The nearest of some films by the cosine of their features, centred on the mean of these films.

    Args:
        features: of all films.
        train: n rows of the index, among which to look.
        asked: M rows of the index.
        most: how many to find; all n, if there are fewer.
        device: to compute on.

    Returns:
        (M, k) int64 positions in `train` and (M, k) float64 cosines, the nearest first. A film of length 0, at the
        mean, has cosine 0 with all others, as all have whose features do not vary.
    """
    scaling = Scaling.of(features, train)
    most = min(most, len(train))
    best = torch.full((len(asked), most), -torch.inf, dtype=torch.float64, device=device)
    where = torch.zeros(len(asked), most, dtype=torch.int64, device=device)
    for part, block in scaling.blocks(features, train, device):
        films = functional.normalize(block, dim=1)
        place = torch.arange(part.start, part.stop, device=device)
        for rows, queries in scaling.blocks(features, asked, device):
            cosine = functional.normalize(queries, dim=1) @ films.T  # (b, block)
            key = (cosine / _GRID).round() * _GRID - place * _PLACE
            # all that were found so far, and these: the largest keys, each of which there is only once
            keys = torch.cat([best[rows], key], 1)
            places = torch.cat([where[rows], place.expand(len(key), -1)], 1)
            best[rows], order = keys.topk(most, dim=1)
            where[rows] = places.gather(1, order)
    return where, ((best + where * _PLACE) / _GRID).round() * _GRID
