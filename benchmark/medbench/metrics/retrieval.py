"""Retrieval: how a query ranks the whole gallery, a row each, and the metrics that are computed from these rows.

Two relations make an item relevant to a query: the same class (`p_at_1`, `map` ...) or the same pair, the report
written about this very film (`r_at_1`, `median_rank`). Each is measured from image to text (`i2t`) and from text to
image (`t2i`).

**Ties.** Items that are equally similar to a query have no order, so every metric is its expected value over all orders
of them. Normal films share reports word for word, and an encoder may collapse: counting ties as hits would make a
collapsed encoder perfect, counting them as misses would put it below chance, and the order of a file would make the
number depend on that order. The expected value puts it at chance, exactly.

**The same number everywhere.** Tied or not must not hang on how a matrix product was cut or on how many threads it had:
`cosine` is exact, see there. Nothing here depends on how many queries are ranked at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.metrics.bootstrap import DRAWS, Bootstrap, Resample, bootstrap_blocks, percentile_interval
from medbench.task import Metric

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

Similarity = Callable[[slice, slice], npt.NDArray[np.floating[Any]]]
"""(images, texts) -> (I, T) similarities of these images to these texts, any scale, higher is closer.

Global, local or a mean of both: whatever the method provides. What it gives for an image and a text must not depend on
the other images and texts of the same call, to the last bit, or ties come and go with the size of a block."""

Direction = Literal["i2t", "t2i"]
"""Image to text: images are the queries, texts the gallery; and text to image."""

PRECISION_AT = (1, 2, 5, 10)
"""Of MedCTA's tables; BenchX and GLoRIA have 1, 5, 10 and 5, 10, 100."""

RECALL_AT = (1, 5, 10)
"""Of CXR-CLIP's tables."""

INTERVAL = f"95 % percentile bootstrap over patients of the queries, {DRAWS} draws, the gallery stays whole"
"""How `Metric.interval` names what `retrieval_metrics` makes."""

_BITS = 25
"""Of an entry of a unit vector in `cosine`: products of such vectors stay below 2^53, where float64 counts exactly."""

_BLOCK_BYTES = 64 * 2**20
"""Of one block of similarities; ranking takes about three times as much."""

_MEDIAN = "median_rank"


@dataclass(frozen=True)
class Items:
    """N images, or N texts.

    Attributes:
        samples: id of each.
        patients: patient of each.
        classes: class of each, None for one that belongs to none; or None without classes.
        pairs: what each belongs to, a study, say: an image and a text are a pair if it is the same; None for an
            item without partner; or None without pairs.
    """

    samples: Sequence[str]
    patients: Sequence[str]
    classes: Sequence[str | None] | None = None
    pairs: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        found = {
            name: len(values)
            for name in ("samples", "patients", "classes", "pairs")
            if (values := getattr(self, name)) is not None
        }
        if len(set(found.values())) > 1:
            raise ValueError(f"one entry an item each, found {found}")
        if not len(self.samples):
            raise ValueError("retrieval needs one image and one text at least, found none")

    def __len__(self) -> int:
        return len(self.samples)


def cosine(images: npt.ArrayLike, texts: npt.ArrayLike) -> Similarity:
    """Cosine similarity, exact for vectors rounded to a grid.

    Vectors are scaled to unit length and their entries rounded to multiples of 2^-25, which moves a cosine by about
    1e-8, less than float32 does. Their products are then whole numbers that float64 holds exactly: the same to the
    last bit for any block and any number of threads, and equal vectors are tied.

    Args:
        images: (I, E) vectors, any length but 0.
        texts: (T, E) likewise.

    Returns:
        A `Similarity`, -2^50 to 2^50: only its order means something.

    Raises:
        ValueError: shapes do not fit, or a vector has no direction (zeros, or an entry that is not finite).
    """
    sides = [_on_grid(np.asarray(vectors)) for vectors in (images, texts)]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"vectors of one length are compared, shapes are {sides[0].shape}, {sides[1].shape}")

    def block(rows: slice, columns: slice) -> Floats:
        products: Floats = sides[0][rows] @ sides[1][columns].T
        return products

    return block


