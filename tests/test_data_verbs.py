"""`medbench data splits | show | verify` where something is missing, wrong, or the user's own table."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from medbench.cli import app
from medbench.phantom import rsna

pytestmark = pytest.mark.usefixtures("medbench_home")


def data(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Twenty phantom films, one of them missing."""
    root = tmp_path / "rsna"
    rsna.write(root, patients=20, size=64)
    (root / "stage_2_train_images" / f"{rsna.patient_id(3)}.dcm").unlink()
    return root


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A table whose columns nobody can guess."""
    for number in range(12):
        Image.fromarray(np.full((32, 32), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png,p{number}\n" for number in range(12))
    (tmp_path / "mine.csv").write_text("film,who\n" + rows)
    return tmp_path / "mine.csv"


def test_splits_say_what_is_in_none_of_them(films: Path, tmp_path: Path) -> None:
    done = data("splits", "rsna", "--data", f"rsna={films}")
    assert done.exit_code == 0
    assert "1 samples with problems are in no split; `medbench data verify` names them" in done.stderr
    assert data("splits", "rsna", "--data", f"rsna={films}", "--out", tmp_path / "lists").exit_code == 3
    assert not (tmp_path / "lists").exists()
    done = data("splits", "rsna", "--data", f"rsna={films}", "--out", tmp_path / "lists", "--exclude-broken")
    assert done.exit_code == 0
    listed = [len(path.read_text().split()) for path in sorted((tmp_path / "lists").iterdir())]
    assert sum(listed) == 19


def test_an_unknown_split_is_a_wrong_word(films: Path) -> None:
    done = data("splits", "rsna", "--data", f"rsna={films}", "--split", "mgca_clss")
    assert done.exit_code == 2
    assert "rsna has no split 'mgca_clss'. Did you mean 'mgca_cls'? It has mgca_det, mgca_cls" in done.stderr


def test_a_sample_that_can_not_be_shown_is_not_said_to_be_missing(films: Path, tmp_path: Path) -> None:
    gone = rsna.patient_id(3)
    done = data("show", "rsna", gone, "--data", f"rsna={films}", "--out", tmp_path / "x.png")
    assert done.exit_code == 3
    assert f"{gone} can not be drawn, it has problems: " in done.stderr
    assert "no such file" in done.stderr
    done = data("show", "rsna", "nobody", "--data", f"rsna={films}", "--out", tmp_path / "x.png")
    assert "has no sample 'nobody'; it has 19" in done.stderr


def test_a_table_of_ones_own(own: Path) -> None:
    named = ("--column", "image=film", "--column", "patient=who")
    done = data("verify", f"table:{own}", *named, "-q")
    assert done.exit_code == 0, done.output
    assert "12 images of 12 patients are in order" in done.stdout
    assert "image = film, patient = who" in done.stdout
    assert "patient_90_10" in data("splits", f"table:{own}", *named).stdout
    assert "no column of" in data("verify", f"table:{own}", "-q").stderr
    done = data("verify", "rsna", *named)
    assert done.exit_code == 2
    assert "--column names columns of a table, and rsna is none. Give table:FILE." in done.stderr
