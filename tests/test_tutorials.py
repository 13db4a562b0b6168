"""The tutorials, as they are written: every command of a block of `bash` is run, every block of Python is used."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medbench.cli import app

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL
    )


def run(page: str) -> list[str]:
    """Run the commands of a page, what is trained at recipe micro; what each printed."""
    printed = []
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line)[1:]
        small = ["--recipe", "micro", "--device", "cpu"] if words[0] in ("run", "plan") else []
        done = CliRunner().invoke(app, [*words, *small])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        printed.append(done.stdout)
    return printed


@pytest.mark.slow
@pytest.mark.usefixtures("medbench_home")
def test_the_tutorial_for_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDBENCH_RESULTS", "results")
    _, first, planned, _, compared, *_ = run("tutorial.md")
    assert "clip (paper)" in first and "random (baseline)" in first
    assert "done" in planned  # what step 1 left behind
    assert "rsna_knn" in compared
    assert list((tmp_path / "tables" / "latex").glob("*.tex"))


@pytest.mark.parametrize(
    "which", ["not accepts", pytest.param("accepts", marks=pytest.mark.slow)], ids=["quick", "kit"]
)
@pytest.mark.usefixtures("medbench_home")
def test_the_tutorial_for_authors(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder,) = (Path(printed.strip()) for printed in run("tutorial_plugin.md"))
    method, test = blocks("tutorial_plugin.md", "python")
    (folder / "medbench_my_cyclip" / "method.py").write_text(method)
    written = (folder / "tests" / "test_plugin.py").read_text()
    kept = written[written.index("def test_medbench_accepts_it") :]
    (folder / "tests" / "test_plugin.py").write_text(f"import subprocess\nimport sys\n\n{test}\n\n{kept}")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", which, str(folder)],
        env={**os.environ, "PYTHONPATH": path, "MEDBENCH_PLUGINS": "medbench_my_cyclip"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