def _on_grid(vectors: npt.NDArray[Any]) -> Floats:
    if vectors.ndim != 2:
        raise ValueError(f"vectors are (N, E), found shape {vectors.shape}")
    scaled: Floats = np.array(vectors, dtype=np.float64, order="C")  # a copy
    largest = np.abs(scaled).max(axis=1, initial=0.0, keepdims=True)
    if bad := np.count_nonzero(~(np.isfinite(largest) & (largest > 0))):
        raise ValueError(
            f"{bad} of {len(scaled)} vectors have no direction: they are zero or have an entry that is not finite"
        )
    scaled /= largest  # so that no square overflows
    scaled *= 2.0**_BITS / np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.rint(scaled, out=scaled)


def rank(
    similarity: Similarity, images: Items, texts: Items, queries_at_once: int | None = None
) -> pd.DataFrame:
    """Rank the whole gallery for every query, in both directions.

    Memory beyond the result: about 200 MB for any gallery, as similarities are asked for a few queries at a time. The
    result takes up to a quarter of a byte for each query and item of the gallery, if there are classes.

    Args:
        similarity: of these images and texts.
        images: I of them.
        texts: T of them, with classes or pairs as the images have.
        queries_at_once: size of a block; changes time and memory, never the result.

    Returns:
        One row a query, images first. All that `retrieval_metrics` needs:

        - `sample`, `patient`, `direction`; `gallery`: items in it.
        - with classes: `class` (None without one); `class_relevant`: items of the same class; `class_order`: bytes,
          bit p (`numpy.packbits`, zeros at the end left out) tells whether the item at place p is one of them, most
          similar first, tied ones in no particular order; `class_ties`: bit p is 1 where the item at place p is
          exactly as similar as the one before. Together they are the whole ranking as far as classes see it.
        - with pairs: `pair_relevant`: partners in the gallery; `pair_above`: items more similar than the best
          partner; `pair_tied`: items as similar as it is, itself included; `pair_tied_relevant`: partners among
          these. Zeros without a partner.

    Raises:
        ValueError: classes or pairs are known of one side only, or neither of any; a similarity is not finite or
            the shape of a block is wrong.
    """
    for name in ("classes", "pairs"):
        if (getattr(images, name) is None) != (getattr(texts, name) is None):
            raise ValueError(f"{name} are given for images or for texts only, they have to be for both")
    if images.classes is None and images.pairs is None:
        raise ValueError("neither classes nor pairs say which items are relevant")
    return pd.concat(
        [
            _rank("i2t", similarity, images, texts, queries_at_once),
            _rank("t2i", lambda q, g: similarity(g, q).T, texts, images, queries_at_once),
        ],
        ignore_index=True,
    )


