"""Pathology-level alignment (PCMA of PLACE, arXiv 2506.10573): image and sentence must agree.

Each image b gives K visual observations v_bk, its report gives a sentence vector t_bs for each sentence.
Every sentence is paired with an observation of its own image:

    soft:       u_bs = norm( sum_k softmax_k(t_bs . v_bk / tau_p) v_bk )
    hungarian:  u_bs = v_b,pi(s), pi the one-to-one assignment with the highest sum of cosines

    L = 1/2N sum_bs [ CE(u_bs . t_b's' / tau, bs) + CE(u_b's' . t_bs / tau, bs) ]

over all N paired sentences. A negative b's' is dropped when its sentence says the same, t_bs . t_b's' >=
cosine (normal statements repeat across patients), and with `negatives="report"` when it is of another report.
With `gather`, bs runs over the sentences of this process and b's' over those of all, and N is the mean over
processes.

RECONSTRUCTION: that observations and sentences are paired and aligned is confirmed by the
paper's abstract; the pairing rule, the contrast and every number are ours. The assignment follows PRIOR (ICCV
2023).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.chunks import in_chunks
from medbench_methods.losses.gather import gather as gather_rows
from medbench_methods.losses.gather import processes, rank_offset

Pairing = Literal["soft", "hungarian"]
Negatives = Literal["batch", "report"]


@full_precision
def pathology_alignment(
    observations: Tensor,
    sentences: Tensor,
    mask: Tensor,
    *,
    pairing: Pairing = "soft",
    negatives: Negatives = "batch",
    temperature: float = 0.07,
    pairing_temperature: float = 0.1,
    false_negative_cosine: float = 0.95,
    gather: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Contrast of paired observations and sentences, both directions.

    Memory is O((B S)^2): 12 MB in float32 for each matrix at B 144, S 12; times the processes with `gather`. With
    `chunk`, a matrix has the rows of that many pairs at a time.

    Args:
        observations: (B, K, E) float, unit vectors.
        sentences: (B, S, E) float, unit vectors where `mask` is True; what stands elsewhere does not matter.
        mask: (B, S) bool, True where there is a sentence.
        pairing: which observation a sentence is compared with. With `hungarian`, a report with more than K
            sentences leaves the rest unpaired, and they take no part; the assignment runs on the CPU.
        negatives: all sentences of the batch, or those of the same report only.
        temperature: tau > 0 of the contrast.
        pairing_temperature: tau_p > 0 of the soft pairing.
        false_negative_cosine: sentences at least this similar are no negatives of each other.
        gather: take the sentences of all processes as negatives, not only of this one; all have the same S.
        chunk: pairs at a time, computed once more backward; None for all at once.

    Returns:
        0-d tensor; 0 for a batch without a sentence.
    """
    if pairing == "soft":
        similar = sentences @ observations.transpose(1, 2)  # (B, S, E) x (B, E, K) -> (B, S, K)
        share = (similar / pairing_temperature).softmax(-1)
        paired = F.normalize(share @ observations, dim=-1)  # (B, S, K) x (B, K, E) -> (B, S, E)
    else:
        choice, mask = _assign(observations, sentences, mask)
        paired = observations.gather(1, choice[:, :, None].expand(-1, -1, observations.shape[2]))  # (B, S, E)

    width = mask.shape[1]
    visual, textual, valid = (
        paired.flatten(0, 1),
        sentences.flatten(0, 1),
        mask.flatten(),
    )  # (N, E), (N, E), (N,)
    every = (visual, textual, valid)
    if gather:
        every = (gather_rows(visual), gather_rows(textual), gather_rows(valid))
    every_visual, every_textual, every_valid = every  # (M, E), (M, E), (M,); M = N times the processes
    own = torch.arange(len(valid), device=mask.device) + (rank_offset(valid) if gather else 0)  # (N,)
    column = torch.arange(len(every_valid), device=mask.device)  # (M,)

    def entropies(visual: Tensor, textual: Tensor, valid: Tensor, own: Tensor) -> Tensor:
        """(N,) of some sentences; without meaning where there is none."""
        with torch.no_grad():
            keep = textual @ every_textual.T < false_negative_cosine  # (N, M)
            if negatives == "report":
                keep &= own[:, None] // width == column[None, :] // width
            keep |= own[:, None] == column[None, :]
            keep &= valid[:, None] & every_valid[None, :]
        # Not -inf, so that rows without a sentence stay finite; halved so that two can be added.
        floor = torch.finfo(visual.dtype).min / 2
        there = (visual @ every_textual.T / temperature).masked_fill(~keep, floor)  # rows are observations
        back = (textual @ every_visual.T / temperature).masked_fill(~keep, floor)  # rows are sentences
        right = (visual * textual).sum(1) / temperature  # (N,)
        return (there.logsumexp(1) + back.logsumexp(1)) / 2 - right

    rows = None if chunk is None else chunk * width
    entropy = in_chunks(entropies, rows, visual, textual, valid, own)
    count = every_valid.sum().clamp_min(1) / (processes() if gather else 1)
    return (entropy * valid).sum() / count


@torch.no_grad()
def _assign(observations: Tensor, sentences: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """For each sentence: (B, S) int64, its observation, and (B, S) bool, True where one was left."""
    # Half a second to import, and only this pairing needs it.
    from scipy.optimize import linear_sum_assignment

    similar = (sentences @ observations.transpose(1, 2)).cpu().numpy()  # (B, S, K)
    present = mask.cpu().numpy()
    choice = torch.zeros(mask.shape, dtype=torch.int64)
    chosen = torch.zeros(mask.shape, dtype=torch.bool)
    for b in range(len(similar)):
        rows = present[b].nonzero()[0]
        of_rows, columns = linear_sum_assignment(similar[b, rows], maximize=True)
        choice[b, rows[of_rows]] = torch.from_numpy(columns)
        chosen[b, rows[of_rows]] = True
    return choice.to(mask.device), chosen.to(mask.device)
