"""With the datasets at hand: are splits and label fractions what the package makes, and truth for keyed copies."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pandas as pd

from medbench.data.sources import folder_of
from medbench.data.splits import Split, fraction_rows, ids_sha256, parts_sha256, split_of, untrained_rows
from medbench.disclosure import KEY, row_key
from medbench.errors import MedbenchError
from medbench.planner import OpenDataset, Planner
from medbench.plugins import Catalogue, declared
from medbench.progress import Progress
from medbench.records import Record
from medbench.request import RunRequest
from medbench.scoring import with_patient_columns
from medbench.task import TaskData
from medbench.verify.record import Verdict


class Originals:
    """Opens the datasets of records, each once.

    Args:
        request: where data are. Phantoms are looked at where they are written already.
        catalogue: known tasks and datasets.
        key: that rows of exported copies go by; None where it is not at hand.
    """

    def __init__(self, request: RunRequest, catalogue: Catalogue, key: bytes | None = None) -> None:
        self._request, self._catalogue, self._key = request, catalogue, key
        self._planners: dict[str, Planner] = {}

    def check(self, verdict: Verdict) -> None:
        """Hold the id lists of a record against those that the package makes; adds to its problems, or its notes."""
        record = verdict.record
        assert record is not None
        try:
            opened = self._open(record)
            if opened is None:
                if self._request.real_data:
                    verdict.notes.append(f"split not derived: no {record.identity.dataset} at hand")
                return
            split = opened.split(record.identity.split)
            self._lists(verdict, record, opened, split)
        except MedbenchError as error:
            verdict.notes.append(f"split not derived: {error}")

    def restored(self, verdict: Verdict) -> pd.DataFrame | None:
        """The predictions of a keyed copy with truth, patients and ids; None where they can not be had."""
        record, scores = verdict.record, verdict.predictions
        assert record is not None and scores is not None
        spec = self._catalogue.tasks.get(declared(record.identity.task))
        if self._key is None or spec is None:
            return None
        try:
            opened = self._open(record)
            if opened is None:
                return None
            split = self._split(verdict, record, opened)
            if split is None:
                return None
            task = self._catalogue.make_task(spec, record.identity.recipe)
            truth = task.truth(TaskData(opened.index, split, opened.images))
        except MedbenchError as error:
            verdict.notes.append(str(error))
            return None
        if truth is None:
            verdict.notes.append(f"{spec.name} can not tell the truth without a model")
            return None
        keys = [row_key(self._key, sample) for sample in truth["sample"].astype(str)]
        joined = truth.assign(**{KEY: keys}).merge(scores, on=KEY, how="left").drop(columns=KEY)
        return with_patient_columns(joined, opened.index)

    def _split(self, verdict: Verdict, record: Record, opened: OpenDataset) -> Split | None:
        """The films behind keyed lists; None where these are others than the record names."""
        assert self._key is not None
        samples = opened.index.table["sample"].astype(str).tolist()
        by_key = {row_key(self._key, sample): sample for sample in samples}
        found: dict[str, list[str]] = {}
        for name, hashed in (("split_sha256", parts_sha256), ("train_sha256", _train_sha256)):
            parts = {
                part: [by_key[key] for key in keys if key in by_key]
                for part, keys in verdict.lists[name].items()
            }
            if not parts or hashed(parts) != getattr(record.identity, name):
                verdict.problems.append(
                    f"{name}: its keyed id list does not lead to films of {opened.index.root} with this hash: another "
                    "key, another folder, or it was edited"
                )
                return None
            found = found or parts
        return split_of(opened.index, record.identity.split, **found)

    def _open(self, record: Record) -> OpenDataset | None:
        """The dataset of a record; None where it is not at hand."""
        identity = record.identity
        spec = self._catalogue.datasets.get(identity.dataset)
        if spec is None:
            return None
        if self._request.real_data:
            root = folder_of(spec, self._request.data_root, self._request.data)
            if root is None or not root.exists():
                return None
        elif identity.source != "phantom":
            return None
        planner = self._planners.get(identity.recipe)
        if planner is None:
            request = replace(self._request, recipe=identity.recipe)
            planner = Planner(request, self._catalogue, "32", Progress("", quiet=True))
            self._planners[identity.recipe] = planner
        if planner.sources.unwritten(identity.dataset) is not None:
            return None
        return planner.evaluation(identity.dataset)

    def _lists(self, verdict: Verdict, record: Record, opened: OpenDataset, split: Split) -> None:
        identity, index = record.identity, opened.index
        same = identity.data_fingerprint == index.fingerprint()
        if (
            not same
            and identity.source == "real"
            and None is identity.subset is index.subset
            and not (record.counts.excluded or index.excluded)
        ):
            verdict.problems.append(
                f"data_fingerprint is {identity.data_fingerprint[:12]}, the whole {index.dataset} at hand has "
                f"{index.fingerprint()[:12]}"
            )
        said = verdict.problems if same else verdict.notes
        but = "" if same else " (the folder at hand is another one: its fingerprint differs)"
        if (found := split.sha256(index)) != identity.split_sha256:
            said.append(
                f"split_sha256 is {identity.split_sha256[:12]}, the split {split.name} of {index.dataset} has "
                f"{found[:12]}{but}"
            )
            return
        if bool(record.counts.split_leak) != bool(split.leak):
            said.append(
                f"counts: split_leak is {record.counts.split_leak!r}, that of the split is {split.leak!r}{but}"
            )
        spec = self._catalogue.tasks.get(declared(identity.task))
        if spec is None:
            return
        task = self._catalogue.make_task(spec, identity.recipe)
        number = identity.seed or 0
        train = untrained_rows()
        if spec.fractions:
            train = fraction_rows(index, split, identity.fraction, number, task.positives(index))
        if identity.train_sha256 != train.sha256:
            said.append(
                f"train_sha256 is {identity.train_sha256[:12]}, list {number} of the label fraction "
                f"{identity.fraction:g} has {train.sha256[:12]}{but}"
            )
        elif record.counts.train_patients != train.patients:
            said.append(
                f"counts: {record.counts.train_patients} train_patients recorded, {train.patients} found{but}"
            )


def _train_sha256(parts: Mapping[str, Iterable[str]]) -> str:
    return ids_sha256(parts["train"])
