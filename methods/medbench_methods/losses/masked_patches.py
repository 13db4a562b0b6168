"""Masked image modelling: the pixels of hidden patches must be told from the patches in sight.

    L = 1/|M| sum_{(b, p) in M} 1/C sum_c (z_bpc - y_bpc)^2,    y_bp = (x_bp - mean(x_bp)) / sqrt(var(x_bp) + 1e-6)

M are the hidden patches of the batch. Each patch is normalised by the mean and the (unbiased) variance of its own
pixels.

Source: MAE (arXiv 2111.06377, normalised targets), as in MRM (arXiv 2301.13155) and its released code.
"""

from torch import Tensor

from medbench_methods.losses._precision import full_precision


@full_precision
def masked_patches(predicted: Tensor, pixels: Tensor, hidden: Tensor) -> Tensor:
    """Squared error of the hidden patches.

    Args:
        predicted: (B, P, C) float.
        pixels: (B, P, C) float, of each patch, in the same order.
        hidden: (B, P) bool, True where a patch is to be told.

    Returns:
        0-d tensor; 0 where nothing is hidden.
    """
    scale = (pixels.var(2, keepdim=True) + 1e-6).sqrt()
    target = (pixels - pixels.mean(2, keepdim=True)) / scale
    each = (predicted - target).square().mean(2)  # (B, P)
    counts = hidden.to(each.dtype)
    return (each * counts).sum() / counts.sum().clamp_min(1)
