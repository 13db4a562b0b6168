"""CLIP on radiographs and reports: image-report InfoNCE and nothing else.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020); on
radiographs first Zhang et al., ConVIRT (arXiv 2010.00747). Fidelity `paper`: the objective is given in full
by either paper; encoders, text preparation, heads and optimisation are those of the ConVIRT inside MGCA's
released code (MGCA with its instance term alone), so that `clip` is the plain floor under
MGCA-like methods. It is neither OpenAI's model nor ConVIRT's own recipe (5.1: temperature 0.1, directions
weighted 0.75 and 0.25).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from medbench.method import Recipe
from medbench.model import ImageTextBatch
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.mgca import SCHEDULE
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig, DualEncoderMethod
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN_GLOBAL

COLDEST = 0.01
"""A learnt temperature is kept above this (CLIP, section 2.5: logits are not scaled by more than 100)."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig(DualEncoderConfig):
    """Encoders as in MGCA (see the fields of `DualEncoderConfig`), and the contrast."""

    temperature: float = 0.07
    """Of InfoNCE; where it starts if it is learnt. MGCA's released code has 0.07; CLIP starts from the same value."""

    learn_temperature: bool = False
    """Learn the temperature, as CLIP does. MGCA and ConVIRT keep it fixed, and so do we by default."""


class Clip(DualEncoderMethod):
    """Image-report InfoNCE."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(ClipConfig(**TINY), TINY_PRETRAIN_GLOBAL),
        "paper": Recipe(ClipConfig(), SCHEDULE),
        "micro": Recipe(ClipConfig(**MICRO), MICRO_PRETRAIN),
    }
    config: ClipConfig
    model: DualEncoder

    def __init__(self, config: ClipConfig, model: DualEncoder) -> None:
        """Join the model and what only training needs."""
        super().__init__(config, model)
        # exp() keeps it positive and makes its steps relative.
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(config.temperature)), requires_grad=config.learn_temperature
        )

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """One term, `ita`."""
        image = self.model.embed_image(self.model.encode_image(batch.images))  # (B, E)
        text = self.model.embed_text(self.model.encode_text(batch.text))  # (B, E)
        temperature = self.log_temperature.exp()
        if self.config.learn_temperature:  # at its bound it stays: there a clamp gives no gradient
            temperature = temperature.clamp_min(COLDEST)
        return {"ita": info_nce(image, text, temperature, gather=self.config.gather)}
