"""Agreement on prototypes (CPA of MGCA, NeurIPS 2022, arXiv 2210.06044; the codes are SwAV's, arXiv 2006.09882).

With K unit prototypes c_k, unit embeddings v_b, t_b of an image and its report, z_b = (v_b . c_k)_k and y_b =
(t_b . c_k)_k:

    codes:  q = sinkhorn(z),  u = sinkhorn(y)          no gradient: which prototypes a sample should go to
    L = 1/2B sum_b [ CE(u_b, softmax(z_b / tau)) + CE(q_b, softmax(y_b / tau)) ]

so that each modality predicts the code of the other. CE(q, p) = -sum_k q_k log p_k. Sinkhorn begins with
Q = exp(z / epsilon) and scales, `iterations` times, first its prototypes (columns) to equal sums and then its
samples (rows) to equal sums; samples sum to 1 in the end.

Numbers: MGCA's released code. Under data parallel training its sums run over the samples of all processes; so do
these.
"""

import torch
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.gather import sum_over_processes


@full_precision
def prototype_alignment(
    image: Tensor,
    text: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = 0.2,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Cross entropy of each modality's prediction to the other's code.

    Args:
        image: (B, E) float, unit vectors.
        text: (B, E) float, unit vectors; row i belongs to row i of `image`.
        prototypes: (K, E) float, unit vectors.
        temperature: tau > 0 of the predictions.
        epsilon: > 0, entropy of the codes.
        iterations: of Sinkhorn, at least 1.

    Returns:
        0-d tensor.
    """
    by_image, by_text = image @ prototypes.T, text @ prototypes.T  # z, y: (B, E) x (E, K) -> (B, K)
    image_code = sinkhorn(by_image, epsilon=epsilon, iterations=iterations)
    text_code = sinkhorn(by_text, epsilon=epsilon, iterations=iterations)
    from_image = (text_code * (by_image / temperature).log_softmax(1)).sum(1)  # (B,)
    from_text = (image_code * (by_text / temperature).log_softmax(1)).sum(1)
    return -(from_image + from_text).mean() / 2


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Codes that use all prototypes alike over the batch; no gradient.

    Args:
        scores: (B, K) float, cosines.
        epsilon: > 0; the smaller, the harder the codes. In float32 at least 0.025.
        iterations: at least 1.

    Returns:
        (B, K), sum 1 a row. Columns have nearly equal sums over the rows of all processes.
    """
    # Cosines are 1 at most, so nothing overflows; a factor common to all changes nothing.
    codes = ((scores - 1) / epsilon).exp()
    least = torch.finfo(codes.dtype).tiny
    for _ in range(iterations):
        codes = codes / sum_over_processes(codes.sum(0)).clamp_min(least)  # (K,), prototypes
        codes = codes / codes.sum(1, keepdim=True).clamp_min(least)  # (B, 1), samples
    return codes
