"""Masked language modelling: the word-pieces that were hidden must be told from the rest of the report.

    L = -1/|M| sum_{(b, t) in M} log softmax_v(z_bt)_{x_bt}

M are the hidden positions of the whole batch, so a report with many hidden words counts for more.

Source: BERT (arXiv 1810.04805, section 3.1, task 1).
"""

import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision


@full_precision
def masked_words(logits: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Cross-entropy over the hidden positions.

    Args:
        logits: (..., V) float, scores of the vocabulary.
        target: (...) int64, the ids that were there.
        hidden: (...) bool, True where one is to be told.

    Returns:
        0-d tensor; 0 where nothing is hidden.
    """
    each = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")  # (N, V) -> (N,)
    counts = hidden.flatten().to(each.dtype)
    return (each * counts).sum() / counts.sum().clamp_min(1)
