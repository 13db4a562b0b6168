"""The wheel, and the example plugin installed beside it: what a stranger gets."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from medbench.new_plugin import write_plugin
from medbench.plugins import load_catalogue

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {
    "medbench": "benchmark",
    "medbench_methods": "methods",
    "medbench_tasks": "tasks",
    "medbench_leaderboards": "leaderboards",
}

Python = Callable[..., subprocess.CompletedProcess[str]]


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


# The example plugin, and packages as `medbench plugins new` writes them: one installation, since pip takes longest.

NEW = {"method": "new_method", "task": "new_task", "dataset": "new_dataset"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of packages to install; pip builds in them."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(REPOSITORY / "tests" / "plugin_example", folder / "example")
    for kind, name in NEW.items():
        write_plugin(kind, name, folder / kind, load_catalogue(third_party=False))
    return folder


@pytest.fixture(scope="module")
def python(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Run python where pip has installed them, in a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    home = tmp_path_factory.mktemp("home")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*pip, "--target", str(site), *map(str, sorted(sources.iterdir()))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDBENCH_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MEDBENCH_HOME": str(home),
        "MEDBENCH_RESULTS": str(home / "results"),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def medbench(python: Python) -> Python:
    return partial(python, "-m", "medbench.cli")


def test_the_example_is_listed_with_its_owner(medbench: Python) -> None:
    methods, tasks = medbench("list", "methods"), medbench("list", "tasks")
    assert methods.returncode == tasks.returncode == 0
    assert methods.stderr == tasks.stderr == ""
    assert "example_method" in methods.stdout and "medbench-example 0.1.0" in methods.stdout
    assert "example_task" in tasks.stdout
    assert "site" in medbench("info", "example_method").stdout
    assert "example_method" not in medbench("list", "methods", "--no-plugins").stdout


def test_the_example_runs(medbench: Python) -> None:
    wanted = ("-m", "example_method", "-t", "example_task,rsna_lp", "--recipe", "micro", "--device", "cpu")
    done = medbench("run", *wanted)
    assert done.returncode == 0, done.stderr
    assert "example_method (baseline)" in done.stdout and "example_task" in done.stdout
    checked = medbench("results", "verify")
    assert checked.returncode == 0, checked.stdout


def test_the_example_method_is_small() -> None:
    source = (REPOSITORY / "tests/plugin_example/medbench_example/method.py").read_text()
    own = [
        line
        for line in source.splitlines()
        if line.strip() and not line.strip().startswith(("#", '"""', "import ", "from "))
    ]
    assert len(own) <= 60


@pytest.mark.parametrize("kind", NEW)
def test_a_new_package_is_listed(kind: str, medbench: Python) -> None:
    done = medbench("list", f"{kind}s")
    assert done.returncode == 0 and done.stderr == ""
    assert NEW[kind] in done.stdout and f"medbench-{NEW[kind].replace('_', '-')} 0.1.0" in done.stdout


@pytest.mark.parametrize(
    ("kind", "which"),
    [
        *((kind, "not accepts and not runs") for kind in ("method", "dataset")),
        *(pytest.param(kind, "accepts or runs", marks=pytest.mark.slow) for kind in NEW),
    ],
)
def test_a_new_package_passes_its_own_tests(kind: str, which: str, sources: Path, python: Python) -> None:
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", which, str(sources / kind))
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


LEARNING = """
import medbench, numpy
method = medbench.load("new_method", recipe="micro")
films = list(numpy.random.default_rng(0).random((2, 80, 80)))
sum(method.losses((films, ["The lungs are clear.", "A small left effusion."])).values()).backward()
assert all(parameter.grad.isfinite().all() for parameter in method.method.parameters() if parameter.grad is not None)
print(method.method.log_scale.grad.item())
"""


def test_a_new_method_has_something_to_learn(python: Python) -> None:
    done = python("-c", LEARNING)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) != 0


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
