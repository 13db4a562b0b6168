"""A folder of built leaderboards: written, with what it was made by, and held against the records again.

`manifest.json` names every file with its format and SHA-256, and the versions that made them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Final

from medbench.errors import DataError, PluginError
from medbench.files import sha256_bytes, sha256_file, write_atomic
from medbench.plugins import Catalogue
from medbench.results import Results
from medbench.specs import LeaderboardSpec

MANIFEST: Final = "manifest.json"
SCHEMA: Final = "medbench.built/1"

PICTURES: Final = {".png": ("matplotlib", "pillow"), ".svg": ("matplotlib",), ".pdf": ("matplotlib",)}
"""By ending, the libraries whose versions decide the bytes of a picture."""

LIBRARIES: Final = ("medbench", "jinja2", "matplotlib", "numpy", "pillow")
"""Whose versions the manifest holds, where they are installed."""


@dataclass(frozen=True)
class Made:
    """What one leaderboard makes of the records.

    Attributes:
        format: its name on the command line.
        files: contents by path, relative to the output folder, with forward slashes.
    """

    format: str
    files: Mapping[str, bytes]


@dataclass
class Report:
    """What a comparison found.

    Attributes:
        compared: files that were held against the records.
        wrong: a line for each file that differs, lacks or is too many, and for what is wrong of the manifest.
        other_versions: a line for each format with pictures that were not held against the records, since other
            versions drew them; they were held against their SHA-256 in the manifest.
        unread: these pictures.
    """

    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    other_versions: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def make(spec: LeaderboardSpec, catalogue: Catalogue, results: Results) -> Made:
    """Ask a leaderboard for its files.

    Raises:
        PluginError: it can not be loaded, or gives something else, or a path that leads out of the folder.
    """
    files = catalogue.load("leaderboards", spec.name)(results)
    who = f"leaderboard {spec.name} of {catalogue.owner('leaderboards', spec.name)}"
    if not isinstance(files, Mapping) or not all(isinstance(own, bytes) for own in files.values()):
        raise PluginError(f"{who} gives {type(files).__name__}; expected a mapping of paths to bytes.")
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or name != "/".join(parts) or ".." in parts or parts[0] == "/" or name == MANIFEST:
            raise PluginError(f"{who} gives a file {name!r}; expected a path below the output folder.")
    return Made(spec.format, files)


class Folder:
    """An output folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, made: Sequence[Made]) -> list[Path]:
        """Write files and manifest. What other formats wrote before stays; of these, what they make no longer goes.

        Returns:
            The files, in the order of their paths.

        Raises:
            PluginError: two leaderboards give one path.
            DataError: the manifest that is there can not be read.
        """
        files = _together(made)
        before = self._manifest() if (self.root / MANIFEST).exists() else {}
        kept = {name: own for name, own in before.items() if name not in {one.format for one in made}}
        stale = {
            path: sha256
            for name, own in before.items()
            if name not in kept
            for path, sha256 in own["files"].items()
        }
        for path, sha256 in stale.items():
            old = self.root / path
            if path not in files and old.is_file() and sha256_file(old) == sha256:
                old.unlink()
                for above in old.relative_to(self.root).parents:
                    if above != Path() and not any((self.root / above).iterdir()):
                        (self.root / above).rmdir()
        for path, content in sorted(files.items()):
            if not _is(self.root / path, content):
                write_atomic(self.root / path, content)
        now = {
            one.format: {
                "versions": versions(),
                "files": {path: sha256_bytes(content) for path, content in one.files.items()},
            }
            for one in made
        }
        manifest = {"schema": SCHEMA, "formats": kept | now}
        write_atomic(self.root / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
        return [self.root / path for path in sorted(files)]

    def formats(self) -> list[str]:
        """Those that were built here.

        Raises:
            DataError: there is no manifest, or it can not be read.
        """
        if not (self.root / MANIFEST).exists():
            raise DataError(
                f"{self.root}: no {MANIFEST}, so nothing was built there. Build with "
                f"`medbench leaderboard build --out {self.root}`, or name the folder with --out DIR."
            )
        return sorted(self._manifest())

    def compare(self, made: Sequence[Made]) -> Report:
        """Hold the folder against what the records give now.

        Pictures are compared where the versions that made them are those that are installed: another release of a
        library draws the same picture in other bytes, and the SHA-256 of the manifest is then all that they can be
        held against. The manifest itself is compared, too, all but its versions.

        Args:
            made: of all formats of the manifest.
        """
        report, manifest, files = Report(), self._manifest(), _together(made)
        for one in made:
            own = manifest.get(one.format, {"versions": {}, "files": {}})
            others = {
                name: f"{own['versions'].get(name)} then, {now} now"
                for name, now in versions().items()
                if own["versions"].get(name) != now
            }
            unread: list[str] = []
            why: dict[str, None] = {}
            for path in sorted(one.files.keys() - own["files"].keys()):
                report.wrong.append(f"{MANIFEST}: lacks {path} of {one.format}")
            for path in sorted(own["files"].keys() - one.files.keys()):
                if not (self.root / path).is_file():  # else it is too many
                    report.wrong.append(f"{MANIFEST}: has {path} of {one.format}; the records do not give it")
            for path, content in sorted(one.files.items()):
                drawn_by = PICTURES.get(PurePosixPath(path).suffix, ())
                held = own["files"].get(path)
                if not (self.root / path).is_file():
                    report.wrong.append(f"{path}: lacks; the records give it")
                elif changed := [name for name in drawn_by if name in others]:
                    unread.append(path)
                    why |= {f"{name} {others[name]}": None for name in changed}
                    if held not in (None, sha256_file(self.root / path)):
                        report.wrong.append(f"{path}: is not the picture that was built, by {MANIFEST}")
                else:
                    report.compared += 1
                    if not _is(self.root / path, content):
                        report.wrong.append(f"{path}: differs from what the records give")
                    elif held not in (None, sha256_bytes(content)):
                        report.wrong.append(f"{MANIFEST}: has another SHA-256 of {path}")
            if unread:
                report.other_versions.append(
                    f"{len(unread)} pictures of {one.format} were held against {MANIFEST} alone ({', '.join(why)}): "
                    + ", ".join(unread)
                )
                report.unread += unread
        for path in self._present():
            if path not in files:
                report.wrong.append(f"{path}: is too many; the records do not give it")
        return report

    def _manifest(self) -> dict[str, Any]:
        """By format: versions, and SHA-256 by path."""
        path = self.root / MANIFEST
        try:
            content = json.loads(path.read_bytes())
            formats: dict[str, Any] = content["formats"]
            sound = (
                bool(formats)
                and content["schema"] == SCHEMA
                and all(
                    isinstance(own["versions"], dict) and isinstance(own["files"], dict)
                    for own in formats.values()
                )
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise DataError(
                f"{path}: not a {SCHEMA} manifest. Remove it and build again with "
                f"`medbench leaderboard build --out {self.root}`."
            )
        return formats

    def _present(self) -> Iterator[str]:
        """All files of the folder but the manifest and hidden ones."""
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root)
            if path.is_file() and name != Path(MANIFEST) and not any(p.startswith(".") for p in name.parts):
                yield name.as_posix()


def versions() -> dict[str, str]:
    """Of `LIBRARIES`."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _together(made: Sequence[Made]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    whose: dict[str, str] = {}
    for one in made:
        for path, content in one.files.items():
            if path in files:
                raise PluginError(f"{whose[path]} and {one.format} both give {path}.")
            files[path], whose[path] = content, one.format
    return files


def _is(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
