"""Word-region contrast over the batch (the local loss of GLoRIA, ICCV 2021): which report's words does an image hold?

With v_p the P regions of image b and w_l the words of report i, neither normalised:

    s_lp = w_l . v_p
    a_lp = softmax_p( scale_a softmax_l(s_lp) )            a region chooses a word, then a word its regions
    c_l  = sum_p a_lp v_p                                  what the image holds about word l
    M_bi = log sum_l exp( scale_m cos(w_l, c_l) )
    L    = 1/B sum_b CE_i(scale_c M_bi, b) + 1/B sum_i CE_b(scale_c M_bi, i)

A report without a word takes no part, nor does its image as an anchor. With `gather`, the anchors are the pairs of
this process, the candidates those of all, and B is the mean over processes.

Source: GLoRIA's released code (gloria/loss/gloria_loss.py), scales 4, 5 and 10. There, each report in turn forms the
contexts c_l of all images, D numbers for each word and image. A cosine needs less: with G = V V^T, the Gram matrix of
the regions of an image,

    w_l . c_l = sum_p a_lp s_lp,      |c_l|^2 = a_l^T G a_l,

and G (P x P) is made once an image. Contexts are never formed, forward or backward.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.gather import gather as gather_rows
from medbench_methods.losses.gather import processes, rank_offset

TILE = 8
"""Reports at a time on a CPU: with some 50 words each and 361 regions, a tile of half a megabyte stays in the cache."""

EPSILON = 1e-8
"""Least product of lengths that a cosine divides by (the released code)."""


@full_precision
def gloria_local(
    regions: Tensor,
    words: Tensor,
    mask: Tensor,
    *,
    attention_scale: float = 4.0,
    matching_scale: float = 5.0,
    contrast_scale: float = 10.0,
    gather: bool = False,
) -> Tensor:
    """Contrast of images and reports by how well regions and words match, both directions.

    Kept for the gradient are two numbers for each word of the batch and region of the batch: 0.3 GB in float32 at
    B 48, 45 words a report, P 361. Another B D (P + 2 W) hold the gradient in backward.

    Args:
        regions: (B, P, D) float, any length.
        words: (B, W, D) float; what stands outside of `mask` does not matter.
        mask: (B, W) bool, True where there is a word.
        attention_scale: scale_a, of the softmax over regions.
        matching_scale: scale_m, of the cosines.
        contrast_scale: scale_c, of the matchings.
        gather: take the candidates of all processes, not only of this one; all have the same W.

    Returns:
        0-d tensor: the two cross entropies, summed; 0 for a batch without a word.
    """
    scales = (attention_scale, matching_scale)
    if gather and processes() > 1:
        every_regions, every_words, every_mask = gather_rows(regions), gather_rows(words), gather_rows(mask)
        by_image = matching(regions, every_words, every_mask, *scales)  # (B, W B)
        by_report = matching(every_regions, words, mask, *scales).T  # (B, W B)
    else:
        every_mask = mask
        by_image = matching(regions, words, mask, *scales)  # (B, B)
        by_report = by_image.T
    valid, every_valid = mask.any(1), every_mask.any(1)
    # Not -inf, so that an anchor without words stays finite until it is left out.
    by_image = (contrast_scale * by_image).masked_fill(~every_valid, torch.finfo(by_image.dtype).min)
    by_report = (contrast_scale * by_report).masked_fill(~every_valid, torch.finfo(by_image.dtype).min)
    own = torch.arange(len(valid), device=mask.device) + (rank_offset(mask) if gather else 0)
    entropy = F.cross_entropy(by_image, own, reduction="none") + F.cross_entropy(
        by_report, own, reduction="none"
    )
    count = every_valid.sum().clamp_min(1) / (processes() if gather else 1)
    return entropy.masked_fill(~valid, 0).sum() / count


def matching(
    regions: Tensor, words: Tensor, mask: Tensor, attention_scale: float = 4.0, matching_scale: float = 5.0
) -> Tensor:
    """M: how well each image holds each report.

    Args:
        regions: (I, P, D) float, of images.
        words: (R, W, D) float, of reports.
        mask: (R, W) bool, True where there is a word.
        attention_scale: scale_a.
        matching_scale: scale_m.

    Returns:
        (I, R); 0 and without gradient for a report without words.
    """
    arguments = (regions, words, mask, attention_scale, matching_scale, torch.is_grad_enabled())
    return cast(Tensor, _Matching.apply(*arguments))


def _tiles(mask: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows of (R, W) `mask`, and to which length to cut them.

    On the CPU, where to look at a length is to wait for nothing, reports of like length come together and their
    padding is left out. Elsewhere, and in a graph, which can hold no lengths, all come at once as they are.
    """
    reports, width = mask.shape
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        yield torch.arange(reports, device=mask.device), width
        return
    lengths = (mask * torch.arange(1, width + 1, device=mask.device)).amax(
        1
    )  # (R,), the place after the last word
    order = lengths.argsort(stable=True)
    for rows in torch.split(order, TILE):
        yield rows, max(int(lengths[rows[-1]]), 1)