def _rank(
    direction: Direction, similarity: Similarity, queries: Items, gallery: Items, at_once: int | None
) -> pd.DataFrame:
    """The rows of one direction; `similarity` takes queries first."""
    columns: dict[str, Any] = {
        "sample": list(queries.samples),
        "patient": list(queries.patients),
        "direction": direction,
        "gallery": len(gallery),
    }
    class_rows: list[tuple[int, bytes, bytes]] = []
    pair_rows: list[Integers] = []
    classes = _codes(queries.classes, gallery.classes)
    pairs = _codes(queries.pairs, gallery.pairs)
    step = max(1, _BLOCK_BYTES // (8 * len(gallery))) if at_once is None else at_once
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        block = _comparable(similarity(rows, slice(0, len(gallery))), (rows.stop - start, len(gallery)))
        if pairs:
            pair_rows.append(_pair_rows(block, pairs[0][rows, None] == pairs[1]))
        if classes:
            class_rows.extend(_class_rows(block, classes[0][rows, None] == classes[1]))
    if queries.classes is not None:
        columns["class"] = list(queries.classes)
        for name, values in zip(("relevant", "order", "ties"), zip(*class_rows, strict=True), strict=True):
            columns[f"class_{name}"] = values
    if pairs:
        names = ("relevant", "above", "tied", "tied_relevant")
        for name, counts in zip(names, np.concatenate(pair_rows).T, strict=True):
            columns[f"pair_{name}"] = counts
    return pd.DataFrame(columns)


def _codes(
    queries: Sequence[str | None] | None, gallery: Sequence[str | None] | None
) -> tuple[Integers, Integers] | None:
    """Labels as numbers: equal where labels are equal and known. None without labels."""
    if queries is None or gallery is None:
        return None
    codes, _ = pd.factorize(np.array([*queries, *gallery], dtype=object))  # -1 is not known
    mine, theirs = codes[: len(queries)], codes[len(queries) :]
    return np.where(mine < 0, -2, mine), theirs


def _comparable(similarities: npt.NDArray[Any], shape: tuple[int, int]) -> Floats:
    """A copy in float64 with room for a mark: the last bit of the 53 is cleared, where `_class_rows` puts one.

    Similarities that differ in this bit alone are tied. Those in float32 do not have it, nor do those of `cosine`.
    """
    if similarities.shape != shape:
        raise ValueError(
            f"similarities of {shape[0]} queries and {shape[1]} items have shape {similarities.shape}"
        )
    block: Floats = np.array(similarities, dtype=np.float64, order="C")
    if bad := np.count_nonzero(~np.isfinite(block)):
        raise ValueError(f"{bad} of {block.size} similarities are not finite")
    bits = block.view(np.int64)
    bits &= ~1
    return block


def _pair_rows(block: Floats, relevant: Bools) -> Integers:
    """(q, G) -> (q, 4): relevant, above, tied, tied_relevant as in `rank`."""
    best = np.where(relevant, block, -np.inf).max(axis=1, keepdims=True)
    tied = block == best
    counts = [
        np.count_nonzero(of, axis=1) for of in (relevant, block > best, tied, np.logical_and(tied, relevant))
    ]
    rows = np.stack(counts, axis=1).astype(np.int64)
    rows[rows[:, 0] == 0] = 0  # nothing is relevant: all would be above
    return rows


def _class_rows(block: Floats, relevant: Bools) -> Iterator[tuple[int, bytes, bytes]]:
    """(q, G) -> relevant, order, ties as in `rank`; `block` is used up.

    The mark travels with its similarity through the sort, which is several times faster than sorting places.
    """
    bits = block.view(np.int64)
    bits |= relevant
    block.sort(axis=1)
    marks = bits[:, ::-1] & 1 == 1  # (q, G), most similar first
    bits &= ~1
    falling, tied = block[:, ::-1], np.zeros_like(marks)
    tied[:, 1:] = falling[:, 1:] == falling[:, :-1]
    counts = np.count_nonzero(marks, axis=1)
    order, ties = np.packbits(marks, axis=1), np.packbits(tied, axis=1)
    for k, count in enumerate(counts):
        yield int(count), order[k].tobytes().rstrip(b"\0"), ties[k].tobytes().rstrip(b"\0")


@dataclass(frozen=True)
class Groups:
    """One ranking: its groups of tied items that hold a relevant one, most similar first. Arrays are (K,) int64.

    Attributes:
        above: items more similar than those of the group.
        found: relevant ones among these.
        size: items of the group, 1 if nothing is tied.
        relevant: relevant ones among these, 1 at least.
    """

    above: Integers
    found: Integers
    size: Integers
    relevant: Integers

    @classmethod
    def from_bytes(cls, order: bytes, ties: bytes, gallery: int) -> "Groups":
        """Read `class_order` and `class_ties` of a row with so many items in the gallery."""
        places = np.flatnonzero(_bits(order, gallery))
        if not ties:
            return cls(places, np.arange(len(places)), np.ones_like(places), np.ones_like(places))
        first = np.flatnonzero(~_bits(ties, gallery))  # of every group
        groups, relevant = np.unique(np.searchsorted(first, places, side="right") - 1, return_counts=True)
        above = first[groups]
        size = np.append(first, gallery)[groups + 1] - above
        return cls(above, np.cumsum(relevant) - relevant, size, relevant)

    def precision_at(self, k: int) -> float:
        """Expected share of relevant items among the first k, which is 1 to the size of the gallery."""
        n = int(np.searchsorted(self.above, k))  # groups that begin among the first k
        if n == 0:
            return 0.0
        part = min(k - self.above[n - 1], self.size[n - 1]) / self.size[n - 1]
        return float((self.found[n - 1] + self.relevant[n - 1] * part) / k)

    def average_precision(self, harmonic: Floats) -> float:
        """Expected mean, over the relevant items, of the precision at their places.

        At place j of a group of n with m relevant ones, c above it and r relevant among those, an item is relevant
        with probability m/n, and then (j-1)(m-1)/(n-1) of those before it in the group are expected to be. Summed
        over j, with H(c+n) - H(c) the sum of 1/(c+j) (McSherry and Najork, ECIR 2008, have the sum).

        Args:
            harmonic: (gallery + 1,) float64, H(0), H(1) ...

        Returns:
            0 to 1; NaN if nothing is relevant.
        """
        if not len(self.above):
            return float("nan")
        sums = (self.found + 1) / (self.above + 1)  # right where nothing is tied
        tied = np.flatnonzero(self.size > 1)
        if len(tied):
            c, r, n, m = (v[tied] for v in (self.above, self.found, self.size, self.relevant))
            h = harmonic[c + n] - harmonic[c]
            sums[tied] = m / n * ((r + 1) * h + (m - 1) / (n - 1) * (n - (c + 1) * h))
        return float(sums.sum() / self.relevant.sum())


def _bits(packed: bytes, count: int) -> Bools:
    """The first `count` bits. Padded here: numpy's own padding of an empty array is whatever was in memory."""
    whole = np.frombuffer(packed.ljust(-(-count // 8), b"\0"), np.uint8)
    return np.unpackbits(whole, count=count).view(np.bool_)


def retrieval_metrics(
    predictions: pd.DataFrame,
    precision_at: Sequence[int] = PRECISION_AT,
    recall_at: Sequence[int] = RECALL_AT,
) -> tuple[Metric, ...]:
    """All metrics of the rows of `rank`, with intervals; ties by their expected value.

    For each direction, image to text first, names begin with `i2t_` or `t2i_`:

    - `p_at_<k>`: share of the query's class among the first k; also for each class of queries.
    - `map`: mean over queries of average precision, over the whole gallery; also for each class.
    - `r_at_<k>`: share of queries that have a partner among the first k.
    - `median_rank`: median over queries of the rank of the best partner, 1 is first; lower is better. Of an even number
      of queries the middle of the two; tied ranks are expected ones and may be fractions.

    A query without any relevant item is left out: `n` counts the others, `left_out` those.

    Args:
        predictions: rows of `rank`; also those of one direction.
        precision_at: k of `p_at_<k>`.
        recall_at: k of `r_at_<k>`.

    Returns:
        `i2t_p_at_1` first. None as value where no query has a relevant item.

    Raises:
        ValueError: a k is below 1 or larger than the gallery.
    """
    metrics: list[Metric] = []
    for direction in ("i2t", "t2i"):
        rows = predictions[predictions["direction"] == direction]
        if len(rows):
            metrics.extend(_metrics(direction, rows, precision_at, recall_at))
    return tuple(metrics)


def left_out(predictions: pd.DataFrame) -> dict[str, int]:
    """How many queries have no relevant item: `i2t_class`, `i2t_pair`, `t2i_class`, `t2i_pair`, where known."""
    counts = {}
    for direction in ("i2t", "t2i"):
        rows = predictions[predictions["direction"] == direction]
        for relation in ("class", "pair"):
            if len(rows) and f"{relation}_relevant" in rows:
                counts[f"{direction}_{relation}"] = int((rows[f"{relation}_relevant"] == 0).sum())
    return counts


def _metrics(
    direction: str, rows: pd.DataFrame, precision_at: Sequence[int], recall_at: Sequence[int]
) -> Iterator[Metric]:
    by_class = _class_values(rows, precision_at) if "class_relevant" in rows else {}
    by_pair = _pair_values(rows, recall_at) if "pair_relevant" in rows else {}
    values = by_class | by_pair
    patients = rows["patient"].astype(str).tolist()
    no_strata = np.zeros(len(patients), np.bool_)
    draws, resample = _draws(patients, no_strata, values), Resample.of(patients, no_strata)
    for name, column in values.items():
        defined = ~np.isnan(column)
        low, high = percentile_interval(draws[name])
        per_class = {}
        if name in by_class:
            groups = pd.Series(column[defined]).groupby(rows["class"].to_numpy()[defined].astype(str))
            per_class = {str(label): float(mean) for label, mean in groups.mean().items()}
        average = np.median if name == _MEDIAN else np.mean
        yield Metric(
            name=f"{direction}_{name}",
            value=float(average(column[defined])) if defined.any() else None,
            low=low,
            high=high,
            interval=INTERVAL,
            n=int(defined.sum()),
            higher_is_better=name != _MEDIAN,
            per_class=per_class,
            bootstrap=Bootstrap(draws[name], resample),
        )


def _class_values(rows: pd.DataFrame, precision_at: Sequence[int]) -> dict[str, Floats]:
    """Metric without direction -> (N,) its value for each query, NaN for those that are left out."""
    _within("p_at", precision_at, rows)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, rows["gallery"].max() + 1))])
    values = np.full((len(precision_at) + 1, len(rows)), np.nan)
    columns = ("class_relevant", "class_order", "class_ties", "gallery")
    for k, (relevant, order, ties, gallery) in enumerate(zip(*(rows[c] for c in columns), strict=True)):
        if relevant:
            groups = Groups.from_bytes(order, ties, gallery)
            values[:, k] = *map(groups.precision_at, precision_at), groups.average_precision(harmonic)
    return dict(zip([*(f"p_at_{k}" for k in precision_at), "map"], values, strict=True))


