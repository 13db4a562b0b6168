"""kill -9 at any moment of anything that writes: what is there then is whole, and the same command ends as if nothing
had been.

The moments of the two hundred trials are spread over the calls that change files, the bytes of the files that are
written, and the time that a phase takes. A trial is repeated by its number.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import PHASES, Doomed, Uninterrupted, contents, require_whole

TRIALS = 200
BY_DEFAULT = 10


def drawn(trial: int) -> str:
    return list(PHASES)[trial % len(PHASES)]


def moment_of(trial: int, whole: Uninterrupted) -> tuple[str, float]:
    """When to kill it: half of the trials of a phase at calls, spread evenly, the others in files or at a time."""
    mine, draw = trial // len(PHASES), random.Random(trial)
    kind = ("call", "seconds", "call", "bytes")[mine % 4]
    if kind == "call":
        of = TRIALS // len(PHASES) // 2
        return kind, int((mine // 2 + draw.random()) / (of + 1) * whole.ended.calls)
    if kind == "bytes":
        return kind, draw.randrange(draw.choice(whole.sizes))
    return kind, draw.random() * whole.ended.seconds


@pytest.mark.parametrize(
    "trial",
    [
        pytest.param(
            number, id=f"{drawn(number)}-{number}", marks=[] if number < BY_DEFAULT else pytest.mark.nightly
        )
        for number in range(TRIALS)
    ],
)
def test_what_is_killed_is_whole_and_goes_on_to_the_same_end(
    trial: int,
    doomed: Doomed,
    uninterrupted: Callable[[str], Uninterrupted],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    name = drawn(trial)
    whole = uninterrupted(name)
    moment = moment_of(trial, whole)
    shutil.copytree(whole.start, tmp_path, dirs_exist_ok=True)
    killed = doomed(tmp_path, whole.command, moment)
    record_property("moment", f"{moment[0]} {moment[1]:g}")
    record_property("killed", killed.code < 0)
    if moment[0] == "call":
        assert killed.code < 0, killed.log
    require_whole(tmp_path)
    again = doomed(tmp_path, whole.command)
    assert again.code == 0, again.log
    assert contents(tmp_path) == whole.after
