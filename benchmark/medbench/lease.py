"""Leases: files in a folder that processes and hosts share, which say who computes what. No server, no file locks.

A lease is made by creating a file that must not be there (O_EXCL), and is held for as long as its content keeps
changing: a thread of the holder writes it anew every few seconds. It is abandoned if its process is known to be dead on
this host, or if a watcher saw no change for some time of the watcher's own monotonic clock; so clocks of hosts may
differ, and jump. Of all who see that it is abandoned exactly one takes it over: the one that creates the file
`NAME.lease.TOKEN`, which stands for the right to replace the lease of that token, and is asked for by releases, too.

    <folder>/<name>.lease           who holds it, JSON
    <folder>/<name>.lease.<token>   somebody replaces or removes the lease of this token, for milliseconds

A holder that was stopped for so long that its lease was taken over finds out by `Lease.owned`, before it records.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final

from medbench.errors import StorageError

BEAT: Final = 10.0
"""Seconds between two signs of life of a holder."""

ABANDONED: Final = 300.0
"""Seconds without one after which a lease of another host is taken over."""

_SIZE: Final = 1024
"""Bytes of a lease's file, blanks behind the JSON: what is written over it never leaves an end of the old content."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        token: drawn for this lease; no other one ever has it.
        machine: the host, its boot and its process namespace: where `pid` means this process.
        pid: of the process.
        born: when that was started, as the kernel says it; another process of the same `pid` has another one.
        log: file that the process writes to, where an executor started it, else "".
        at: what it is computing of what it claimed, "" for all of it.
        lost: how many holders before it were lost at the same.
        beats: signs of life so far.
    """

    token: str
    machine: str
    pid: int
    born: str
    log: str
    at: str = ""
    lost: int = 0
    beats: int = 0

    def dead(self) -> bool:
        """Whether its process is known to have ended: it was one of this host."""
        return self.machine == _machine() and _born(self.pid) != self.born

    def __str__(self) -> str:
        return f"process {self.pid} of {self.machine.partition(' ')[0]}"


class Lease:
    """A lease that this process holds. To be used in a `with`, which gives it back.

    Attributes:
        predecessor: who held and abandoned it, None where it was free.
    """

    def __init__(
        self, path: Path, file: int, holder: Holder, predecessor: Holder | None, beat: float
    ) -> None:
        self.predecessor = predecessor
        self._path, self._file, self._holder = path, file, holder
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, args=(beat,), daemon=True)

    def __enter__(self) -> "Lease":
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heart.join()
        os.close(self._file)
        # Somebody who thinks it abandoned may be replacing it: then it is not ours to remove. Where the folder is away,
        # it is abandoned as soon as this process has ended.
        with suppress(OSError), _breaking(self._path, self._holder.token):
            if self.owned():
                self._path.unlink()

    def owned(self) -> bool:
        """Whether nobody has taken it over."""
        found = _holder(_read(self._path))
        return found is not None and found.token == self._holder.token

    def at(self, part: str) -> None:
        """Say what of that which was claimed is being computed now."""
        with self._writing:
            same = self.predecessor is not None and self.predecessor.at == part
            self._holder = replace(self._holder, at=part, lost=self._holder.lost if same else 0)
            self._write()

    def _beat(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            with self._writing:
                self._holder = replace(self._holder, beats=self._holder.beats + 1)
                self._write()

    def _write(self) -> None:
        # Into the file as it was opened: once another lease stands in its place, nobody reads this one. A folder that
        # is away for a moment costs a sign of life; one that stays away costs the lease.
        with suppress(OSError):
            os.pwrite(self._file, _content(self._holder), 0)
            os.fsync(self._file)


class Leases:
    """The leases of a folder, as one process sees them; remembers since when which of them did not change.

    Args:
        folder: made if need be.
        log: file that this process writes to, where an executor started it.
        beat: seconds between signs of life.
        abandoned: seconds without one after which a lease is taken over.
    """

    def __init__(
        self, folder: Path, log: Path | None = None, *, beat: float = BEAT, abandoned: float = ABANDONED
    ) -> None:
        self.folder = folder
        self._log = "" if log is None else str(log)
        self._beat, self._abandoned = beat, abandoned
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def claim(self, name: str) -> Lease | None:
        """The lease of this name; None where another process, or another thread of this one, has it.

        Raises:
            StorageError: there is no such folder any more, and none can be made.
        """
        path = self.folder / f"{name}.lease"
        pid = os.getpid()
        mine = Holder(secrets.token_hex(8), _machine(), pid, _born(pid), self._log)
        found = _read(path)
        if found is not None:
            return self._take_over(path, found, mine) if self._is_abandoned(path, found) else None
        self._seen.pop(path, None)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = _create(path, mine)
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            if self.folder.is_dir():  # somebody was faster
                return None
            raise StorageError(
                f"{self.folder}: the folder went away. See that the disk, or the server that it is on, is there, then"
                " run the same command again: what was finished is kept, and it goes on from there."
            ) from None
        return Lease(path, file, mine, None, self._beat)

    def left_by(self, log: Path) -> bool:
        """Whether a process that wrote to this file, and has ended, left a lease behind."""
        held = (_holder(_read(path)) for path in self.folder.glob("*.lease"))
        return any(holder is not None and holder.log == str(log) for holder in held)

    def _is_abandoned(self, path: Path, found: bytes) -> bool:
        holder = _holder(found)
        return (holder is not None and holder.dead()) or self._unchanged(path, found)

    def _unchanged(self, path: Path, found: bytes) -> bool:
        """Whether a file is as it was when this process saw it first, long ago."""
        content, since = self._seen.get(path, (None, 0.0))
        now = time.monotonic()
        if content != found:
            self._seen[path] = found, now
            return False
        return now - since >= self._abandoned

    def _take_over(self, path: Path, found: bytes, mine: Holder) -> Lease | None:
        holder = _holder(found)
        token = "unreadable" if holder is None else holder.token
        mine = mine if holder is None else replace(mine, lost=holder.lost + 1)
        try:
            with _breaking(path, token):
                if _read(path) != found:  # a sign of life, or somebody was faster
                    return None
                new = path.with_name(f"{path.name}.{mine.token}.new")
                file = _create(new, mine)
                os.replace(new, path)
        except FileExistsError:
            # Somebody is at it, for milliseconds; unless that one died at it.
            breaker = _breaker(path, token)
            if self._unchanged(breaker, b""):
                breaker.unlink(missing_ok=True)
            return None
        self._seen.pop(path, None)
        return Lease(path, file, mine, holder, self._beat)


@contextmanager
def held(path: Path, what: str, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold a lease, after waiting for whoever has it.

    Args:
        path: of its file, `NAME.lease`.
        what: what a process that holds it is doing, for the user who waits.
        say: prints a line for that user.
    """
    leases, pause = Leases(path.parent), 0.05
    while (lease := leases.claim(path.stem)) is None:
        if pause == 0.05:
            say(f"another process is {what}; waiting for it ({path})")
        time.sleep(pause)
        pause = min(1.5 * pause, 2.0)
    with lease:
        yield lease


