"""A method in one file: config, model, loss."""

from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from medbench.method import Method, PretrainConfig, Recipe
from medbench.model import ImageFeatures, Preprocessing, TextBatch, TextFeatures


@dataclass(frozen=True)
class ExampleConfig:
    side: int = 128
    """Side of the film, pixels."""
    width: int = 16
    """Channels at stride 2; they double at each of the next four."""
    words: int = 4096
    """Word vectors. A word's place is a hash of it, so there is no vocabulary to learn or to save."""
    temperature: float = 0.1


class Model(nn.Module):
    def __init__(self, config: ExampleConfig):
        super().__init__()
        self.preprocessing = Preprocessing(size=config.side, resize=config.side)
        channels = [3, *(config.width * 2**i for i in range(5))]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in pairwise(channels)
        )
        self.vectors = nn.Embedding(config.words, 128)
        self.image_head, self.text_head = nn.Linear(channels[-1], 128), nn.Linear(128, 128)

    def encode_image(self, images, pyramid=False):
        maps = []
        for stage in self.stages:
            maps.append(images := stage(images))  # (B, C, H, W) -> (B, 2C, H/2, W/2)
        return ImageFeatures(pooled=images.mean((2, 3)), pyramid=tuple(maps) if pyramid else None)

    def tokenize(self, reports):
        size = self.vectors.num_embeddings
        words = [[(i, crc32(w.encode()) % size) for i, s in enumerate(r) for w in s.split()] for r in reports]
        padded = pad_sequence([torch.tensor(w) for w in words], batch_first=True, padding_value=-1)
        sentence, ids = padded.unbind(-1)  # (B, T, 2) -> twice (B, T)
        mask = sentence >= 0
        return TextBatch(ids.clamp(min=0), mask, torch.where(mask, torch.arange(mask.shape[1]), -1), sentence)

    def encode_text(self, text):
        local = self.vectors(text.ids) * text.mask[..., None]  # (B, T) -> (B, T, 128)
        return TextFeatures(local.sum(1) / text.mask.sum(1, keepdim=True), local, text.mask, text.sentence)

    def embed_image(self, features):
        return F.normalize(self.image_head(features.pooled), dim=-1)

    def embed_text(self, features):
        return F.normalize(self.text_head(features.pooled), dim=-1)


class ExampleMethod(Method):
    """The contrast of films and their reports with the others of the batch, in both directions."""

    recipes = {  # noqa: RUF012
        "tiny": Recipe(ExampleConfig(), PretrainConfig(epochs=5, batch_size=64, lr=1e-3, warmup=0.1)),
        "paper": Recipe(
            ExampleConfig(side=224, width=32), PretrainConfig(epochs=50, batch_size=144, lr=1e-3)
        ),
        "micro": Recipe(ExampleConfig(side=64, width=8), PretrainConfig(epochs=1, batch_size=16, lr=1e-3)),
    }

    def __init__(self, config):
        super().__init__()
        self.config, self.model = config, Model(config)

    @classmethod
    def from_corpus(cls, config, reports, setup):
        return cls(config)

    @classmethod
    def from_assets(cls, config, assets):
        return cls(config)

    def losses(self, batch, epoch):
        image = self.model.embed_image(self.model.encode_image(batch.images))
        text = self.model.embed_text(self.model.encode_text(batch.text))
        logits = image @ text.T / self.config.temperature  # (B, E) x (E, B) -> (B, B)
        target = torch.arange(len(logits), device=logits.device)
        return {"contrast": F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)}