def _pair_values(rows: pd.DataFrame, recall_at: Sequence[int]) -> dict[str, Floats]:
    """Likewise."""
    _within("r_at", recall_at, rows)
    names = ("relevant", "above", "tied", "tied_relevant")
    partners, above, tied, tied_partners = (rows[f"pair_{name}"].to_numpy(np.float64) for name in names)
    known = partners > 0
    values = {}
    for k in recall_at:
        taken = np.clip(k - above, 0, tied)  # places of the group that are among the first k
        missed = np.ones(len(rows))  # the chance that no partner stands there, one partner after the other
        for drawn in range(int(tied_partners.max(initial=0))):
            still = tied_partners > drawn
            missed[still] *= np.maximum(tied - taken - drawn, 0)[still] / (tied - drawn)[still]
        values[f"r_at_{k}"] = np.where(known, 1 - missed, np.nan)
    # The first of m out of n places in random order is expected at (n + 1) / (m + 1).
    values[_MEDIAN] = np.where(known, above + (tied + 1) / (tied_partners + 1), np.nan)
    return values


def _within(name: str, ks: Sequence[int], rows: pd.DataFrame) -> None:
    smallest = rows["gallery"].min()
    if wrong := [k for k in ks if not 1 <= k <= smallest]:
        raise ValueError(
            f"{rows['direction'].iloc[0]}_{name}_{wrong[0]} looks at the first {wrong[0]} of a gallery of {smallest}: "
            f"k is 1 to {smallest}"
        )


