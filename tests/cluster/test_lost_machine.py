"""A worker on a machine that is gone is no fault of the cell's: it is computed once more, and no more than that."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medbench.devices import resolve_device, resolve_precision
from medbench.lease import Leases
from medbench.planner import Planner
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.request import RunRequest
from medbench.runner import LEASES, run

DOOMED = Path(__file__).parents[1] / "executors" / "doomed.py"

VANISH = """
import os, signal, sys
from pathlib import Path
from medbench import lease
folder, name, at, log, machine = sys.argv[1:]
lease._machine = lambda: machine
leases = lease.Leases(Path(folder), Path(log), abandoned=0.2)
while (held := leases.claim(name)) is None:
    pass
held.__enter__()
held.at(at)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("times", "became"), [(1, "ok"), (2, "WorkerDied")])
def test_what_was_computed_there_is_tried_once_more(
    times: int, became: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Leases.__init__.__kwdefaults__, "abandoned", 0.2)
    catalogue, logs = load_catalogue([str(DOOMED)]), tmp_path / ".runs" / "now"
    wanted = RunRequest(
        ("random",), ("doomed_fine",), tmp_path, tmp_path / "cache", (0.1, 1.0), recipe="micro"
    )
    wanted = replace(wanted, device="cpu", quiet=True, worker=logs / "worker-9.log")
    device = resolve_device("cpu")
    plans = Planner(wanted, catalogue, resolve_precision("auto", device), Progress(quiet=True))
    group = plans.group(plans.encoder(plans.methods()[0], 0), plans.tasks()[0])
    for number in range(times):
        words = [
            tmp_path / LEASES,
            group.claim(),
            group.cells[0].identity.cell_id(),
            logs / f"worker-{number}.log",
        ]
        subprocess.run([sys.executable, "-c", VANISH, *words, f"node{number}"], check=False)
    records = run(wanted, catalogue).records
    states = [record.status if record.error is None else record.error.type for record in records]
    assert states == [became, "ok"]
