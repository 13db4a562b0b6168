"""Retrieval: films find their reports in the gallery of all reports, and reports their films. Nothing is trained.

The gallery is the whole test part. A report is one text however many films it was written about: films of a patient
whose reports are word for word the same share it, and all of them are its partners. Where every film has one class, a
text of the query's class counts, too (CheXpert 5x200, GLoRIA; MIMIC 5x200).

Reports are cut into sentences as those that models are pretrained with, in the default cleaning. Films whose report
has nothing left are not asked for and not found; the record says how many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.index import Index
from medbench.data.pairs import Reports, read_reports
from medbench.data.reports import DEFAULT_CLEANING
from medbench.errors import DataError
from medbench.metrics.retrieval import (
    INTERVAL,
    PRECISION_AT,
    RECALL_AT,
    Direction,
    Items,
    left_out,
    rank,
    retrieval_metrics,
)
from medbench.model import VisionLanguageModel
from medbench.protocols.similarity import BATCH_SIZE, Compared, compare
from medbench.task import Environment, Evaluation, Metric, Task, TaskData

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RetrievalConfig:
    """Numbers of the protocol; the same at every recipe."""

    cleaning: str = DEFAULT_CLEANING
    """How reports are cut into sentences (docs/reports.md)."""
    precision_at: tuple[int, ...] = PRECISION_AT
    """k of `p_at_<k>` (MedCTA's tables)."""
    recall_at: tuple[int, ...] = RECALL_AT
    """k of `r_at_<k>` (CXR-CLIP's tables)."""
    similarity: str = (
        "cosine of embeddings; with a local similarity of the model, the mean of both as z-scores"
    )
    """What is ranked by."""


@dataclass(frozen=True)
class Gallery:
    """Films and reports, encoded.

    Attributes:
        rows: (I,) positions in the index of films with a report.
        text: (I,) which of the T reports each film has.
        without_text: films that are left out.
        compared: of I films and T reports.
    """

    rows: Rows
    text: Rows
    without_text: int
    compared: Compared


class Retrieval(Task):
    """Film to report and report to film, by class and by pair.

    Args:
        recipe: `tiny`, `paper` or `micro`.
        split: of the dataset; its test part is the gallery.
        classes: label columns of the index, without the prefix, exactly one of which is 1 for every film; empty for
            pairs alone; None for all labels of the index, if they are of that kind.
        reports: the file of the dataset that has the reports, for the message where there are none.
    """

    config: RetrievalConfig

    def __init__(
        self, recipe: str, *, split: str, classes: Sequence[str] | None = None, reports: str = ""
    ) -> None:
        super().__init__(recipe, split=split)
        self.classes = classes
        self.reports = reports
        self.config = RetrievalConfig()

    def extract(
        self, model: VisionLanguageModel, data: TaskData, env: Environment, batch_size: int = BATCH_SIZE
    ) -> Gallery:
        """Embeddings of the test films and their reports.

        Args:
            model: with a joint space.
            data: its test part is the gallery.
            env: see `medbench.protocols.similarity.compare`.
            batch_size: of a forward pass; changes nothing but time and memory.

        Raises:
            DataError: no test film has a report.
            WeightsError: see `medbench.protocols.similarity.compare`.
        """
        found = self._read(data.index, data.split.test)
        patients = data.index.table["patient"].to_numpy(dtype=object)[found.rows]
        written = [(str(p), tuple(r)) for p, r in zip(patients, found.sentences, strict=True)]
        texts = list(dict.fromkeys(written))
        which = {key: number for number, key in enumerate(texts)}
        compared = compare(model, data, found.rows, [report for _, report in texts], env, batch_size)
        return Gallery(found.rows, np.array([which[key] for key in written]), found.without_text, compared)

    def evaluate(
        self, features: Gallery, data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Rank both galleries. `predictions` are rows of `medbench.metrics.retrieval.rank`, one a query.

        A report goes by the name of its first film in the index. Its films are all in `films`: one for a film, and
        for a report those that it was written about.
        """
        table = data.index.table.iloc[features.rows]
        samples, patients = table["sample"].astype(str).tolist(), table["patient"].astype(str).tolist()
        classes = self._classes(data.index, features.rows)
        pairs = [str(number) for number in features.text]
        first = np.unique(features.text, return_index=True)[1]  # a film of each report
        images = Items(samples, patients, classes, pairs)
        texts = Items(
            [samples[k] for k in first],
            [patients[k] for k in first],
            None if classes is None else [classes[k] for k in first],
            [pairs[k] for k in first],
        )
        predictions = rank(features.compared.standardised(), images, texts)
        written: list[list[str]] = [[] for _ in first]
        for sample, text in zip(samples, features.text, strict=True):
            written[text].append(sample)
        predictions["films"] = [*([sample] for sample in samples), *written]
        search = {
            "grid": {},
            "trials": 0,
            "selected_on": "nothing: there is nothing to choose",
            "similarity": features.compared.said,
            "films": len(images),
            "reports": len(texts),
            "films_without_report": features.without_text,
            "classes": "none" if classes is None else "labels, one a film",
            "queries_without_relevant": left_out(predictions),
        }
        return Evaluation(predictions, search)

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """See `medbench.metrics.retrieval.retrieval_metrics`; a k beyond the gallery has no value, and says why."""
        return [metric for direction in ("i2t", "t2i") for metric in self._score(predictions, direction)]

    def _score(self, predictions: pd.DataFrame, direction: Direction) -> Iterator[Metric]:
        rows = predictions[predictions["direction"] == direction]
        if rows.empty:
            return
        gallery = int(rows["gallery"].min())
        wanted = {"p": self.config.precision_at, "r": self.config.recall_at}
        within = {name: [k for k in ks if k <= gallery] for name, ks in wanted.items()}
        for metric in retrieval_metrics(rows, within["p"], within["r"]):
            yield replace(metric, reason="no query has a relevant item" if metric.value is None else "")
        for name, relation in (("p", "class"), ("r", "pair")):
            for k in wanted[name] if f"{relation}_relevant" in rows else ():
                if k > gallery:
                    reason = f"the gallery holds {gallery}, fewer than {k}"
                    name_ = f"{direction}_{name}_at_{k}"
                    yield Metric(name_, None, None, None, INTERVAL, len(rows), reason=reason)

    def positives(self, index: Index) -> npt.NDArray[np.bool_]:
        """Films with a report.

        Raises:
            DataError: there is none.
        """
        has: npt.NDArray[np.bool_] = index.table["report"].str.strip().ne("").to_numpy(np.bool_)
        if not has.any():
            raise DataError(self._nothing_to_read(index))
        return has

    def depends_on_seed(self, fraction: float) -> bool:
        """Nothing is drawn."""
        return False

    def _read(self, index: Index, rows: Rows) -> Reports:
        """Reports of films, in the order of the index."""
        found = read_reports(index, rows, self.config.cleaning)
        if not len(found):
            raise DataError(f"{self._nothing_to_read(index)} ({len(rows):,} test films were looked at.)")
        return found

    def _nothing_to_read(self, index: Index) -> str:
        if self.reports:
            return (
                f"{index.dataset}: no report to find. Looked for {self.reports} in {index.root}; put it there. "
                f"docs/datasets/{index.dataset}.md says where it comes from."
            )
        return (
            f"{index.dataset}: no film in {index.root} has a report with words in it, and retrieval needs some. "
            "Is the column of reports the right one (--column report=NAME for a table)?"
        )

    def _classes(self, index: Index, rows: Rows) -> list[str] | None:
        """The one class of each film; None for pairs alone."""
        names = index.labels if self.classes is None else tuple(self.classes)
        values = index.table[[f"label_{name}" for name in names]].to_numpy(np.float64)
        single = (np.count_nonzero(values == 1, axis=1) == 1) & ~np.isnan(values).any(axis=1)
        if self.classes is None and (len(names) < 2 or not single.all()):
            return None
        if not len(names):
            return None
        if not single[rows].all():
            sample = index.table["sample"].iloc[rows[~single[rows]][0]]
            raise DataError(
                f"{index.dataset}: {sample} has none or several of the classes {', '.join(names)}; retrieval by class "
                "needs exactly one."
            )
        return [names[k] for k in values[rows].argmax(axis=1)]
