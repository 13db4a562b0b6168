"""A disk that is full, a folder that may not be written, a server that does not answer, a clock that jumps: a clear
message and nothing lost; once the fault is mended the same command ends as if nothing had been.
"""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import PHASES, Doomed, Ended, Uninterrupted, contents, require_whole

REFUSALS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "dead": errno.EIO}
EACH = 12
"""Calls at which a phase meets a refusal; they are spread evenly."""

BY_DEFAULT = (("pretrain", "read-only", 9), ("run", "full", 5), ("build", "dead", 2))


def require_clear(ended: Ended, *words: str) -> None:
    """It failed, and said so to a user and not to a programmer."""
    assert ended.code in (1, 2, 3), ended.log
    assert "Traceback" not in ended.log
    for word in words:
        assert word in ended.log


@pytest.mark.parametrize(
    ("name", "refusal", "part"),
    [
        pytest.param(
            name,
            refusal,
            part,
            id=f"{name}-{refusal}-{part}",
            marks=[] if (name, refusal, part) in BY_DEFAULT else pytest.mark.nightly,
        )
        for name in PHASES
        for refusal in REFUSALS
        for part in range(EACH)
    ],
)
def test_what_is_refused_is_said_and_done_later(
    name: str,
    refusal: str,
    part: int,
    doomed: Doomed,
    uninterrupted: Callable[[str], Uninterrupted],
    tmp_path: Path,
) -> None:
    whole = uninterrupted(name)
    at = int((part + random.Random(part).random()) / EACH * whole.ended.calls)
    shutil.copytree(whole.start, tmp_path, dirs_exist_ok=True)
    failed = doomed(tmp_path, whole.command, ("refuse", at, REFUSALS[refusal]))
    if failed.code != 0:  # what only saves time is done without
        require_clear(failed, os.strerror(REFUSALS[refusal]), str(tmp_path))
    require_whole(tmp_path)
    again = doomed(tmp_path, whole.command)
    assert again.code == 0, again.log
    assert contents(tmp_path) == whole.after


@pytest.mark.parametrize(
    ("name", "share"),
    [
        pytest.param(name, share, marks=[] if (name, share) == ("pretrain", 0.4) else pytest.mark.nightly)
        for name in ("pretrain", "run", "build")
        for share in (0.1, 0.4)
    ],
)
def test_a_file_that_is_cut_by_a_limit(
    name: str,
    share: float,
    doomed: Doomed,
    uninterrupted: Callable[[str], Uninterrupted],
    tmp_path: Path,
) -> None:
    whole = uninterrupted(name)
    shutil.copytree(whole.start, tmp_path, dirs_exist_ok=True)
    failed = doomed(tmp_path, whole.command, ("limit", int(share * max(whole.sizes))))
    require_clear(failed, os.strerror(errno.EFBIG), str(tmp_path))
    require_whole(tmp_path)
    again = doomed(tmp_path, whole.command)
    assert again.code == 0, again.log
    assert contents(tmp_path) == whole.after


# A file system of its own, where this process may mount one.


class SmallDisk:
    """A file system in memory.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        """As in `size=300k`, `ro`."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        pytest.param(name, share, marks=[] if (name, share) == ("run", 0.5) else pytest.mark.nightly)
        for name in PHASES
        for share in (0.1, 0.3, 0.5, 0.7, 0.9)
    ],
)
def test_a_disk_that_fills_up(
    name: str,
    share: float,
    doomed: Doomed,
    uninterrupted: Callable[[str], Uninterrupted],
    small_disk: SmallDisk,
) -> None:
    whole = uninterrupted(name)
    folder = small_disk.folder
    shutil.copytree(whole.start, folder, dirs_exist_ok=True)
    used = shutil.disk_usage(folder).used
    small_disk.remount(f"size={used + int(share * sum(whole.sizes))}")
    failed = doomed(folder, whole.command)
    if failed.code != 0:  # a cache of features is done without
        require_clear(failed, str(folder))
        assert os.strerror(errno.ENOSPC) in failed.log or "free" in failed.log
    require_whole(folder)
    small_disk.remount("size=1g")
    again = doomed(folder, whole.command)
    assert again.code == 0, again.log
    assert contents(folder) == whole.after


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "run" else pytest.mark.nightly) for name in PHASES]
)
def test_a_folder_that_can_only_be_read(
    name: str, doomed: Doomed, uninterrupted: Callable[[str], Uninterrupted], small_disk: SmallDisk
) -> None:
    whole = uninterrupted(name)
    folder = small_disk.folder
    shutil.copytree(whole.start, folder, dirs_exist_ok=True)
    small_disk.remount("ro")
    failed = doomed(folder, whole.command)
    require_clear(failed, str(folder))
    assert contents(folder) == whole.before
    small_disk.remount("rw")
    again = doomed(folder, whole.command)
    assert again.code == 0, again.log
    assert contents(folder) == whole.after


# Clocks.


@pytest.mark.parametrize("name", ["run", pytest.param("pretrain", marks=pytest.mark.nightly)])
def test_a_clock_that_jumps_by_years_changes_nothing(
    name: str, doomed: Doomed, uninterrupted: Callable[[str], Uninterrupted], tmp_path: Path
) -> None:
    whole = uninterrupted(name)
    shutil.copytree(whole.start, tmp_path, dirs_exist_ok=True)
    done = doomed(tmp_path, whole.command, ("clock", 10 * 365 * 86_400))
    assert done.code == 0, done.log
    assert contents(tmp_path) == whole.after
