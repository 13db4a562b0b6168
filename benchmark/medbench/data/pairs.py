"""Image-report pairs for pretraining: which ones make up batch k of epoch e, and nothing else matters.

The order depends on (seed, epoch), the crop of a film on (seed, epoch, row). No state is carried from one batch to the
next, so a loader can start at any batch and gives the batches that an uninterrupted one would have given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medbench.data.augment import crop, random_corners
from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.reports import CLEANINGS, DEFAULT_CLEANING
from medbench.data.shards import copy_rows
from medbench.errors import DataError, UsageError
from medbench.model import Preprocessing, TextBatch, VisionLanguageModel
from medbench.seeding import derive_seed, uniforms

_TOKENIZE_CHUNK = 4096
"""Reports tokenised at a time: bounds the memory that a corpus of hundreds of thousands takes in between."""


@dataclass(frozen=True)
class Reports:
    """The reports of a corpus and the rows of its index that they belong to.

    Attributes:
        rows: (N,) int64, sorted rows of the index whose report has something left after cleaning.
        sentences: N reports, each a list of sentences.
        without_text: rows that were left out, because nothing of their report is left.
    """

    rows: npt.NDArray[np.int64]
    sentences: Sequence[Sequence[str]]
    without_text: int

    def __len__(self) -> int:
        return len(self.rows)


def read_reports(index: Index, rows: npt.NDArray[np.int64], cleaning: str = DEFAULT_CLEANING) -> Reports:
    """Cut the reports of `rows` into sentences, and leave out the rows where none is left.

    Args:
        index: the corpus.
        rows: of the index, in any order.
        cleaning: a name of `medbench.data.reports.CLEANINGS`.
    """
    sentences = CLEANINGS[cleaning].sentences
    texts = index.table["report"].to_numpy(dtype=object)
    rows = np.sort(np.asarray(rows, dtype=np.int64))
    cut = [sentences(texts[row]) for row in rows]
    kept = np.array([bool(report) for report in cut], dtype=bool)
    return Reports(rows[kept], [report for report in cut if report], int((~kept).sum()))


@dataclass(frozen=True)
class Batch:
    """One batch as it comes from memory, before the device cuts and normalises it.

    Attributes:
        images: (B, R, R) uint8 films.
        corners: (B, 2) int64, top and left of the crops, pixels.
        text: their reports.
        epoch: from 0; -1 in validation.
        number: of the batch in its epoch, from 0.
        report_vectors: (B, R) float32, what the method gave for their reports before training; None if nothing.
    """

    images: Tensor
    corners: Tensor
    text: TextBatch
    epoch: int
    number: int
    report_vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`; does not wait for the copy where the memory is pinned."""
        return type(self)(
            self.images.to(device, non_blocking=True),
            self.corners.to(device, non_blocking=True),
            self.text.to(device, non_blocking=True),
            self.epoch,
            self.number,
            None if self.report_vectors is None else self.report_vectors.to(device, non_blocking=True),
        )

    def films(self, size: int) -> Tensor:
        """(B, S, S) uint8, the crops, on the batch's device."""
        return crop(self.images, self.corners, size)


