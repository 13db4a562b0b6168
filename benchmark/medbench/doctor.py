"""What is there, what is wrong and the cure, for `medbench doctor` and `medbench data status`."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from medbench.errors import DataError, MedbenchError, PluginError
from medbench.plugins import GROUP, Catalogue

LOW_DISK = 10 * 2**30
"""Bytes: the phantoms, the prepared films of both recipes and the weights of a few methods fit into this."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of what.
        state: "ok"; "note" for what stops nothing or only a part; "wrong" for what must be mended.
        found: what was found.
        cure: what to do about it, "" if nothing.
        details: a traceback, shown on demand.
        exit_code: of a "wrong" one.
    """

    name: str
    state: Literal["ok", "note", "wrong"]
    found: str
    cure: str = ""
    details: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Report:
    """All checks, in the order in which they are read."""

    checks: tuple[Check, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """Of the first thing that is wrong; 0 if medbench is usable."""
        return next((check.exit_code for check in self.checks if check.state == "wrong"), 0)

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {"usable": self.exit_code == 0, "checks": [asdict(check) for check in self.checks]}

    def text(self, *, tracebacks: bool = False) -> str:
        """For people; what is wrong once more at the end, with the cure."""
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            first, *others = check.found.split("\n")
            lines.append(f"{check.state:<6}{check.name:<{width}}  {first}")
            lines += [f"{'':<6}{'':<{width}}  {line}" for line in others]
            if check.cure:
                lines.append(f"{'':<6}{'':<{width}}  cure: {check.cure}")
            if check.details and tracebacks:
                lines.append(check.details.rstrip())
        wrong = [check.name for check in self.checks if check.state == "wrong"]
        notes = sum(check.state == "note" for check in self.checks)
        lines.append("")
        lines.append(
            f"wrong: {', '.join(wrong)}" if wrong else f"usable{f', with {notes} notes' if notes else ''}"
        )
        return "\n".join(lines)


def examine(
    catalogue: Catalogue, *, cache: Path, data_root: Path | None, data: Mapping[str, Path], offline: bool
) -> Report:
    """Look at everything that medbench needs.

    Args:
        catalogue: what the plugins brought.
        cache: folder of phantoms, prepared films and weights.
        data_root: folder that holds every dataset, if one is named.
        data: folders of single datasets.
        offline: whether hubs may be asked.
    """
    checks = [
        *_guarded("versions", _versions),
        *_guarded("devices", _devices),
        *_guarded("OpenCV", _opencv),
        *_plugins(catalogue),
        *_data(catalogue, data_root, data),
        *_cache(cache),
        Check(
            "hubs", "ok", "never asked (offline)" if offline else "asked when a recipe names a hub's model"
        ),
    ]
    return Report(tuple(checks))


def _guarded(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """A library that does not even import is a finding, not the end of the report."""
    try:
        return look()
    except (ImportError, OSError, RuntimeError) as error:
        import traceback

        cure = "install medbench again in a fresh virtual environment"
        found, details = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        return [Check(name, "wrong", found, cure, details, PluginError.exit_code)]


def _versions() -> list[Check]:
    from medbench.provenance import versions

    found = versions()
    shown = ", ".join(f"{name} {version}" for name, version in found.items())
    missing = [name for name, version in found.items() if version == "not installed"]
    if not missing:
        return [Check("versions", "ok", shown)]
    cure = f"pip install {' '.join(missing)}"
    return [Check("versions", "wrong", shown, cure, exit_code=PluginError.exit_code)]


def _devices() -> list[Check]:
    import torch

    from medbench.devices import describe, resolve_precision

    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    lines = []
    for device in devices:
        about = describe(device)
        memory = f", {about['memory_bytes'] / 2**30:.0f} GiB" if "memory_bytes" in about else ""
        lines.append(
            f"{device}: {about['name']}{memory}, precision auto is {resolve_precision('auto', device)}"
        )
    lines[0] += f", {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"
    return [Check("devices", "ok", "\n".join(lines))]


def _opencv() -> list[Check]:
    from medbench.heads.mmdet_ops import check_opencv

    reason = check_opencv()
    if reason is None:
        return [Check("OpenCV", "ok", f"cv2 {import_module('cv2').__version__}")]
    # Everything but detection works without it, but detection is a part of medbench.
    return [Check("OpenCV", "wrong", reason, "either of these two", exit_code=PluginError.exit_code)]


def _plugins(catalogue: Catalogue) -> list[Check]:
    counts = ", ".join(
        f"{len(held)} {kind}"
        for kind, held in (
            ("methods", catalogue.methods),
            ("tasks", catalogue.tasks),
            ("datasets", catalogue.datasets),
            ("leaderboards", catalogue.leaderboards),
        )
    )
    owners = ", ".join(dict.fromkeys(str(plugin.owner) for plugin in catalogue.plugins)) or "none"
    checks = [Check("plugins", "ok", f"{owners}: {counts}")]
    for problem in catalogue.problems:
        own = problem.owner.name == GROUP
        checks.append(
            Check(
                "plugins",
                "wrong" if own or problem.asked else "note",
                str(problem),
                "install medbench again"
                if own
                else "update or uninstall it; `medbench plugins list` has the traceback",
                problem.traceback,
                PluginError.exit_code,
            )
        )
    for task in catalogue.tasks.values():
        if task.dataset not in catalogue.datasets:
            found = f"task {task.name} is run on {task.dataset!r}, and there is no such dataset"
            checks.append(Check("plugins", "note", found, "install the plugin that brings it"))
    return checks


def _data(catalogue: Catalogue, data_root: Path | None, data: Mapping[str, Path]) -> list[Check]:
    if data_root is None and not data:
        return [
            Check("data", "ok", "no folder named: runs use PHANTOM data (--data-root, --data, MEDBENCH_DATA)")
        ]
    checks = []
    if data_root is not None and not data_root.is_dir():
        cure = "name an existing folder with --data-root or MEDBENCH_DATA"
        checks.append(
            Check("data", "wrong", f"{data_root} is no folder", cure, exit_code=DataError.exit_code)
        )
        data_root = None
    for row in dataset_folders(catalogue, data_root, data):
        missing = row["state"] == "not there"
        cure = f"get it from {catalogue.datasets[row['dataset']].access}" if missing else ""
        # A folder that was named by hand must be there; below a root it need not.
        wrong = missing and row["dataset"] in data
        found = f"{row['dataset']}: {row['folder'] or 'no folder named'}, {row['state']}"
        if missing or row["folder"]:
            state: Literal["ok", "note", "wrong"] = "wrong" if wrong else "note" if missing else "ok"
            checks.append(Check("data", state, found, cure, exit_code=DataError.exit_code))
    return checks


def _cache(cache: Path) -> list[Check]:
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    if not existing.is_dir():
        cure = "name a folder with MEDBENCH_CACHE"
        return [Check("cache", "wrong", f"{existing} is no folder", cure, exit_code=MedbenchError.exit_code)]
    free = shutil.disk_usage(existing).free
    held = (
        "; ".join(f"{row['folder']}: {row['size']} in {row['entries']}" for row in cache_folders(cache))
        or "empty"
    )
    found = f"{cache}: {held}; {_size(free)} free"
    if not os.access(existing, os.W_OK):
        cure = "name a folder that can be written with MEDBENCH_CACHE"
        return [
            Check("cache", "wrong", f"{found}; can not be written", cure, exit_code=MedbenchError.exit_code)
        ]
    if free < LOW_DISK:
        return [Check("cache", "note", found, "make room, or name another folder with MEDBENCH_CACHE")]
    return [Check("cache", "ok", found)]


def dataset_folders(
    catalogue: Catalogue, data_root: Path | None, data: Mapping[str, Path]
) -> list[dict[str, str]]:
    """Where each dataset is looked for and what is there, for `describe.table`."""
    from medbench.data.index import source_of
    from medbench.data.sources import folder_of

    rows = []
    for name, spec in catalogue.datasets.items():
        root = folder_of(spec, data_root, data)
        if root is None:
            state = "phantom" if spec.phantom and not data else "no folder named"
        elif not root.exists():
            state = "not there"
        else:
            state = source_of(root)
        rows.append({"dataset": name, "state": state, "folder": str(root) if root is not None else ""})
    return rows


def cache_folders(cache: Path) -> list[dict[str, str]]:
    """What the cache holds, one row a folder of it, for `describe.table`."""
    if not cache.is_dir():
        return []
    rows = []
    for folder in sorted(path for path in cache.iterdir() if path.is_dir()):
        entries = sum(1 for _ in folder.iterdir())
        rows.append({"folder": folder.name, "entries": f"{entries} entries", "size": _size(_bytes(folder))})
    return rows


def _bytes(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(path, file)).st_size
            except FileNotFoundError:
                continue  # a run that goes on beside this one renamed it
    return total


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
