"""Which reports say the same, by a text encoder that is never trained: one vector a report, computed once."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medbench.errors import WeightsError
from medbench.files import replacing
from medbench.method import Setup
from medbench.model import TextBatch
from medbench_methods.modules.text_encoder import TextEncoder
from medbench_methods.modules.tokenizer import ReportTokenizer

_CHUNK = 64
"""Reports encoded at a time."""

_COMPARED = 2_000
"""Most reports whose pairs a quantile is taken over, evenly spaced: 2 million pairs."""


class ReportEncoder(nn.Module):
    """A text encoder as it stood before training; it stays in eval mode and gets no gradient.

    Its vectors of a corpus are kept in the setup's store, under a hash of its weights and of the reports.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        """Freeze an encoder, which is then this module's own."""
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: dropout would make the vectors change."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, text: TextBatch) -> Tensor:
        """Tokenised reports -> (B, R) float32 unit vectors, also under autocast."""
        with torch.autocast(text.ids.device.type, enabled=False):
            return F.normalize(self.encoder(text).pooled.float(), dim=-1)

    def to_bytes(self) -> bytes:
        """The architecture, as the JSON of transformers."""
        return self.encoder.to_bytes()

    def of_corpus(self, reports: Sequence[Sequence[str]], tokenizer: ReportTokenizer, setup: Setup) -> Tensor:
        """(N, R) float32 unit vectors on the CPU, from the setup's store if they are there.

        Raises:
            WeightsError: the file in the store can not be read, or holds something else.
        """
        path = None
        if setup.store is not None:
            path = setup.store / f"report-vectors-{self._key(reports, tokenizer)}.safetensors"
            if path.is_file():
                return self._stored(len(reports), path)
        vectors = self._encode(reports, tokenizer, setup.device)
        if path is not None:
            with replacing(path) as partial:
                save_file({"vectors": vectors}, partial)
        return vectors

    def _key(self, reports: Sequence[Sequence[str]], tokenizer: ReportTokenizer) -> str:
        digest = hashlib.sha256(f"{self.encoder.pooling} {tokenizer.max_tokens}".encode())
        digest.update(hashlib.sha256(tokenizer.to_bytes()).digest())
        digest.update(self.encoder.to_bytes())
        for name, value in self.encoder.state_dict().items():
            digest.update(f"{name};".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        for report in reports:
            digest.update(json.dumps(list(report)).encode())
        return digest.hexdigest()[:24]

    def _stored(self, rows: int, path: Path) -> Tensor:
        try:
            vectors = load_file(path).get("vectors")
        except SafetensorError as error:
            raise WeightsError(
                f"{path}: not a safetensors file ({error}). Delete it; it is made again."
            ) from None
        if vectors is None or vectors.shape != (rows, self.encoder.width):
            found = "no tensor `vectors`" if vectors is None else f"vectors of shape {tuple(vectors.shape)}"
            raise WeightsError(
                f"{path}: {found}; expected ({rows}, {self.encoder.width}). Delete it; it is made again."
            )
        return vectors

    def _encode(
        self, reports: Sequence[Sequence[str]], tokenizer: ReportTokenizer, device: torch.device
    ) -> Tensor:
        before = next(self.parameters()).device
        vectors = torch.empty(len(reports), self.encoder.width)
        self.to(device)
        for start in range(0, len(reports), _CHUNK):
            chunk = tokenizer(reports[start : start + _CHUNK])
            vectors[start : start + _CHUNK] = self(chunk.to(device)).cpu()
        self.to(before)
        return vectors


def share_alike(vectors: Tensor, reports: Sequence[Sequence[str]], threshold: float) -> float:
    """Of the pairs of reports with different text, the share whose cosine reaches a threshold.

    Args:
        vectors: (N, R) float, unit vectors; of more than 2,000, so many are taken, evenly spaced.
        reports: what they are the vectors of, each a list of sentences.
        threshold: delta.

    Returns:
        0 to 1; 0 where no two reports differ.
    """
    numbers: dict[str, int] = {}
    text = torch.tensor([numbers.setdefault(json.dumps(list(report)), len(numbers)) for report in reports])
    chosen = _sampled(len(vectors))
    cosines, text = vectors[chosen] @ vectors[chosen].T, text[chosen]
    different = text[:, None] != text[None, :]  # each pair twice, and none with itself
    reached = different & (cosines >= threshold)
    return float(reached.sum() / different.sum().clamp_min(1))


def similarity_quantile(vectors: Tensor, quantile: float) -> float:
    """The cosine that a share `quantile` of all pairs of different rows stays below.

    Args:
        vectors: (N, R) float, unit vectors, N > 1; of more than 2,000, so many are taken, evenly spaced.
        quantile: 0 to 1.

    Returns:
        At most 1 - 1e-6, so that equal reports, whose cosine is 1 up to rounding, always reach it.
    """
    some = vectors[_sampled(len(vectors))]
    pairs = torch.triu_indices(len(some), len(some), offset=1)
    cosines = (some @ some.T)[pairs[0], pairs[1]]
    return min(float(cosines.quantile(quantile)), 1 - 1e-6)


def _sampled(rows: int) -> Tensor:
    """Numbers of the rows whose pairs are looked at, evenly spaced."""
    return torch.linspace(0, rows - 1, min(rows, _COMPARED)).round().long()