class Pairs:
    """Prepared films and tokenised reports of one part (training or validation) of a corpus.

    Reports are tokenised once, here, and keep the padding that the tokenizer gave the longest: a method's numbers may
    depend on the padding (MGCA's released code lets padded words into its batch statistics), so it must not depend on
    which reports share a batch.

    Attributes:
        rows: (N,) int64, row of the index and of the prepared films of each pair, sorted.
    """

    def __init__(
        self,
        reports: Reports,
        images: PreparedImages,
        model: VisionLanguageModel,
        report_vectors: Tensor | None = None,
        *,
        scale: int = 1,
    ) -> None:
        """Tokenise; films and crops are `scale` times as large as what the model sees.

        `report_vectors` (N, R) are what the method gave for these reports, None if nothing.
        """
        self.rows = reports.rows
        self._vectors = report_vectors
        self._films = images.images
        self._preprocessing: Preprocessing = model.preprocessing
        self._scale = scale
        self._text = tokenize_all(reports.sentences, model)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(
        self,
        positions: npt.NDArray[np.int64],
        corners: npt.NDArray[np.int64],
        epoch: int,
        number: int,
        pin: bool,
    ) -> Batch:
        """The pairs at `positions` (sorted, so that films are read in the order of the file)."""
        rows = self.rows[positions]
        films = torch.empty((len(rows), *self._films.shape[1:]), dtype=torch.uint8, pin_memory=pin)
        copy_rows(self._films, rows, films.numpy())
        ids, mask, word, sentence = (torch.from_numpy(part[positions]) for part in self._text)
        text = TextBatch(ids.long(), mask, word.long(), sentence.long())
        where = torch.from_numpy(corners)
        vectors = None if self._vectors is None else self._vectors[torch.from_numpy(positions)]
        if pin:
            where = where.pin_memory()
            vectors = None if vectors is None else vectors.pin_memory()
            text = TextBatch(*(part.pin_memory() for part in (text.ids, text.mask, text.word, text.sentence)))
        return Batch(films, where, text, epoch, number, vectors)

    def text_ids(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A number for each of these pairs, equal where their reports are token for token the same."""
        ids, mask = self._text[0][positions], self._text[1][positions]
        tokens = np.where(mask, ids, -1)
        return np.unique(tokens, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def side(self) -> int:
        """Of the films, pixels."""
        return int(self._films.shape[1])

    @property
    def size(self) -> int:
        """Of the crops, pixels."""
        return self._preprocessing.size * self._scale


def tokenize_all(
    reports: Sequence[Sequence[str]], model: VisionLanguageModel
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Tokenise in chunks, and pad all reports as the longest of them.

    Returns:
        ids, mask, word and sentence as in `TextBatch`, each (N, T), T of the longest; in half the memory of int64.
    """
    chunks = [
        model.tokenize(reports[start : start + _TOKENIZE_CHUNK])
        for start in range(0, len(reports), _TOKENIZE_CHUNK)
    ]
    length = max((chunk.ids.shape[1] for chunk in chunks), default=0)
    shape = (len(reports), length)
    ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    word, sentence = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    start = 0
    for chunk in chunks:
        n, t = chunk.ids.shape
        if n and t < length:  # what the tokenizer pads with, for a chunk whose longest report is shorter
            padding = chunk.ids[~chunk.mask]
            ids[start : start + n] = int(padding[0]) if len(padding) else 0
        for whole, part in (
            (ids, chunk.ids),
            (mask, chunk.mask),
            (word, chunk.word),
            (sentence, chunk.sentence),
        ):
            whole[start : start + n, :t] = part.numpy()
        start += n
    return ids, mask, word, sentence


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of every batch; joined in their order, shares are the batch.

    Attributes:
        number: of the process, from 0.
        of: processes.
    """

    number: int = 0
    of: int = 1

    def cut(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The share of these positions."""
        begin, end = (len(positions) * k // self.of for k in (self.number, self.number + 1))
        return positions[begin:end]


WHOLE: Final = Share()
"""Of one process."""


class TrainingBatches:
    """Batches of training pairs, epoch after epoch; what Lightning iterates over.

    Each epoch is a new order of all pairs, cut into batches; the rest that fills no batch, or no optimiser step, is
    left out of that epoch. Inside a batch pairs are in the order of the index.

    Attributes:
        batch_size: pairs a batch, over all processes; the whole corpus where it is smaller than a batch.
        accumulate: batches an optimiser step; the whole epoch where it has fewer.
    """

    def __init__(
        self,
        pairs: Pairs,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        pin: bool = False,
        share: Share = WHOLE,
    ) -> None:
        if len(pairs) < 2:
            raise DataError(
                f"pretraining needs at least 2 training pairs of an image and a report with words in it, found"
                f" {len(pairs)}. Check the corpus's report column and its training split."
            )
        self.batch_size = min(batch_size, len(pairs))
        whole = len(pairs) // self.batch_size
        self.accumulate = min(accumulate, whole)
        self._length = whole // self.accumulate * self.accumulate
        if share.of > 1 and (self.batch_size % share.of or self.batch_size < 2 * share.of):
            raise UsageError(
                f"A batch of {self.batch_size} pairs can not be shared by {share.of} processes; expected a multiple of"
                f" {share.of}, at least {2 * share.of}. Set pretrain.batch_size, which is that of all processes"
                " together, or start as many processes as divide it."
            )
        self._pairs, self._pin, self._share = pairs, pin, share
        self._order_seed, self._crop_seed = derive_seed(seed, "order"), derive_seed(seed, "crop")
        self._next = (0, 0)

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._length

    def start_at(self, epoch: int, number: int) -> None:
        """Let the next iteration begin at batch `number` of `epoch`; the ones after it begin at later epochs' start."""
        self._next = (epoch, number)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(N,) int64, positions of the pairs in the order of this epoch."""
        drawn = uniforms(self._order_seed, epoch, self._pairs.rows, 1)[:, 0]
        return np.argsort(drawn, kind="stable").astype(np.int64)

    def batch(self, epoch: int, number: int, order: npt.NDArray[np.int64] | None = None) -> Batch:
        """Batch `number` of `epoch`; `order` is this epoch's, where it is at hand."""
        order = self.order(epoch) if order is None else order
        whole = np.sort(order[number * self.batch_size : (number + 1) * self.batch_size])
        positions = self._share.cut(whole)
        drawn = uniforms(self._crop_seed, epoch, self._pairs.rows[positions], 2)
        corners = random_corners(drawn, self._pairs.side, self._pairs.size)
        return self._pairs.batch(positions, corners, epoch, number, self._pin)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        epoch, start = self._next
        order = self.order(epoch)
        for number in range(start, len(self)):
            self._next = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
            yield self.batch(epoch, number, order)


class ValidationBatches:
    """Validation pairs in the order of the index, centre crops, every pair once; the last batch may be smaller.

    Attributes:
        batch_size: pairs a batch, over all processes; all of them where they are fewer, less what can not be shared.
    """

    def __init__(self, pairs: Pairs, batch_size: int, pin: bool = False, share: Share = WHOLE) -> None:
        self.batch_size = max(share.of, min(batch_size, len(pairs) // share.of * share.of))
        self._pairs, self._pin, self._share = pairs, pin, share

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._pairs) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """All batches; of the last one a process may have nothing."""
        corner = (self._pairs.side - self._pairs.size) // 2
        for number in range(len(self)):
            positions = self._positions(number)
            corners = np.full((len(positions), 2), corner, dtype=np.int64)
            yield self._pairs.batch(positions, corners, -1, number, self._pin)

    def is_full(self, number: int) -> bool:
        """Whether batch `number` has as many pairs as the others."""
        return (number + 1) * self.batch_size <= len(self._pairs)

    def in_gallery(self, number: int, most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The pairs of batch `number` that belong to the gallery: all, or `most` of the corpus, evenly spaced.

        Returns:
            (G,) places in the batch, of this process' share; (G,) places in the gallery.
        """
        gallery, positions = self._gallery(most), self._positions(number)
        inside = np.flatnonzero(np.isin(gallery, positions))
        return np.searchsorted(positions, gallery[inside]), inside

    def _positions(self, number: int) -> npt.NDArray[np.int64]:
        stop = min((number + 1) * self.batch_size, len(self._pairs))
        return self._share.cut(np.arange(number * self.batch_size, stop, dtype=np.int64))

    def gallery_text_ids(self, most: int) -> npt.NDArray[np.int64]:
        """(G,) equal for gallery pairs whose reports are token for token the same, in the order of the batches."""
        return self._pairs.text_ids(self._gallery(most))

    def _gallery(self, most: int) -> npt.NDArray[np.int64]:
        total = len(self._pairs)
        return np.linspace(0, total - 1, min(total, most)).round().astype(np.int64)
