"""The loss of MGCA's released code for segmentation: 10 x focal loss - log of the soft Dice of a whole batch.

With z the logit of a pixel, t its truth (0 or 1), p = sigmoid(z) and q = p where t is 1, else 1 - p:

    focal = mean over pixels and films of (1 - q)^2 (- log q)                  (gamma 2, no weight of a class)
    dice  = (2 sum p t + 1) / (sum p + sum t + 1)                              (sums over all pixels of all films)
    loss  = 10 focal - log dice

A batch whose masks are all empty has dice 1 / (sum p + 1): its loss is finite and falls to 0 with the prediction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_WEIGHT = 10.0
"""mgca/models/ssl_segmenter.py."""

GAMMA = 2.0
"""Likewise."""

SMOOTH = 1.0
"""Likewise: added above and below in the Dice, in pixels."""


def film_terms(logits: Tensor, masks: Tensor) -> Tensor:
    """What the loss of a batch is made of, film by film.

    Args:
        logits: (B, 1, S, S) float.
        masks: (B, S, S) bool.

    Returns:
        (B, 4): the focal loss (mean over pixels), sum p t, sum p, sum t (pixels); float64 of float64, else float32.
    """
    z = logits[:, 0] if logits.dtype == torch.float64 else logits[:, 0].float()
    truth = masks.to(z.dtype)
    right = torch.where(masks, z, -z)  # q = sigmoid(right)
    focal = torch.sigmoid(-right) ** GAMMA * -F.logsigmoid(right)
    p = torch.sigmoid(z)
    pixels = (1, 2)
    return torch.stack([focal.mean(pixels), (p * truth).sum(pixels), p.sum(pixels), truth.sum(pixels)], dim=1)


def batch_loss(terms: Tensor) -> Tensor:
    """The loss of a batch, a scalar, of what `film_terms` gave for its films (B, 4)."""
    focal = terms[:, 0].mean()
    shared, predicted, true = terms[:, 1:].sum(0)
    return FOCAL_WEIGHT * focal - torch.log((2 * shared + SMOOTH) / (predicted + true + SMOOTH))


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """The loss of a batch, a scalar; arguments as `film_terms` takes them."""
    return batch_loss(film_terms(logits, masks))


def mean_loss(terms: Tensor, batch: int) -> float:
    """The loss over many films: of batches in the order of the films, each weighing as many films as it holds.

    The batches are part of the definition, so the number does not depend on how many films were predicted at a time.

    Args:
        terms: (N, 4), of N films from 1 up.
        batch: films a batch; a last, smaller one is kept.
    """
    parts = torch.split(terms.double(), batch)
    total = torch.stack([batch_loss(part) * len(part) for part in parts]).sum()
    return float(total / len(terms))
