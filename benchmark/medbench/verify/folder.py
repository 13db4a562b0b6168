"""All records of a folder, and the manifest where it is a submission."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medbench.errors import DataError
from medbench.files import sha256_file
from medbench.plugins import Catalogue
from medbench.records import ResultStore
from medbench.submission import MANIFEST, Submission, files_of, read_manifest
from medbench.verify.agreement import Agreement
from medbench.verify.originals import Originals
from medbench.verify.record import Verdict, check_record


@dataclass(frozen=True)
class Checked:
    """What was found of a folder.

    Attributes:
        folder: that was checked.
        manifest: where it is a submission.
        records: one a record, sorted by path.
        problems: of the folder as a whole.
    """

    folder: Path
    manifest: Submission | None
    records: tuple[Verdict, ...]
    problems: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing is wrong with any of it."""
        return not self.problems and all(each.accepted for each in self.records)

    def text(self) -> str:
        """One line a record that is accepted, one a thing that is wrong, and one of them all."""
        lines = [f"{self.folder}: {what}" for what in self.problems]
        for each in self.records:
            lines += [f"{each.path}: {what}" for what in each.problems]
            if each.accepted:
                lines.append(f"{each.path}: {'; '.join(['accept', *each.notes])}")
        wrong = sum(not each.accepted for each in self.records)
        verdict = "accept" if self.accepted else "not accepted"
        lacking = sum(each.unpredicted for each in self.records)
        without = f", {lacking} without predictions" if lacking else ""
        lines.append(f"{len(self.records)} records checked{without}, {wrong} with something wrong: {verdict}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "accept": self.accepted,
            "problems": list(self.problems),
            "records": [
                {
                    "path": each.path.relative_to(self.folder).as_posix(),
                    "cell_id": None if each.record is None else each.record.cell_id,
                    "accept": each.accepted,
                    "problems": each.problems,
                    "notes": each.notes,
                    "without_predictions": each.unpredicted,
                }
                for each in self.records
            ],
        }


def verify_folder(
    folder: Path,
    catalogue: Catalogue,
    originals: Originals | None = None,
    *,
    without_predictions: bool = False,
) -> Checked:
    """Check a results folder, or a submission.

    Args:
        folder: of records, with or without a manifest.
        catalogue: known tasks and datasets.
        originals: the datasets, where they are at hand.
        without_predictions: accept records whose predictions are not beside them, if their draws are and agree.
    """
    manifest, problems = None, []
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        problems.append(str(error))
    store, agreement, verdicts = ResultStore(folder), Agreement(), []
    for path in store.files():
        verdict = check_record(path, store, catalogue, originals, without_predictions=without_predictions)
        agreement.add(verdict)
        verdict.predictions, verdict.lists = None, {}  # all of them at once may be more than memory holds
        verdicts.append(verdict)
    agreement.close()
    if manifest is not None:
        problems += _against(manifest, folder, verdicts)
    return Checked(folder, manifest, tuple(verdicts), tuple(problems))


def _against(manifest: Submission, folder: Path, verdicts: list[Verdict]) -> list[str]:
    """What of a submission is not as its manifest says."""
    wrong, there = [], set(files_of(folder))
    wrong += [f"{name} is not in {MANIFEST}" for name in sorted(there - manifest.files.keys())]
    wrong += [
        f"{MANIFEST} names {name}, which is not there" for name in sorted(manifest.files.keys() - there)
    ]
    for name in sorted(there & manifest.files.keys()):
        if (folder / name).is_symlink():
            wrong.append(f"{name} is a link; a submission holds files")
        elif (found := sha256_file(folder / name)) != manifest.files[name]:
            wrong.append(f"{name}: SHA-256 {found[:12]} found, {manifest.files[name][:12]} in {MANIFEST}")
    records = [each.record for each in verdicts if each.record is not None]
    counts = dict(Counter(str(record.status) for record in records))
    if counts != manifest.records:
        wrong.append(f"records: {_counts(manifest.records)} in {MANIFEST}, {_counts(counts)} found")
    owners = {record.identity.method: record.identity.method_owner for record in records}
    if owners != manifest.owners:
        wrong.append(f"owners: {_counts(manifest.owners)} in {MANIFEST}, {_counts(owners)} found")
    for verdict in verdicts:
        if verdict.record is not None and verdict.record.export is None:
            verdict.problems.append("no exported copy: it has no `export` block")
    return wrong


def _counts(block: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(block.items())) or "none"
