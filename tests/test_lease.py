"""Leases: claimed once, given back, taken over by one alone, never by a clock."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medbench.errors import StorageError, refused
from medbench.lease import Leases, held

QUICK = {"beat": 0.02, "abandoned": 0.3}


def wait(done: "threading.Event | Path", seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not (done.is_set() if isinstance(done, threading.Event) else done.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process takes itself for one of another host."""
    monkeypatch.setattr("medbench.lease._machine", lambda: "elsewhere 1 2")


def test_a_lease_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    one, other = Leases(tmp_path / "leases"), Leases(tmp_path / "leases")
    lease = one.claim("cell")
    assert lease is not None and lease.predecessor is None
    with lease:
        assert lease.owned()
        assert other.claim("cell") is None and one.claim("cell") is None
        free = other.claim("another cell")
        assert free is not None
        with free:
            pass
    again = other.claim("cell")
    assert again is not None and again.predecessor is None
    with again:
        pass
    assert list((tmp_path / "leases").iterdir()) == []


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_disk_that_is_full_is_named_and_no_lease_stays(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    open_before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            Leases(tmp_path).claim("cell")
    said = refused(caught.value)
    assert said is not None and str(said).startswith(f"{tmp_path / 'cell.lease'}: No space left")
    assert list(tmp_path.iterdir()) == [] and len(os.listdir("/proc/self/fd")) == open_before


def test_a_folder_that_went_away_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(tmp_path / "mounted")
    (tmp_path / "mounted").mkdir()
    leases = Leases(tmp_path / "results" / ".leases")
    lease = leases.claim("cell")
    assert lease is not None
    with lease:
        (tmp_path / "mounted").rename(tmp_path / "away")
        assert not lease.owned()
        with pytest.raises(StorageError, match=r"results/\.leases: the folder went away"):
            leases.claim("cell")


HOLD = """
import sys, time
from pathlib import Path
from medbench.lease import Leases
with Leases(Path(sys.argv[1]), Path("a.log")).claim("cell") as lease:
    lease.at("one tenth")
    Path(sys.argv[2]).touch()
    time.sleep(600)
"""


def holder(tmp_path: Path) -> "subprocess.Popen[bytes]":
    """A process that holds the lease `cell`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "leases", tmp_path / "held"])
    wait(tmp_path / "held")
    return process


def test_the_lease_of_a_process_that_was_killed_is_taken_over_at_once(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases")
    with holder(tmp_path) as process:
        try:
            assert leases.claim("cell") is None
        finally:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert leases.left_by(Path("a.log")) and not leases.left_by(Path("b.log"))
        lease = leases.claim("cell")
    assert lease is not None and lease.predecessor is not None
    with lease:
        left = lease.predecessor
        assert (left.pid, left.log, left.at) == (process.pid, "a.log", "one tenth")
        assert not leases.left_by(Path("a.log"))
    assert list((tmp_path / "leases").iterdir()) == []


def test_a_process_that_was_only_stopped_loses_its_lease_and_finds_out(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases", **QUICK)
    lost = leases.claim("cell")  # its heart does not beat: as one that is stopped
    assert lost is not None
    watcher = Leases(tmp_path / "leases", **QUICK)
    assert watcher.claim("cell") is None
    time.sleep(0.35)
    lease = watcher.claim("cell")
    assert lease is not None
    with lease:
        assert lease.owned() and not lost.owned()
        with lost:  # it goes on, beats once more, and gives back what is no longer its own
            time.sleep(0.05)
        assert lease.owned()


def test_a_beating_heart_keeps_a_lease_on_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Leases(tmp_path, **QUICK).claim("cell")
    assert lease is not None
    with lease:
        elsewhere(monkeypatch)
        watcher = Leases(tmp_path, **QUICK)
        for _ in range(30):
            assert watcher.claim("cell") is None
            time.sleep(0.02)


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_clocks_that_jump_change_nothing(hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(tmp_path)
    lease = leases.claim("cell")
    assert lease is not None
    with lease:
        elsewhere(monkeypatch)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)
        for path in tmp_path.iterdir():
            os.utime(path, (now - 3600 * hours, now - 3600 * hours))
        watcher = Leases(tmp_path)
        assert watcher.claim("cell") is None
        assert watcher.claim("cell") is None


def test_the_pid_of_a_dead_process_may_be_used_again(tmp_path: Path) -> None:
    lease = Leases(tmp_path).claim("cell")
    assert lease is not None
    path = tmp_path / "cell.lease"
    path.write_bytes(
        path.read_bytes().replace(b'"born": "', b'"born": "1')
    )  # this pid, started at another time
    after = Leases(tmp_path).claim("cell")
    assert after is not None and after.predecessor is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "1"}', bytes(range(128, 228))])
def test_a_file_that_says_nothing_is_a_lease_of_somebody_elses_until_time_is_up(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "cell.lease").write_bytes(content)
    leases = Leases(tmp_path, **QUICK)
    assert leases.claim("cell") is None
    time.sleep(0.35)
    lease = leases.claim("cell")
    assert lease is not None
    with lease:
        assert lease.owned()
    assert list(tmp_path.iterdir()) == []


def test_who_dies_while_it_takes_over_stops_nobody(tmp_path: Path) -> None:
    lease = Leases(tmp_path).claim("cell")
    assert lease is not None
    token = lease._holder.token
    (tmp_path / f"cell.lease.{token}").touch()  # so far it came
    path = tmp_path / "cell.lease"
    path.write_bytes(path.read_bytes().replace(b'"born": "', b'"born": "1'))
    watcher, deadline = Leases(tmp_path, **QUICK), time.monotonic() + 30
    assert watcher.claim("cell") is None
    while (after := watcher.claim("cell")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with after:
        assert after.owned()
    assert list(tmp_path.iterdir()) == []


RACE = """
import random, sys
from pathlib import Path
from medbench.lease import Leases
folder, number, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
while not (folder / "go").exists():
    pass
leases, names = Leases(folder / "leases"), [f"cell-{i}" for i in range(count)]
random.Random(number).shuffle(names)
for name in names:
    lease = leases.claim(name)
    if lease is not None:
        with lease:
            if not (folder / f"{name}.done").exists():
                with (folder / "claims").open("a") as claims:
                    claims.write(f"{name} {lease.predecessor is not None}\\n")
                (folder / f"{name}.done").touch()
"""


def race(folder: Path, cells: int, processes: int = 8) -> list[str]:
    """What all processes together claimed of so many cells, each in an order of its own."""
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, folder, str(number), str(cells)])
        for number in range(processes)
    ]
    time.sleep(0.3)
    (folder / "go").touch()
    assert [racer.wait(timeout=120) for racer in racers] == [0] * processes
    return (folder / "claims").read_text().splitlines()


def test_of_many_processes_one_claims_each(tmp_path: Path) -> None:
    claims = race(tmp_path, cells=200)
    assert sorted(claims) == sorted(f"cell-{number} False" for number in range(200))


def test_of_many_processes_one_takes_over_each(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases")
    for number in range(200):
        assert leases.claim(f"cell-{number}") is not None
    for path in (tmp_path / "leases").iterdir():
        path.write_bytes(path.read_bytes().replace(b'"born": "', b'"born": "1'))
    claims = race(tmp_path, cells=200)
    assert sorted(claims) == sorted(f"cell-{number} True" for number in range(200))
    assert list((tmp_path / "leases").iterdir()) == []


def test_who_waits_says_so_and_goes_on_when_it_is_free(tmp_path: Path) -> None:
    said: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with held(tmp_path / "cell.lease", "", said.append):
            inside.set()
            leave.wait()

    def after() -> bool:
        with held(tmp_path / "cell.lease", "computing", said.append) as lease:
            return lease.owned()

    with ThreadPoolExecutor() as pool:
        pool.submit(first)
        wait(inside)
        second = pool.submit(after)
        deadline = time.monotonic() + 30
        while not said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not second.done()
        leave.set()
        assert second.result()
    assert said == [f"another process is computing; waiting for it ({tmp_path / 'cell.lease'})"]
