"""Indiana University chest X-rays, as Open-i gives them out: 3,955 reports, 7,470 films.

    ecgen-radiology/1.xml ...             NLMCXR_reports.tgz unpacked: a report a file, with the names of its films
    NLMCXR_png/CXR1_1_IM-0001-3001.png    NLMCXR_png.tgz unpacked; also below png/, images/ or the root itself

or as the mirror on Kaggle has them (raddar/chest-xrays-indiana-university: 3,851 reports, 7,466 films):

    indiana_reports.csv                   uid,MeSH,Problems,image,indication,comparison,findings,impression
    indiana_projections.csv               uid,filename,projection
    images/images_normalized/1_IM-0001-4001.dcm.png

D. Demner-Fushman et al., JAMIA 2016, doi:10.1093/jamia/ocv080. XXXX stands for words removed for privacy.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.many_files import MISSING, file_sizes
from medbench.data.splits import Split, SplitSpec, hashed_three_way
from medbench.data.verify import (
    file_problem,
    read_table,
    require_columns,
    require_file,
    settle,
    where_to_get,
)
from medbench.errors import DataError

REPORTS = "ecgen-radiology"
KAGGLE_REPORTS, KAGGLE_FILMS = "indiana_reports.csv", "indiana_projections.csv"
FOLDERS = ("NLMCXR_png", "images/images_normalized", "images_normalized", "png", "images", ".")
"""Where films are looked for below the root: the first of these folders that has any of them."""

LABELS: Mapping[str, tuple[str, ...]] = {
    "normal": ("normal",),
    "atelectasis": ("Pulmonary Atelectasis",),
    "calcified_granuloma": ("Calcified Granuloma",),
    "cardiomegaly": ("Cardiomegaly",),
    "consolidation": ("Consolidation",),
    "edema": ("Pulmonary Edema",),
    "emphysema": ("Emphysema", "Pulmonary Emphysema"),
    "fracture": ("Fractures, Bone",),
    "hiatal_hernia": ("Hernia, Hiatal",),
    "nodule": ("Nodule",),
    "opacity": ("Opacity",),
    "pleural_effusion": ("Pleural Effusion",),
    "pneumonia": ("Pneumonia",),
    "pneumothorax": ("Pneumothorax", "Hydropneumothorax"),
}
"""Labels, and the headings that two annotators gave a report which mean them ("Cardiomegaly/borderline" counts)."""

NOT_INDEXED = "No Indexing"
"""Heading of a report that nobody indexed: nothing is known about its labels."""

NO_FILM = "report without a film"


@dataclass(frozen=True)
class Report:
    """One report.

    Attributes:
        uid: the number of the report, which is a patient's.
        sections: texts by lower-case names.
        headings: what annotators indexed it under, without qualifiers; () if nobody did.
        films: names of the files, without folder.
        views: of each film, "" where it is not said.
    """

    uid: str
    sections: Mapping[str, str]
    headings: tuple[str, ...]
    films: tuple[str, ...]
    views: tuple[str, ...]


class OpenI(Dataset):
    """The two layouts of the collection; a row a film, study and patient are the report's number ("CXR1").

    Films of a report without text stay, with an empty report.

    `dropped` counts how many reports give no pair, by reason.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "patient_70_10_20": SplitSpec(
            "70/10/20 of the reports, chosen by a hash of their numbers; the shares of R2Gen (Z. Chen et al., EMNLP"
            " 2020), whose own lists are no procedure's: read them with --split lists:FOLDER"
        )
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the reports and list the films; see `Dataset.index`. No image is opened.

        Labels are 1 and 0 by the headings of `LABELS`, NaN for a report that was not indexed.
        """
        problems: list[Problem] = []
        reports = self._xml(problems) if (self.root / REPORTS).is_dir() else self._kaggle()
        read = [self.cleaning.of_sections(report.sections) for report in reports]
        reasons = Counter(text.reason.value for text in read if text.reason is not None)
        reasons[NO_FILM] = sum(not report.films for report in reports)
        self.dropped = {reason: count for reason, count in reasons.items() if count}
        films = [name for report in reports for name in report.films]
        # Position of each film's report.
        where = np.repeat(np.arange(len(reports)), [len(report.films) for report in reports])
        if not films:
            raise DataError(
                f"{self.spec.name}: the {len(reports):,} reports in {self.root} name no film. "
                f"{where_to_get(self.spec, self.root)}"
            )
        folder = self._folder(films)
        images = [f"{folder}{name}" for name in films]
        sizes = file_sizes(self.root, images)
        samples = [_sample(name) for name in films]
        for sample, image, size in zip(samples, images, sizes.tolist(), strict=True):
            if (what := file_problem(None if size == MISSING else size)) is not None:
                problems.append(Problem(sample, image, what))
        known = set(films)
        problems += [
            Problem(_sample(name), f"{folder}{name}", "on disk, but no report names it")
            for name in sorted(os.listdir(self.root / folder))
            if name.endswith(".png") and name not in known
        ]
        twice = [name for name, count in Counter(samples).items() if count > 1]
        if twice:
            raise DataError(
                f"{self.spec.name}: {len(twice):,} films in {self.root} belong to two reports (first: {twice[0]}). "
                f"Unpack the reports again. {where_to_get(self.spec, self.root)}"
            )
        uids = [f"CXR{reports[report].uid}" for report in where]
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": samples,
                "patient": uids,
                "study": uids,
                "view": [view for report in reports for view in report.views],
                "image": images,
                "bytes": np.maximum(sizes, 0),
                "report": [read[report].text for report in where],
            },
            labels={name: _label(reports, heads)[where] for name, heads in LABELS.items()},
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`patient_70_10_20`: 70 % of the reports train, 10 % validate, 20 % test."""
        return hashed_three_way(index, name, 0.1, 0.2)

    def _xml(self, problems: list[Problem]) -> list[Report]:
        """All reports of the folder, in the order of their numbers."""
        folder = self.root / REPORTS
        names = [name for name in os.listdir(folder) if name.endswith(".xml")]
        if not names:
            raise DataError(
                f"{self.spec.name}: {folder} has no .xml file. Unpack NLMCXR_reports.tgz again. "
                f"{where_to_get(self.spec, self.root)}"
            )
        reports = []
        for name in sorted(names, key=lambda n: (len(n), n)):
            try:
                reports.append(read_xml((folder / name).read_bytes()))
            except ValueError as error:
                problems.append(Problem(name, f"{REPORTS}/{name}", str(error)))
        return reports

    def _kaggle(self) -> list[Report]:
        """All reports of the mirror's tables, in their order."""
        tables = []
        for name, columns in (
            (KAGGLE_REPORTS, ["uid", "MeSH", "indication", "comparison", "findings", "impression"]),
            (KAGGLE_FILMS, ["uid", "filename", "projection"]),
        ):
            what = "the folder or the table of reports" if name == KAGGLE_REPORTS else "the table of films"
            path = require_file(self.spec, self.root, [name], what)
            table = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
            require_columns(self.spec, self.root, path, table.columns, columns)
            tables.append(table[columns])
        texts, projections = tables
        own: dict[str, list[tuple[str, str]]] = {}
        for uid, name, view in projections.itertuples(index=False):
            own.setdefault(uid, []).append((name, view))
        unknown = sorted(set(own) - set(texts["uid"]))
        if unknown:
            raise DataError(
                f"{self.spec.name}: {KAGGLE_FILMS} names {len(unknown):,} reports that {KAGGLE_REPORTS} does not have "
                f"(first: {unknown[0]}). Get both again. {where_to_get(self.spec, self.root)}"
            )
        return [
            Report(
                row["uid"],
                {name: row[name] for name in ("indication", "comparison", "findings", "impression")},
                _headings(row["MeSH"].split(";")),
                tuple(name for name, _ in own.get(row["uid"], [])),
                tuple(view for _, view in own.get(row["uid"], [])),
            )
            for row in texts.to_dict("records")
        ]

    def _folder(self, films: Sequence[str]) -> str:
        """The folder of the films, with a slash; "" for the root."""
        wanted = set(films)
        for folder in FOLDERS:
            path = self.root / folder
            if path.is_dir() and not wanted.isdisjoint(os.listdir(path)):
                return "" if folder == "." else f"{folder}/"
        raise DataError(
            f"{self.spec.name}: found none of the {len(films):,} films (first: {films[0]}) in {self.root} or below it "
            f"in {', '.join(FOLDERS[:-1])}. Unpack NLMCXR_png.tgz into {self.root / FOLDERS[0]}. "
            f"{where_to_get(self.spec, self.root)}"
        )


