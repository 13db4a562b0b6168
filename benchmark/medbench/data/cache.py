"""What the prepared cache holds, which of it is still of use, and freeing the rest.

A folder is of use as long as every film that it was made from lies where it lay, with the same size and time of
change, this version of medbench reads films as the one that made it, and no other folder holds all of its films.
Anything else is never opened again: the next run makes a new key.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from medbench.data.images import READER, SCALER
from medbench.data.prepared import ABOUT, DONE, IDENTITY, TABLE


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
        state: `in use`; `unfinished`: the next run goes on with it; `unused`: no run opens it again.
        why: what makes it unused.
    """

    folder: Path
    dataset: str
    side: int
    fit: str
    films: int
    bytes: int
    state: Literal["in use", "unfinished", "unused"]
    why: str = ""


def held(cache: Path) -> list[Held]:
    """Every folder of the prepared cache; looks at each film's file, opens none."""
    prepared = cache / "prepared"
    folders = sorted(path for path in prepared.iterdir() if path.is_dir()) if prepared.is_dir() else []
    read = [_Read.of(folder) for folder in folders]
    reasons = [one.outdated() for one in read]
    sound = [one for one, why in zip(read, reasons, strict=True) if not why]
    return [
        one.judged(why or one.covered([other for other in sound if other is not one]))
        for one, why in zip(read, reasons, strict=True)
    ]


def free(entries: Iterable[Held]) -> list[Held]:
    """Remove folders; those that another process works on are left alone.

    Returns:
        What was removed.
    """
    from filelock import FileLock, Timeout

    freed = []
    for entry in entries:
        try:
            with FileLock(entry.folder.with_suffix(".lock"), timeout=0):
                shutil.rmtree(entry.folder)
        except (Timeout, FileNotFoundError):  # somebody works on it, or finished it just now
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
    changed: float

    @classmethod
    def of(cls, folder: Path) -> "_Read":
        done = folder / DONE
        finished = folder.suffix == "" and done.exists()
        try:
            about = json.loads((done if finished else folder / ABOUT).read_text())
            films = pd.read_parquet(folder / TABLE)
            return cls(folder, about, films, finished, (folder / TABLE).stat().st_mtime)
        except (OSError, ValueError):
            return cls(folder, {}, None, finished, 0.0)

    def judged(self, why: str) -> Held:
        state: Literal["in use", "unfinished", "unused"] = "in use" if self.done else "unfinished"
        about = self.about
        return Held(
            self.folder,
            str(about.get("dataset", "")),
            int(about.get("side", 0)),
            str(about.get("fit", "")),
            int(about.get("count", 0)),
            _bytes(self.folder),
            "unused" if why else state,
            why,
        )

    def outdated(self) -> str:
        """Why no run asks for it again; "" if one may."""
        if self.films is None or "root" not in self.about:
            return "left by another version, or damaged"
        if (self.about["reader"], self.about["scaler"]) != (READER, SCALER):
            return "films are read in another way now"
        changed = _changed(Path(self.about["root"]), self.films)
        return f"{changed:,} of {len(self.films):,} films are gone or have changed" if changed else ""

    def covered(self, others: list["_Read"]) -> str:
        """Which of `others` can stand for it; "" if none."""
        inside = [f"all of its films are in {other.folder.name}" for other in others if self._inside(other)]
        return inside[0] if inside else ""

    def _inside(self, other: "_Read") -> bool:
        """Whether `other` can stand for this one: a later one of the same films, or one of more."""
        alike = ("dataset", "root", "side", "fit", "reader", "scaler")
        if other.films is None or not other.done or any(self.about[k] != other.about.get(k) for k in alike):
            return False
        if (other.films["problem"] != "").any() or (self.done and (self.films["problem"] != "").any()):  # type: ignore[index]  # read
            return False  # keeps on record what is broken
        assert self.films is not None
        if (len(other.films), other.changed) <= (len(self.films), self.changed):
            return False
        theirs = set(other.films[IDENTITY].itertuples(index=False, name=None))
        return all(film in theirs for film in self.films[IDENTITY].itertuples(index=False, name=None))


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