def _draws(patients: Sequence[str], strata: Bools, values: dict[str, Floats]) -> dict[str, Floats]:
    """(D,) bootstrap values of each metric, NaN for draws without a query that counts; from (N,) values of queries."""
    found: dict[str, list[Floats]] = {name: [] for name in values}
    for block in bootstrap_blocks(patients, strata):
        weights = block.astype(np.float64)  # (d, N)
        for name, column in values.items():
            measure = _weighted_median if name == _MEDIAN else _weighted_mean
            found[name].append(measure(weights, column))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _weighted_mean(weights: Floats, values: Floats) -> Floats:
    """(d, N), (N,) with NaN for what does not count -> (d,), NaN without weight."""
    defined = ~np.isnan(values)
    total = weights @ defined.astype(np.float64)
    sums = weights @ np.where(defined, values, 0.0)
    means: Floats = np.full(len(total), np.nan)
    np.divide(sums, total, out=means, where=total > 0)
    return means


def _weighted_median(weights: Floats, values: Floats) -> Floats:
    """Likewise; each value counts as often as its weight says."""
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]  # NaN sorts last
    if not len(order):
        return np.full(len(weights), np.nan)
    ordered, reached = values[order], np.cumsum(weights[:, order], axis=1)
    half = reached[:, -1:] / 2
    middle = (ordered[(reached >= half).argmax(axis=1)] + ordered[(reached > half).argmax(axis=1)]) / 2
    medians: Floats = np.where(half[:, 0] > 0, middle, np.nan)
    return medians