def read_xml(content: bytes) -> Report:
    """A report of `ecgen-radiology`.

    Raises:
        ValueError: it is no such report.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"not readable as XML ({error})") from None
    uid = root.find("uId")
    if uid is None or not uid.get("id", "").startswith("CXR"):
        raise ValueError("no report of the collection (it has no uId)")
    films = tuple(f"{image.get('id')}.png" for image in root.iter("parentImage"))
    return Report(
        uid.get("id", "").removeprefix("CXR"),
        {part.get("Label", "").lower(): part.text or "" for part in root.iter("AbstractText")},
        _headings([major.text or "" for major in root.iter("major")]),
        films,
        ("",) * len(films),
    )


def _headings(terms: Sequence[str]) -> tuple[str, ...]:
    """MeSH and RadLex terms without their qualifiers; () for a report that was not indexed."""
    heads = tuple(head for term in terms if (head := term.split("/")[0].strip()))
    return () if NOT_INDEXED in heads else heads


def _label(reports: Sequence[Report], heads: tuple[str, ...]) -> Any:
    """(N,) 1 where a report has one of the headings, 0 where it has others, NaN where it has none."""
    return np.array(
        [float(any(h in heads for h in r.headings)) if r.headings else np.nan for r in reports], np.float64
    )


def _sample(name: str) -> str:
    """Id of a film: the same from both sources, but for the two of report 1, which carry its number twice in one."""
    stem = Path(name).name.removesuffix(".png").removesuffix(".dcm")
    return stem if stem.startswith("CXR") else f"CXR{stem}"
