"""`data verify --split lists:FOLDER`: what is wrong with lists of ids is found."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from medbench.cli import app
from medbench.phantom import rsna

pytestmark = pytest.mark.usefixtures("medbench_home")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films") / "rsna"
    rsna.write(root, patients=12, size=64)
    return root


def verify(films: Path, split: str) -> Result:
    return CliRunner().invoke(
        app, ["data", "verify", "rsna", "--data", f"rsna={films}", "-q", "--split", split]
    )


def test_good_lists_and_bad_ones(films: Path, tmp_path: Path) -> None:
    ids = [rsna.patient_id(number) for number in range(12)]
    (tmp_path / "train.txt").write_text("\n".join(ids[:8]))
    (tmp_path / "test.txt").write_text("\n".join(ids[8:]))
    done = verify(films, f"lists:{tmp_path}")
    assert (done.exit_code, done.stderr) == (0, "")
    (tmp_path / "train.txt").write_text("\n".join([*ids[:9], ids[0]]))
    (tmp_path / "val.txt").write_text("somebody")
    done = verify(films, f"lists:{tmp_path}")
    assert done.exit_code == 3
    assert f"train.txt: 1 duplicate lines (first: {ids[0]})" in done.stdout
    assert "val.txt: 1 of 1 ids are not in rsna (first: somebody)" in done.stdout
    assert "1 samples are in both train.txt and test.txt" in done.stdout


def test_what_a_subset_lacks_is_no_finding(films: Path, tmp_path: Path) -> None:
    root = tmp_path / "sample"
    root.mkdir()
    for name in ("stage_2_train_images", "stage_2_train_labels.csv"):
        (root / name).symlink_to(films / name)
    (tmp_path / "train.txt").write_text(f"{rsna.patient_id(3)}\nsomebody\n")
    done = verify(root, f"lists:{tmp_path}")
    assert "a subset: 12 of 26,684" in done.stdout
    assert "not here: train.txt: 1 of 2 ids are not in rsna (first: somebody)" in done.stdout
    assert done.exit_code == 0


def test_only_lists_can_be_named(films: Path) -> None:
    done = verify(films, "mgca_det")
    assert done.exit_code == 2
    assert "--split mgca_det: expected lists:DIR" in done.stderr
