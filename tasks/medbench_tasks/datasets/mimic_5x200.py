"""MIMIC 5x200: studies of MIMIC-CXR, film and report, two hundred with one finding of CheXpert's competition alone.

Built out of MIMIC-CXR as CheXpert 5x200 is out of CheXpert; the folder is MIMIC-CXR's own (below a data root, a link:
`ln -s mimic_cxr mimic_5x200`), with the table of CheXpert labels. No list of it was ever published: every paper drew
its own, and most out of the part that models are trained on. Here both draws are made, the same for everybody.

Data: A. Johnson et al., Scientific Data 2019, doi:10.1038/s41597-019-0322-0. The way: S.-C. Huang et al. (GLoRIA), ICCV
2021.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final

import numpy as np
import pandas as pd

from medbench.data.index import Index
from medbench.data.splits import Split, SplitSpec, SplitUnavailable
from medbench.data.verify import read_table, require_columns, require_file, where_to_get
from medbench.errors import DataError
from medbench_tasks.datasets.chexpert import COMPETITION
from medbench_tasks.datasets.mimic_cxr import VERSIONS, MimicCxr

EACH: Final = 200
HELD_OUT: Final = ("validate", "test")
"""Parts of the official split that no published method is trained on."""

_WAY = (
    "one frontal film of every study that has this label and no other (uncertain ones count as there; No Finding is not"
    " looked at), in the order of dicom ids, shuffled by pandas' sample(frac=1, random_state=0): the first ones, as"
    " many of each class"
)


class Mimic5x200(MimicCxr):
    """Samples, reports and files as in `MimicCxr`; labels: 1 for the class of the study, 0 for the four others."""

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "clean": SplitSpec(f"{_WAY} (200 where there are), of the official validate and test parts"),
        "all_parts": SplitSpec(
            f"{_WAY} (200), of all parts, as papers draw them",
            leak="most studies are of MIMIC-CXR's training part: a model that was pretrained on it has seen film and"
            " report together",
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read all of MIMIC-CXR and choose: the samples of both splits, a class after the other, in the drawn order."""
        pairs = super().index(exclude_broken=exclude_broken)
        names = list(COMPETITION)
        table = pairs.table.assign(row=np.arange(len(pairs)), own=self._alone(pairs.table["study"]))
        table = table.sort_values("sample").drop_duplicates("study")
        drawn = [table[table["own"] == name].sample(frac=1, random_state=0) for name in names]
        each = min(EACH, *map(len, drawn))
        if not each:
            counts = ", ".join(f"{name} {len(own)}" for name, own in zip(names, drawn, strict=True))
            raise DataError(
                f"{self.spec.name}: {self.root} has studies with one finding alone of some of the five classes only"
                f" ({counts}); expected {EACH} of each, and at least one. {where_to_get(self.spec, self.root)}"
            )
        held_out = [own["split"].isin(HELD_OUT).to_numpy() for own in drawn]
        clean = min(EACH, *(int(apart.sum()) for apart in held_out))
        kept = [
            own[(np.arange(len(own)) < each) | (apart & (apart.cumsum() <= clean))]
            for own, apart in zip(drawn, held_out, strict=True)
        ]
        chosen = pd.concat(kept, ignore_index=True)
        for name in names:
            chosen[_label(name)] = (chosen["own"] == name).astype(np.float64)
        columns = [column for column in pairs.table if not str(column).startswith("label_")]
        return replace(
            pairs,
            table=chosen[[*columns, *map(_label, names)]],
            labels=tuple(_label(name).removeprefix("label_") for name in names),
            # It is the whole set if it was drawn out of the whole release.
            official_size=pairs.official_size if pairs.subset is not None else len(chosen),
        )

    def divide(self, index: Index, name: str) -> Split:
        """`clean` or `all_parts`; everything is for testing, with as many samples of each class."""
        table = index.table
        own = table[[_label(label) for label in COMPETITION]].to_numpy().argmax(axis=1)
        pool = np.ones(len(index), np.bool_)
        if name == "clean":
            pool = table["split"].isin(HELD_OUT).to_numpy()
        number = pd.Series(own[pool]).groupby(own[pool]).cumcount().to_numpy()
        each = min(EACH, int(np.bincount(own[pool], minlength=len(COMPETITION)).min()))
        if not each:
            raise SplitUnavailable(
                f"{index.dataset}: {index.root} has no study with one finding alone of some class for the split {name}."
                " Use more of MIMIC-CXR."
            )
        nothing = np.zeros(0, np.int64)
        return Split(name, nothing, nothing, np.flatnonzero(pool)[number < each])

    def _alone(self, studies: "pd.Series[str]") -> "pd.Series[str]":
        """The one label of each study, "" where it has none or others, too.

        Studies with a cell that is no label are not among them: their films have a problem (`MimicCxr.index`).
        """
        names = [f"mimic-cxr-{v}-chexpert.csv{packed}" for v in VERSIONS for packed in (".gz", "")]
        path = require_file(self.spec, self.root, names, "the chexpert table")
        found = read_table(self.spec, self.root, path, dtype={"study_id": str})
        require_columns(self.spec, self.root, path, found.columns, ["study_id", *COMPETITION])
        values = found.drop_duplicates("study_id").set_index("study_id")
        values = values.drop(columns=["subject_id", "No Finding"], errors="ignore")
        values = values.apply(pd.to_numeric, errors="coerce").fillna(0.0).reindex(studies).fillna(0.0)
        single = (values != 0).sum(axis=1) == 1
        own = pd.Series("", index=studies.index, dtype=str)
        for name in COMPETITION:
            own[(single & (values[name] == 1)).to_numpy()] = name
        return own


def _label(name: str) -> str:
    """Column of an index."""
    return f"label_{name.lower().replace(' ', '_')}"
