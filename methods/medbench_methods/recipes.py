"""Encoders of the small recipes, the same for every method: a table compares objectives, not backbones.

The `paper` encoders need no entry: they are the defaults of `ImageConfig` and `TextConfig`.
"""

from typing import Any

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
    "text_mlm_epochs": 3,
    "embed": 128,
    "hidden": 256,
}
"""With a text encoder from scratch: no hub is asked. It first learns hidden words, which for 2,500 reports takes about
20 seconds on two cores, once for all methods."""

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