class _Matching(torch.autograd.Function):
    """`matching` with its gradient by hand.

    The gradient of M_bi with respect to s_lp and G is known up to the one number dL/dM_bi as soon as M_bi is. So it
    is made while the tile is in the cache, and backward is left with products of matrices.
    """

    @staticmethod
    def forward(
        ctx: Any,
        regions: Tensor,
        words: Tensor,
        mask: Tensor,
        attention_scale: float,
        matching_scale: float,
        with_gradient: bool,
    ) -> Tensor:
        images, places, _ = regions.shape
        matched = regions.new_zeros(images, len(words))
        tiles = list(_tiles(mask))
        n = sum(len(rows) * longest for rows, longest in tiles)  # word slots
        kept = n if with_gradient else 0
        attention = regions.new_empty(images, kept, places)  # a
        slope = regions.new_empty(images, kept, places)  # dM / ds
        # dM / d|c_l|^2 times -2, and dM / d|w_l| by |w_l| times -1
        by_context, by_word = regions.new_empty(2, images, kept)
        for image in range(images):
            v = regions[image]  # (P, D)
            gram = v @ v.T  # (P, P)
            start = 0
            for rows, longest in tiles:
                tile, present = words[rows, :longest], mask[rows, :longest]  # (R, T, D), (R, T)
                length = tile.square().sum(2).sqrt()  # (R, T)
                flat = tile.flatten(0, 1)  # (R, T, D) -> (N, D)
                shape = (*present.shape, places)
                s = (flat @ v.T).view(shape)  # (N, D) x (D, P) -> (R, T, P)
                chosen = s.masked_fill(~present[:, :, None], torch.finfo(s.dtype).min).softmax(1)
                a = (chosen * attention_scale).softmax(2)
                h = (a.flatten(0, 1) @ gram).view(shape)  # (N, P) x (P, P)
                dot = (a * s).sum(2)  # w . c
                square = (a * h).sum(2).clamp_min(0)  # |c|^2; rounding may bring it below
                lengths = length * square.sqrt()
                cosine = dot / lengths.clamp_min(EPSILON)  # (R, T)
                scaled = (cosine * matching_scale).masked_fill(~present, torch.finfo(s.dtype).min)
                total = scaled.logsumexp(1)  # (R,)
                matched[image, rows] = total.masked_fill(~present.any(1), 0)
                if not with_gradient:
                    continue
                weight = matching_scale * (scaled - total[:, None]).exp() * present  # dM / dcos
                apart = (
                    weight * cosine * (lengths > EPSILON)
                )  # 0 where EPSILON takes the place of the lengths
                x = weight / lengths.clamp_min(EPSILON)  # dM / d(w . c)
                y = apart / square.clamp_min(torch.finfo(s.dtype).tiny)
                # dM / da = x s - y h, and back through both softmaxes; in place, it is one tile
                g = (s * x[:, :, None]).addcmul_(h, y[:, :, None], value=-1)
                g.sub_((x * dot - y * square)[:, :, None]).mul_(a)
                g.mul_(chosen).mul_(attention_scale)
                g.addcmul_(chosen, g.sum(1, keepdim=True), value=-1).addcmul_(a, x[:, :, None])
                stop = start + len(flat)
                attention[image, start:stop] = a.flatten(0, 1)
                slope[image, start:stop] = g.flatten(0, 1)
                by_context[image, start:stop] = y.flatten()
                by_word[image, start:stop] = (
                    apart / length.square().clamp_min(torch.finfo(s.dtype).tiny)
                ).flatten()
                start = stop
        ctx.tiles = tiles
        ctx.save_for_backward(regions, words, attention, slope, by_context, by_word)
        return matched

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        regions, words, attention, slope, by_context, by_word = ctx.saved_tensors
        (gradient,) = gradients  # (I, R)
        to_regions, to_words = torch.zeros_like(regions), torch.zeros_like(words)
        sums = [to_words.new_zeros(len(rows) * longest, words.shape[2]) for rows, longest in ctx.tiles]
        for image in range(len(regions)):
            v = regions[image]
            to_gram = v.new_zeros(len(v), len(v))
            start = 0
            for (rows, longest), into in zip(ctx.tiles, sums, strict=True):
                flat = words[rows, :longest].flatten(0, 1)  # (N, D)
                stop = start + len(flat)
                each = gradient[image, rows][:, None].expand(-1, longest).flatten()  # (N,)
                s = slope[image, start:stop] * each[:, None]  # (N, P)
                a = attention[image, start:stop]
                into.addmm_(s, v)
                into.addcmul_(flat, (each * by_word[image, start:stop])[:, None], value=-1)
                to_regions[image].addmm_(s.T, flat)
                to_gram.addmm_(a.T, a * (each * by_context[image, start:stop])[:, None])
                start = stop
            to_regions[image].addmm_(to_gram, v, alpha=-1)
        for (rows, longest), into in zip(ctx.tiles, sums, strict=True):
            to_words[rows, :longest] = into.view(len(rows), longest, -1)
        return to_regions, to_words, None, None, None, None
