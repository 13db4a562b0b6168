"""Which attention kernel is used: on the CPU plain products, elsewhere torch's choice.

One layer of a ViT-B/16 on 8 images, forward and backward, one core with AMX (torch 2.14): plain products 53 ms in
float32 and 32 ms in bf16, the fused kernel 55 and 83 ms, torch's own plain kernel (MATH) 70 and 76 ms.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from medbench_methods.modules.packing import Packing

ATTENTION = "medbench"
"""Name of `attend` in transformers, for `_attn_implementation`."""


def attention_kernel(device: torch.device) -> AbstractContextManager[Any]:
    """For torch's own layers, which know no other plain products: MATH on the CPU, else torch's choice."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention for the layers of transformers.

    With a `packing`, which the layers hand on from their call, B is 1 and T all tokens of a batch: each report attends
    to itself, and no mask is needed.

    Args:
        module: the layer.
        query: (B, heads, T, d).
        key: (B, heads, T, d).
        value: (B, heads, T, d).
        attention_mask: (B, 1, 1 or T, T), bool with True where there is a token, or float, which is added; or None.
        scaling: of the scores.
        dropout: probability.
        packing: of the reports in the one row of tokens.

    Returns:
        (B, T, heads, d), and None for the weights, which nobody keeps.
    """
    if packing is not None:
        # (1, heads, N, d) -> (N, heads, d) -> (B, T, heads, d) -> (B, heads, T, d)
        query, key, value = (
            packing.unpack(x[0].transpose(0, 1)).transpose(1, 2) for x in (query, key, value)
        )
        present = packing.mask[:, None, None]  # (B, 1, 1, T)
        padded = attend(module, query, key, value, present, scaling=scaling, dropout=dropout)[0]
        return packing.pack(padded)[None], None  # (B, T, heads, d) -> (1, N, heads, d)
    if query.device.type != "cpu":
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return mixed.transpose(1, 2).contiguous(), None
    scores = (query * scaling) @ key.transpose(2, 3)  # (B, heads, T, T)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


def choose_attention(blocks: nn.ModuleList, device: torch.device) -> None:
    """The same for the blocks of a ViT of timm, which have both."""
    for block in blocks:
        inner: Any = block.attn
        if inner.fused_attn != (device.type != "cpu"):
            inner.fused_attn = device.type != "cpu"
