"""Encoders of the small recipes, the same for every method: a table compares objectives, not backbones.

The `paper` encoders need no entry: they are the defaults of `ImageConfig` and `TextConfig`.
"""

from dataclasses import replace
from typing import Any

from medbench.method import PretrainConfig

TINY_IMAGE: dict[str, Any] = {
    "backbone": "resnet18",
    "layers": (1, 1, 1, 1),
    "channels": (32, 64, 128, 256),
    "pretrained": False,
    "size": 96,
    "resize": 108,
    "upsample": 0,
}
"""Minutes on two CPU cores: the smallest net of a few tried that still learns, a quarter of a ResNet-10's time."""

TINY: dict[str, Any] = {
    **TINY_IMAGE,
    "text_encoder": "scratch",
    "text_pooling": "mean",
    "text_layers": 2,
    "text_max_tokens": 96,
    "text_dropout": 0.0,
    "text_width": 128,
    "text_heads": 4,
    "text_vocabulary": 2_000,
    "text_init": 0.09,
    "text_mlm_epochs": 1,
    "text_mlm_share": 0.3,
    "text_mlm_batch": 4,
    "embed": 128,
    "hidden": 256,
}
"""With a text encoder from scratch: no hub is asked. It first learns hidden words, for one epoch, as all of a tiny
pretraining has to fit into minutes. Few are told afterwards, but reports differ: their mean vectors have a cosine of
0.72 to 0.80 on average, over three seeds. With BERT's values, 0.02 for the weights, 15 % of the words hidden and
batches of 32, an epoch ends where only the frequency of words is known and all reports have the same vector (1.0000),
from which no method whose text side is frozen, or not normalised, gets away within its minutes. 0.09 is
1 / sqrt(width)."""

WHOLE_REPORTS: dict[str, Any] = {"full_report": True}
"""For methods that draw one sentence of a report a step. In the few epochs of `tiny` a film would meet each of its
sentences about once, and most of them are normal findings that half of the batch shares, so that little is learnt from
the contrast. What it costs is in their pages."""

MICRO_IMAGE: dict[str, Any] = {**TINY_IMAGE, "size": 64, "resize": 72}
"""Seconds; only tests use it."""

MICRO: dict[str, Any] = {
    **TINY,
    **MICRO_IMAGE,
    "text_layers": 1,
    "text_max_tokens": 48,
    "text_width": 64,
    "text_vocabulary": 500,
    "text_mlm_epochs": 1,
    "embed": 32,
    "hidden": 64,
}
"""With a text encoder from scratch."""

TINY_PRETRAIN = PretrainConfig(epochs=7, batch_size=32, lr=2e-3, warmup=0.1, patience=None)
"""Some three minutes on two CPU cores, for methods with local terms. Rates of 1e-3, 2e-3 and 4e-3 differ little for
`clip`: validation loss after three epochs 6.35, 6.20, 6.17."""

TINY_PRETRAIN_GLOBAL = replace(TINY_PRETRAIN, epochs=10)
"""For methods that look at whole films and reports alone: a step takes them less time, so that with more epochs every
method gets about the same minutes."""

MICRO_PRETRAIN = PretrainConfig(epochs=1, batch_size=16, lr=1e-3, warmup=0.1, patience=None)
"""Seconds; only tests use it."""
