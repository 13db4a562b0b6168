"""A run from pretraining to records, and the records verified."""

from medbench import runner
from medbench.conformance.check import Failed
from medbench.plugins import Catalogue
from medbench.records import Record
from medbench.request import RunRequest
from medbench.verify import verify_folder


def checked_run(request: RunRequest, catalogue: Catalogue) -> list[Record]:
    """Run a request; its records.

    Raises:
        Failed: a cell has no numbers, or `medbench results verify` would not accept the folder.
    """
    records = runner.run(request, catalogue).records
    for record in records:
        if record.status != "ok":
            why = record.reason if record.error is None else f"{record.error.type}: {record.error.message}"
            names = f"{record.identity.method} on {record.identity.task}"
            raise Failed(
                f"{names} {record.status} ({why})",
                "a record with numbers",
                f"Look with: medbench run -m {record.identity.method} -t {record.identity.task} --recipe micro -v",
            )
    checked = verify_folder(request.results, catalogue)
    if not checked.accepted:
        wrong = [*checked.problems, *(what for each in checked.records for what in each.problems)]
        raise Failed(
            f"records that are not valid: {'; '.join(wrong[:3])}",
            "what `medbench results verify` accepts",
            "Make the same numbers from the same predictions.",
        )
    return records
