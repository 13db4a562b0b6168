"""A model and a dataset in which films and words speak of the same thing: what retrieval and zero-shot tests share."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.model import ImageFeatures, Preprocessing, TextBatch, TextFeatures
from medbench.progress import Progress
from medbench.task import Environment, TaskData

SIDE = 6
WIDTH = SIDE * SIDE
ENV = Environment(torch.device("cpu"), "32", Path(), Progress(quiet=True))


def template(word: str) -> np.ndarray:
    """(SIDE, SIDE) uint8: what a film looks like that shows this word."""
    rng = np.random.default_rng(zlib.crc32(word.encode()))
    return rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)


class Toy(nn.Module):
    """A film is its pixels, a text the mean of the films that its words look like. `collapsed`: all are one."""

    preprocessing = Preprocessing(size=SIDE, resize=SIDE)

    def __init__(self, collapsed: bool = False) -> None:
        super().__init__()
        self.collapsed = collapsed
        self.words: dict[str, int] = {"[pad]": 0}
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(1)  # a module with a mode

    def vector(self, word: str) -> Tensor:
        return torch.from_numpy(template(word).astype(np.float32).ravel()) / 127.5 - 1

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        pixels = images[:, 0].flatten(1)
        return ImageFeatures(pixels * self.weight, pixels[:, :, None])

    def tokenize(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        split = [[(w, n) for n, s in enumerate(report) for w in s.split()] for report in reports]
        longest = max(map(len, split))
        ids = torch.zeros(len(split), longest, dtype=torch.int64)
        word, sentence = torch.full_like(ids, -1), torch.full_like(ids, -1)
        for row, words in enumerate(split):
            for place, (text, number) in enumerate(words):
                ids[row, place] = self.words.setdefault(text, len(self.words))
                word[row, place], sentence[row, place] = place, number
        return TextBatch(ids, word >= 0, word, sentence)

    def encode_text(self, text: TextBatch) -> TextFeatures:
        table = torch.stack([self.vector(word) for word in self.words])
        local = table[text.ids] * text.mask[:, :, None]  # (B, T, WIDTH)
        pooled = local.sum(1) / text.mask.sum(1, keepdim=True)
        return TextFeatures(pooled, local, text.mask, text.sentence)

    def embed_image(self, features: ImageFeatures) -> Tensor:
        return self._embed(features.pooled)

    def embed_text(self, features: TextFeatures) -> Tensor:
        return self._embed(features.pooled)

    def _embed(self, vectors: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        return F.normalize(torch.ones_like(vectors) if self.collapsed else vectors, dim=-1)


class LocalToy(Toy):
    """Looks for its best word, too."""

    def local_similarity(self, images: ImageFeatures, texts: TextFeatures) -> Tensor:
        words = F.normalize(texts.local, dim=-1)
        films = F.normalize(images.pooled, dim=-1)
        found = torch.einsum("id,twd->itw", films.double(), words.double())
        return 3 * found.masked_fill(~texts.mask, -1).amax(2).float()


def dataset(
    shown: Sequence[str],
    reports: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    labels: dict[str, Sequence[float]] | None = None,
    noise: float = 20.0,
    seed: int = 0,
    order: Sequence[int] | None = None,
) -> TaskData:
    """Films that show a word each, all of them for testing; `order` is that of the index."""
    count = len(shown)
    rng = np.random.default_rng(seed)
    pure = np.stack([template(word).astype(np.float64) for word in shown])
    films = np.clip(pure + rng.normal(0, noise, pure.shape), 0, 255).astype(np.uint8)
    table = pd.DataFrame(
        {
            "sample": [f"s{k:03d}" for k in range(count)],
            "patient": [f"p{k:03d}" for k in range(count)] if patients is None else list(patients),
            "report": [""] * count if reports is None else list(reports),
            **{f"label_{name}": np.asarray(values, np.float64) for name, values in (labels or {}).items()},
        }
    )
    rows = np.arange(count) if order is None else np.asarray(order)
    index = Index(
        "toy", Path("/toy"), "phantom", table.iloc[rows].reset_index(drop=True), tuple(labels or ())
    )
    nothing = np.zeros(0, np.int64)
    prepared = PreparedImages(films[rows], np.full((count, 2), SIDE), "hash")
    return TaskData(index, Split("any", nothing, nothing, np.arange(count)), lambda side, fit: prepared)
