"""What the prepared cache holds, which of it is still of use, and freeing the rest.

A folder is of use as long as every film that it was made from lies where it lay, with the same size and time of
change, and this version of medbench reads films as the one that made it. Anything else is never opened again: the
next run makes a new key. Where the dataset's folder is not there at all nothing can be told, and it is kept: a disk
that is not mounted now may be so tomorrow.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from medbench.data.images import READER, SCALER
from medbench.data.prepared import ABOUT, DONE, TABLE
from medbench.files import unheld

State: TypeAlias = Literal["in use", "unfinished", "root absent", "unused"]


@dataclass(frozen=True)
class Held:
    """One folder of the prepared cache.

    Attributes:
        folder: where it is.
        dataset: name, "" where it does not say.
        side: pixels; 0 where it does not say.
        fit: `pad` or `stretch`.
        films: how many.
        bytes: of disk.
        state: `in use`; `unfinished`: the next run goes on with it; `root absent`: the films that it was made from
            can not be looked at; `unused`: no run opens it again.
        why: what makes it unused; or the root that is absent.
    """

    folder: Path
    dataset: str
    side: int
    fit: str
    films: int
    bytes: int
    state: State
    why: str = ""


def held(cache: Path) -> list[Held]:
    """Every folder of the prepared cache; looks at each film's file, opens none."""
    prepared = cache / "prepared"
    folders = sorted(path for path in prepared.iterdir() if path.is_dir()) if prepared.is_dir() else []
    return [_Read.of(folder).judged() for folder in folders]


def free(entries: Iterable[Held]) -> list[Held]:
    """Remove folders; those that a process works on, or has open (`medbench.files.Hold`), are left alone.

    Returns:
        What was removed.
    """
    from filelock import FileLock, Timeout

    freed = []
    for entry in entries:
        try:
            with FileLock(entry.folder.with_suffix(".lock"), timeout=0), unheld(entry.folder / TABLE):
                shutil.rmtree(entry.folder)
        except (Timeout, BlockingIOError, FileNotFoundError):  # in work, open, or finished just now
            continue
        freed.append(entry)
    return freed


@dataclass(frozen=True)
class _Read:
    """What a folder says of itself."""

    folder: Path
    about: dict[str, Any]
    films: pd.DataFrame | None
    done: bool

    @classmethod
    def of(cls, folder: Path) -> "_Read":
        done = folder / DONE
        finished = folder.suffix == "" and done.exists()
        try:
            about = json.loads((done if finished else folder / ABOUT).read_text())
            films = pd.read_parquet(folder / TABLE)
            return cls(folder, about, films, finished)
        except (OSError, ValueError):
            return cls(folder, {}, None, finished)

    def judged(self) -> Held:
        about = self.about
        state, why = self.state()
        return Held(
            self.folder,
            str(about.get("dataset", "")),
            int(about.get("side", 0)),
            str(about.get("fit", "")),
            int(about.get("count", 0)),
            _bytes(self.folder),
            state,
            why,
        )

    def state(self) -> tuple[State, str]:
        """As in `Held`, and why."""
        if self.films is None or "root" not in self.about:
            return "unused", "left by another version, or damaged"
        if (self.about["reader"], self.about["scaler"]) != (READER, SCALER):
            return "unused", "films are read in another way now"
        root = Path(self.about["root"])
        if _absent(root):
            return "root absent", str(root)
        if changed := _changed(root, self.films):
            return "unused", f"{changed:,} of {len(self.films):,} films are gone or have changed"
        return "in use" if self.done else "unfinished", ""


def _absent(root: Path) -> bool:
    """Whether a folder can not be looked into, or is empty, as the one is that a disk is mounted on."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _changed(root: Path, films: pd.DataFrame) -> int:
    """Films whose files are not what they were."""
    changed = 0
    for image, size, when in films[["image", "bytes", "mtime_ns"]].itertuples(index=False):
        try:
            stat = os.stat(root / image)
        except OSError:
            changed += 1
            continue
        changed += (stat.st_size, stat.st_mtime_ns) != (size, when)
    return changed


def _bytes(folder: Path) -> int:
    """Disk that the files of a folder take."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            continue  # a run beside this one renamed it
    return total