@contextmanager
def _breaking(path: Path, token: str) -> Iterator[None]:
    """The right, of one at a time, to replace or remove the lease of this token.

    Raises:
        FileExistsError: another one has it.
    """
    breaker = _breaker(path, token)
    os.close(os.open(breaker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    try:
        yield
    finally:
        breaker.unlink(missing_ok=True)


def _breaker(path: Path, token: str) -> Path:
    return path.with_name(f"{path.name}.{token}")


def _create(path: Path, holder: Holder) -> int:
    """A new file with this content, open for writing."""
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.pwrite(file, _content(holder), 0)
        os.fsync(file)  # a network file system shows it to others only then
    except OSError as error:  # a disk is full: others would wait for what nobody holds
        os.close(file)
        with suppress(OSError):
            path.unlink()
        error.filename = str(path)
        raise
    return file


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode().ljust(_SIZE - 1) + b"\n"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _holder(content: bytes | None) -> Holder | None:
    """Who a lease's file says has it; None where it does not say (yet)."""
    try:
        return Holder(**json.loads(content or b""))
    except (ValueError, TypeError):
        return None


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # nothing is known of processes: only time tells whether a lease is abandoned
        boot, space = secrets.token_hex(8), ""
    return f"{os.uname().nodename} {boot} {space}"


def _born(pid: int) -> str:
    """When a process was started, in ticks since the boot; "" where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
