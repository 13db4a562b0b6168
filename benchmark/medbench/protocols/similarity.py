"""How near films and texts are in a model's eyes: what retrieval and zero-shot classification compare.

Every model with a joint space gives a global similarity, the cosine of its embeddings. One that also gives a local
similarity (`medbench.model.LocallySimilar`), of words and the regions that they speak of, has both.

Films and texts are encoded in an order of their own (films by sample id, texts by their tokens), each once: texts that
are token for token the same share one embedding, so they are tied exactly, and neither the order of an index nor how
often a text occurs changes a number. Texts are padded as the longest of all, whatever batch they come in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medbench.data.augment import centre_crop
from medbench.data.pairs import tokenize_all
from medbench.devices import autocast
from medbench.errors import WeightsError
from medbench.metrics.retrieval import Similarity, cosine
from medbench.model import ImageFeatures, LocallySimilar, TextBatch, TextFeatures, VisionLanguageModel
from medbench.protocols.features import evaluating, read_films
from medbench.task import Environment, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

BATCH_SIZE = 64
"""Films, and texts, a forward pass. No result depends on it beyond the rounding of a matrix product."""

_BLOCK = 1024
"""Films whose similarities are looked at together where their spread is worked out."""

_TEXTS_ON_DEVICE = 2 * 2**30
"""Bytes of text features that stay on the device for the local similarity. Those beyond wait in main memory and come
over for every batch of films: 20,000 reports of 112 words take 7 GB."""

_UNIT = 2.0**-50
"""What `cosine` gives for equal directions, upside down."""


@dataclass(frozen=True)
class Compared:
    """I films and T texts.

    Attributes:
        images: (I, E) float32 embeddings.
        distinct: (U, E) float32 embeddings of the texts that differ.
        text: (T,) int64, which of those each text is.
        local: (I, U) float32, the model's local similarity; None where it has none.
    """

    images: npt.NDArray[np.float32]
    distinct: npt.NDArray[np.float32]
    text: Rows
    local: npt.NDArray[np.float32] | None

    @property
    def said(self) -> str:
        """Which similarities there are, for the record."""
        return "global (cosine of embeddings)" + ("" if self.local is None else " and local (of the model)")

    def cosines(self) -> Floats:
        """(I, T) float64, -1 to 1; exact in the sense of `medbench.metrics.retrieval.cosine`."""
        everything = slice(None)
        found = _exact(self.images, self.distinct)(everything, everything) * _UNIT
        return found[:, self.text]

    def averaged(self) -> Floats:
        """(I, T) float64: the mean of global and local similarity on the scales that the model gives them on.

        As GLoRIA's released code compares films and prompts (gloria.py, get_similarities). Without a local similarity
        it is the cosine.
        """
        if self.local is None:
            return self.cosines()
        return (self.cosines() + self.local[:, self.text]) / 2

    def standardised(self) -> Similarity:
        """The mean of global and local similarity, both z-scored over all pairs of a film and a text.

        For rankings, where the scales of the two have to be the same, as in GLoRIA's retrieval. Without a
        local similarity it is the cosine.
        """
        # Only the pairs that are asked for are multiplied: a query may be a text, and then a block is a few columns.
        globally = _exact(self.images, self.distinct[self.text])
        local, text = self.local, self.text
        if local is None:
            return globally
        often = np.bincount(text, minlength=len(self.distinct)).astype(np.float64)  # (U,)

        def locally(rows: slice, columns: slice) -> Floats:
            return local[rows, columns].astype(np.float64)

        scales = [
            _Scale.of(values, len(local), often) for values in (_exact(self.images, self.distinct), locally)
        ]

        def block(rows: slice, columns: slice) -> Floats:
            # Entry by entry, so that equal pairs are tied in any block.
            both: Floats = scales[0](globally(rows, columns))
            both += scales[1](local[rows, text[columns]].astype(np.float64))
            both /= 2
            return both

        return block


def _exact(
    images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32]
) -> Callable[[slice, slice], Floats]:
    similarity = cosine(images, texts)
    return lambda rows, columns: np.asarray(similarity(rows, columns), np.float64)


@dataclass(frozen=True)
class _Scale:
    """What z-scores take off and divide by."""

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Similarity, rows: int, often: Floats) -> "_Scale":
        """Of (rows, U) values whose column u counts `often[u]` times."""
        count = rows * float(often.sum())
        first = float(values(slice(0, 1), slice(0, 1))[0, 0])
        total = squares = 0.0
        for start in range(0, rows, _BLOCK):
            # Moved, so that values that are all equal have no spread, not that of rounding.
            moved = values(slice(start, start + _BLOCK), slice(None)) - first
            total += float(moved.sum(axis=0) @ often)
            squares += float(np.square(moved).sum(axis=0) @ often)
        mean = total / count
        return cls(mean + first, float(np.sqrt(max(squares / count - mean**2, 0.0))))

    def __call__(self, values: Floats) -> Floats:
        scaled: Floats = (values - self.mean) / self.spread if self.spread else np.zeros_like(values)
        return scaled


def compare(
    model: VisionLanguageModel,
    data: TaskData,
    rows: Rows,
    texts: Sequence[Sequence[str]],
    env: Environment,
    batch_size: int = BATCH_SIZE,
) -> Compared:
    """Encode films and texts and hold them against each other.

    Args:
        model: on `env.device`, with a joint space.
        data: whose films; padded to a square of `preprocessing.resize` and cut to its centre.
        rows: (I,) positions in the index.
        texts: T texts, each a list of sentences.
        env: `device`, `precision` and `progress` are used.
        batch_size: films, and texts, a forward pass.

    Returns:
        Row i of it belongs to `rows[i]`, text t to `texts[t]`.

    Raises:
        WeightsError: an embedding or a local similarity is not finite, or an embedding is zero.
    """
    batch, text = _distinct(*tokenize_all(texts, model))
    samples = data.index.table["sample"].to_numpy(dtype=object)[rows]
    order = np.argsort(samples.astype(str), kind="stable")
    local = isinstance(model, LocallySimilar)
    with evaluating(model):
        distinct, features = _texts(model, batch, env, batch_size, keep=local)
        images, similar = _images(model, data, rows[order], features, env, batch_size)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    _check(images, samples[order], "film", env)
    _check(distinct, [_start(texts, text, u) for u in range(len(distinct))], "text", env)
    if similar is not None and not np.isfinite(similar).all():
        raise WeightsError(f"the local similarity of {type(model).__name__} is not finite for some pairs.")
    return Compared(images[back], distinct, text, None if similar is None else similar[back])


def _distinct(
    ids: npt.NDArray[np.int32],
    mask: npt.NDArray[np.bool_],
    word: npt.NDArray[np.int32],
    sentence: npt.NDArray[np.int32],
) -> tuple[TextBatch, Rows]:
    """The texts (T, tokens) that differ, in the order of their tokens, and which of them each is."""
    key = np.concatenate([np.where(mask, ids, -1), word, sentence], axis=1)
    _, first, which = np.unique(key, axis=0, return_index=True, return_inverse=True)
    some = (torch.from_numpy(part[first]) for part in (ids, mask, word, sentence))
    ids_, mask_, word_, sentence_ = some
    text = TextBatch(ids_.long(), mask_, word_.long(), sentence_.long())
    return text, which.reshape(-1).astype(np.int64)


def _texts(
    model: VisionLanguageModel, text: TextBatch, env: Environment, batch_size: int, keep: bool
) -> tuple[npt.NDArray[np.float32], list[TextFeatures]]:
    """(U, E) embeddings; and, if they are kept, the features, the first of them on the device."""
    embeddings: list[Tensor] = []
    kept: list[TextFeatures] = []
    room = _TEXTS_ON_DEVICE
    with env.progress.track("encoding texts", len(text.ids), "texts") as advance:
        for start in range(0, len(text.ids), batch_size):
            part = (p[start : start + batch_size] for p in (text.ids, text.mask, text.word, text.sentence))
            with autocast(env.device, env.precision):
                features = model.encode_text(TextBatch(*part).to(env.device))
                embeddings.append(model.embed_text(features).float())
            if keep:
                room -= sum(part.nbytes for part in vars(features).values() if isinstance(part, Tensor))
                kept.append(features if room >= 0 else features.to(torch.device("cpu"), False))
            advance(len(embeddings[-1]))
    return torch.cat(embeddings).cpu().numpy(), kept


def _images(
    model: VisionLanguageModel,
    data: TaskData,
    rows: Rows,
    texts: Sequence[TextFeatures],
    env: Environment,
    batch_size: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """(I, E) embeddings, and (I, U) local similarities to `texts` where there are any."""
    inputs = model.preprocessing
    films = data.images(inputs.resize, "pad").images
    embeddings: list[Tensor] = []
    similar: list[Tensor] = []
    with env.progress.track("encoding films", len(rows), "films") as advance:
        for start in range(0, len(rows), batch_size):
            pixels = read_films(films, rows[start : start + batch_size], env.device)  # (B, H, W)
            with autocast(env.device, env.precision):
                features: ImageFeatures = model.encode_image(
                    inputs.normalise(centre_crop(pixels, inputs.size))
                )
                embeddings.append(model.embed_image(features).float())
                if isinstance(model, LocallySimilar) and texts:
                    parts = [model.local_similarity(features, part.to(env.device)).float() for part in texts]
                    similar.append(torch.cat(parts, dim=1).cpu())  # (B, U)
            advance(len(pixels))
    images: npt.NDArray[np.float32] = torch.cat(embeddings).cpu().numpy()
    return images, torch.cat(similar).numpy() if similar else None


def _check(
    vectors: npt.NDArray[np.float32],
    names: Sequence[str] | npt.NDArray[np.object_],
    what: str,
    env: Environment,
) -> None:
    broken = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)))
    if len(broken):
        raise WeightsError(
            f"the embeddings of {len(broken):,} of {len(vectors):,} {what}s are zero or not finite (the first is"
            f" {names[broken[0]]}), at precision {env.precision}. Try --precision 32; if nothing changes, the weights"
            " hold NaN or infinity: pretrain again with a lower learning rate, or check the checkpoint."
        )


def _start(texts: Sequence[Sequence[str]], which: Rows, number: int) -> str:
    """The beginning of a text, for a message."""
    return repr(" ".join(texts[int(np.argmax(which == number))])[:60])
