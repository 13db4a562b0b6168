"""The wheel, and the example plugin installed beside it: what a stranger gets."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {
    "medbench": "benchmark",
    "medbench_methods": "methods",
    "medbench_tasks": "tasks",
    "medbench_leaderboards": "leaderboards",
}

Medbench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_four_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {
        str(path.relative_to(REPOSITORY / room))
        for package, room in PACKAGES.items()
        for path in (REPOSITORY / room / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert "medbench/data/index.py" in found  # a bare `data/` in .gitignore would take it away
    assert {f"{package}/py.typed" for package in PACKAGES} <= found


def test_the_wheel_carries_licence_and_entry_points(wheel: zipfile.ZipFile) -> None:
    [points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(points).decode()
    assert "medbench = medbench.cli:main" in text
    assert "[pytest11]\nmedbench.conformance.pytest_options = medbench.conformance.pytest_options" in text
    for package in ("medbench_methods", "medbench_tasks", "medbench_leaderboards"):
        assert f"= {package}\n" in text + "\n"
    [licence] = [name for name in wheel.namelist() if name.endswith("LICENSE")]
    assert b"Apache License" in wheel.read(licence)


def test_what_is_installed_fits_what_is_required() -> None:
    from importlib.metadata import version

    for line in requires("medbench") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(version(requirement.name), prereleases=True), line


def test_mmdetection_is_pinned_to_the_wheels_that_work() -> None:
    required = {
        Requirement(line).name: str(Requirement(line).specifier) for line in requires("medbench") or []
    }
    assert required["mmdet"] == "==3.3.0"
    assert required["mmcv-lite"] == "==2.1.0"
    assert required["mmengine"] == "==0.10.7"


def test_the_built_ins_are_installed_entry_points() -> None:
    names = {
        point.name for point in entry_points(group="medbench") if point.dist and point.dist.name == "medbench"
    }
    assert names == {"methods", "tasks", "leaderboards"}


# The example plugin.


@pytest.fixture(scope="module")
def with_example(tmp_path_factory: pytest.TempPathFactory) -> Medbench:
    """Run medbench with the example plugin installed by pip, in a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    home = tmp_path_factory.mktemp("home")
    source = tmp_path_factory.mktemp("source") / "plugin_example"
    import shutil

    shutil.copytree(REPOSITORY / "tests" / "plugin_example", source)  # pip builds in the tree
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--no-index",
            ),
            *("--target", str(site), str(source)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDBENCH_")}
    environment |= {
        "PYTHONPATH": str(site),
        "MEDBENCH_HOME": str(home),
        "MEDBENCH_RESULTS": str(home / "results"),
    }

    def medbench(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "medbench.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return medbench


def test_the_example_is_listed_with_its_owner(with_example: Medbench) -> None:
    methods, tasks = with_example("list", "methods"), with_example("list", "tasks")
    assert methods.returncode == tasks.returncode == 0
    assert methods.stderr == tasks.stderr == ""
    assert "example_method" in methods.stdout and "medbench-example 0.1.0" in methods.stdout
    assert "example_task" in tasks.stdout
    assert "site" in with_example("info", "example_method").stdout
    assert "example_method" not in with_example("list", "methods", "--no-plugins").stdout


def test_the_example_runs(with_example: Medbench) -> None:
    wanted = ("-m", "example_method", "-t", "example_task,rsna_lp", "--recipe", "micro", "--device", "cpu")
    done = with_example("run", *wanted)
    assert done.returncode == 0, done.stderr
    assert "example_method (baseline)" in done.stdout and "example_task" in done.stdout
    checked = with_example("results", "verify")
    assert checked.returncode == 0, checked.stdout


def test_the_example_method_is_small() -> None:
    source = (REPOSITORY / "tests/plugin_example/medbench_example/method.py").read_text()
    own = [
        line
        for line in source.splitlines()
        if line.strip() and not line.strip().startswith(("#", '"""', "import ", "from "))
    ]
    assert len(own) <= 60


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    """From two folders, at two times, by two umasks, for one SOURCE_DATE_EPOCH."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    hashes = []
    for number, umask in enumerate((0o022, 0o077)):
        source, out = tmp_path / f"source-{number}", tmp_path / f"out-{number}"
        before = os.umask(umask)
        try:
            for name in files.decode().rstrip("\0").split("\0"):
                if not name.startswith(
                    ("benchmarks/results/", "leaderboards/board/", "leaderboards/results/")
                ):
                    (source / name).parent.mkdir(parents=True, exist_ok=True)
                    (source / name).write_bytes((REPOSITORY / name).read_bytes())
                    os.utime(source / name, (10**9 + number, 10**9 + number))
            subprocess.run(
                [sys.executable, "-m", "hatchling", "build", "-d", str(out)],
                cwd=source,
                env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONHASHSEED": str(number)},
                check=True,
                capture_output=True,
                timeout=300,
            )
        finally:
            os.umask(before)
        hashes.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()})
    assert len(hashes[0]) == 2  # a wheel and a source distribution
    assert hashes[0] == hashes[1]
