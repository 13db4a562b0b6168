"""What a record says about where it was computed: versions and commit."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "medbench",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "timm",
    "transformers",
    "tokenizers",
    "mmdet",
    "mmcv-lite",
    "mmengine",
    "faster-coco-eval",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
    "pydicom",
    "scipy",
    "scikit-learn",
)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that medbench is installed from; None for an installed wheel or without git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None  # a wheel inside somebody else's checkout
        # Files that git does not track (results, caches) do not change a number.
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}
    except (OSError, subprocess.SubprocessError):
        return None
