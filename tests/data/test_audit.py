"""What datasets share: found by files, pixels and looks, held against loops and against real films that are known."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from medbench.cli import app
from medbench.data import audit as module
from medbench.data.audit import NEAR, Audited, Prints, audit, fingerprints, perceptual_hash
from medbench.data.images import read_image
from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.phantom import rsna as phantom
from medbench.phantom.dicom import dicom_file
from medbench.progress import Progress
from medbench.specs import DatasetSpec

QUIET = Progress(quiet=True)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.unpackbits(one ^ other).sum())


def saved_as_jpeg(film: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg": lambda film: saved_as_jpeg(film, 30),
    "smaller": lambda film: np.asarray(Image.fromarray(film).resize((224, 224), Image.Resampling.BOX)),
    "gamma": lambda film: (255 * (film / 255.0) ** 0.7).astype(np.uint8),
    "window": lambda film: np.clip((film - 20.0) * 1.3, 0, 255).astype(np.uint8),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    root = tmp_path_factory.mktemp("films") / "rsna"
    phantom.write(root, patients=30, size=128)
    return [read_image(path) for path in sorted((root / "stage_2_train_images").iterdir())]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_film_looks_the_same(films: list[np.ndarray], change: str) -> None:
    found = [distance(perceptual_hash(film), perceptual_hash(CHANGES[change](film))) for film in films]
    # A phantom of 128 pixels has more noise in its low frequencies than a real film.
    assert np.median(found) <= NEAR
    assert np.mean(np.array(found) <= NEAR) > 0.85


def test_other_films_look_different(films: list[np.ndarray]) -> None:
    hashes = [perceptual_hash(film) for film in films]
    found = [distance(one, other) for n, one in enumerate(hashes) for other in hashes[:n]]
    assert min(found) > NEAR


def test_the_comparison_in_blocks_is_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (5, 32), dtype=np.uint8)
    looks = base[rng.integers(0, 5, 40)]
    for row in looks[::2]:
        row[: rng.integers(0, 6)] ^= rng.integers(0, 256, dtype=np.uint8)
    none = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    sound = np.ones(40, bool)
    sound[3] = False
    links = module._links(Prints(none, none, looks, sound), NEAR, QUIET)[2]
    codes = module._components(40, [links])
    graph = {
        n: {m for m in range(40) if sound[n] and sound[m] and distance(looks[n], looks[m]) <= NEAR}
        for n in range(40)
    }
    for n in range(40):
        group, grown = {n}, graph[n] | {n}
        while grown != group:
            group, grown = grown, set().union(*(graph[m] for m in grown)) | grown
        assert set(np.flatnonzero(codes == codes[n])) == group


# Small datasets


def dataset(root: Path, name: str, images: dict[str, tuple[str, str]]) -> Audited:
    """Of films by path: patient and part."""
    paths = [*images]
    spec = DatasetSpec(name=name, target="", summary="", reference="")
    columns = {
        "sample": paths,
        "patient": [who for who, _ in images.values()],
        "image": paths,
        "bytes": [1] * len(paths),
    }
    index = Index.of(spec, root, columns)
    rows = {
        p: np.array([n for n, (_, part) in enumerate(images.values()) if part == p], np.int64)
        for p in ("train", "val", "test")
    }
    return Audited(name, index, {"own": Split("own", **rows)})


def test_evidence(tmp_path: Path, films: list[np.ndarray]) -> None:
    a, b, c, d, e = films[:5]
    for n, film in enumerate((a, b, c, d)):
        Image.fromarray(film).save(tmp_path / f"{n}.png")
    (tmp_path / "same-file.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "same-pixels.dcm").write_bytes(dicom_file(b, 1, "x", "F", "PA"))
    Image.fromarray(c).save(tmp_path / "looks.jpg", quality=80)
    Image.fromarray(e).save(tmp_path / "other.png")
    Image.new("L", (40, 40)).save(tmp_path / "black.png")
    Image.new("L", (50, 50)).save(tmp_path / "also-black.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    one = dataset(
        tmp_path,
        "one",
        {
            "0.png": ("p", "train"),
            "1.png": ("q", "train"),
            "2.png": ("r", "test"),
            "3.png": ("s", "test"),
            "black.png": ("t", "train"),
        },
    )
    two = dataset(
        tmp_path,
        "two",
        {
            "same-file.png": ("1", "train"),
            "same-pixels.dcm": ("2", "train"),
            "looks.jpg": ("2", "test"),
            "other.png": ("4", "test"),
            "also-black.png": ("5", "val"),
            "broken.png": ("6", "val"),
        },
    )
    result = audit([one, two], tmp_path / "cache", workers=1, progress=QUIET)
    assert result.films == {"one": 5, "two": 6}
    copies = result.copies.set_index("sample")
    assert copies["evidence"].to_dict() == {
        "0.png": "files",
        "same-file.png": "files",
        "1.png": "pixels",
        "same-pixels.dcm": "pixels",
        "2.png": "looks",
        "looks.jpg": "looks",
    }
    assert copies["group"].nunique() == 3
    assert copies["bits"].drop(["2.png", "looks.jpg"]).eq(-1).all()
    found = {(o.dataset, o.part, o.other, o.other_part): o for o in result.overlaps}
    assert dict(found["one", "train", "two", "train"].films) == {"files": 1, "pixels": 2, "looks": 2}
    assert found["one", "train", "two", "train"].patients is None
    assert found["one", "train", "two", "train"].people == 2
    assert dict(found["one", "test", "two", "test"].films) == {"files": 0, "pixels": 0, "looks": 1}
    # Patient 2 of `two` is q and r of `one`, by copies: so one person is in both parts of `one`.
    assert found["one", "train", "one", "test"].people == 1
    assert found["one", "train", "one", "test"].patients == 0
    assert found["one", "train", "one", "test"].films["looks"] == 0
    assert len(result.problems) == 1 and result.problems[0].startswith("two: broken.png: ")
    assert "val" not in {o.other_part for o in result.overlaps}


def test_patients_in_two_parts(tmp_path: Path, films: list[np.ndarray]) -> None:
    for n, film in enumerate(films[:4]):
        Image.fromarray(film).save(tmp_path / f"{n}.png")
    one = dataset(
        tmp_path, "mimic_cxr", {"0.png": ("p", "train"), "1.png": ("p", "test"), "2.png": ("q", "test")}
    )
    two = dataset(tmp_path, "mimic_5x200", {"1.png": ("p", "test"), "3.png": ("r", "train")})
    result = audit([one, two], tmp_path / "cache", workers=1, progress=QUIET)
    found = {(o.dataset, o.part, o.other, o.other_part): o for o in result.overlaps}
    within = found["mimic_cxr", "train", "mimic_cxr", "test"]
    assert (within.films["looks"], within.of, within.patients, within.people) == (0, 2, 1, 1)
    # Ids of these two mean the same patients.
    across = found["mimic_cxr", "train", "mimic_5x200", "test"]
    assert (across.films["looks"], across.patients) == (0, 1)
    assert found["mimic_cxr", "test", "mimic_5x200", "test"].films["files"] == 1
    assert [(d.one, d.other) for d in result.declared] == [("mimic_cxr", "mimic_5x200")]


def test_ids_that_name_a_dataset_are_its_patients(tmp_path: Path, films: list[np.ndarray]) -> None:
    for n, film in enumerate(films[:3]):
        Image.fromarray(film).save(tmp_path / f"{n}.png")
    nih = dataset(tmp_path, "nih", {"0.png": ("00000001", "train")})
    for patients, shared in ((("nih:00000001", "nih:00000002"), 1), (("00000001", "x"), None)):
        rsna = dataset(tmp_path, "rsna", {f"{n + 1}.png": (p, "test") for n, p in enumerate(patients)})
        result = audit([nih, rsna], tmp_path / "cache", workers=1, progress=QUIET)
        found = [o.patients for o in result.overlaps if (o.dataset, o.other) == ("nih", "rsna")]
        assert found == ([shared] if shared else [])


def test_a_film_is_decoded_once(
    tmp_path: Path, films: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, film in enumerate(films[:3]):
        Image.fromarray(film).save(tmp_path / f"{n}.png")
    some = dataset(tmp_path, "one", {"0.png": ("p", "train"), "1.png": ("q", "train")}).index
    more = dataset(tmp_path, "one", {f"{n}.png": ("p", "train") for n in range(3)}).index
    first = fingerprints(some, tmp_path / "cache", workers=1, progress=QUIET)
    looked: list[str] = []
    look = module._look

    def watched(root: Path, chunk: list[tuple[str, int, int]]) -> list[tuple[bytes, bytes, bytes, str]]:
        looked.extend(image for image, _, _ in chunk)
        return look(root, chunk)

    monkeypatch.setattr(module, "_look", watched)
    second = fingerprints(more, tmp_path / "cache", workers=1, progress=QUIET)
    assert looked == ["2.png"]
    assert (second.pixels[:2] == first.pixels).all()
    Image.fromarray(films[5]).save(tmp_path / "0.png")
    changed = fingerprints(more, tmp_path / "cache", workers=1, progress=QUIET)
    assert looked == ["2.png", "0.png"]
    assert (changed.files[0] != second.files[0]).any()


def test_two_workers_find_the_same(
    tmp_path: Path, films: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    for n, film in enumerate(films[:10]):
        Image.fromarray(film).save(tmp_path / f"{n}.png")
    index = dataset(tmp_path, "one", {f"{n}.png": ("p", "train") for n in range(10)}).index
    one, two = (fingerprints(index, tmp_path / f"cache{n}", workers=n, progress=QUIET) for n in (1, 2))
    assert (one.pixels == two.pixels).all() and (one.looks == two.looks).all()


# Real films


def test_rsnas_films_are_found_among_nihs(test_data: Path, tmp_path: Path) -> None:
    given = [
        "table:" + str(test_data / "nih/labels.csv"),
        "rsna",
        "--data",
        f"rsna={test_data / 'rsna_layout'}",
    ]
    done = CliRunner().invoke(
        app,
        ["data", "audit", *given, "--json", "-q", "--out", str(tmp_path / "copies.csv")],
        env={"MEDBENCH_CACHE": str(tmp_path)},
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    copies = pd.read_csv(tmp_path / "copies.csv")
    assert len(copies) == len(found["copies"])
    [nih] = [name for name in found["films"] if name != "rsna"]
    labels = pd.read_csv(test_data / "nih/labels.csv")
    true = dict(zip(labels["rsna_patient_id"], labels["image"], strict=True))
    true = {who: image for who, image in true.items() if isinstance(who, str)}
    assert len(true) == 202
    groups = copies.groupby("group")
    pairs = {
        (who, image)
        for _, group in groups
        for who in group["sample"][group["dataset"] == "rsna"]
        for image in group["image"][group["dataset"] == nih]
    }
    # Every one is found, and none that is false: NIH has one of them twice, among the films of one patient.
    assert set(true.items()) <= pairs
    [(who, twin)] = pairs - set(true.items())
    patient_of = dict(zip(labels["image"], labels["patient_id"], strict=True))
    assert patient_of[twin] == patient_of[true[who]]
    table = pd.read_csv(test_data / "label_lists/rsna_to_nih.csv").set_index("patientId")["nih_image_index"]
    assert all(
        (who, image) not in true.items()
        or table.get(who, Path(image).stem + ".png") == Path(image).stem + ".png"
        for who, image in pairs
    )
    # What looks the same inside of NIH's films is of one patient.
    inside = copies[copies["dataset"] == nih]
    for _, group in inside.groupby("group"):
        assert len(set(group["patient"])) == 1
    across = [o for o in found["overlaps"] if o["dataset"] == nih and o["other"] == "rsna"]
    assert (
        sum(
            o["films"]["looks"]
            for o in across
            if o["other_part"] == "train" and o["part"] == across[0]["part"]
        )
        > 0
    )
    # RSNA's ids are of films: by way of NIH's, people turn out to be in several parts.
    within = [o for o in found["overlaps"] if o["dataset"] == o["other"] == "rsna"]
    assert within and all(o["patients"] == 0 and o["people"] > 0 for o in within)


def test_the_verb(tmp_path: Path) -> None:
    phantom.write(tmp_path / "rsna", patients=20, size=64)
    runner, env = CliRunner(), {"MEDBENCH_CACHE": str(tmp_path / "cache")}
    done = runner.invoke(app, ["data", "audit", "--data-root", str(tmp_path), "-q"], env=env)
    assert done.exit_code == 0, done.output
    assert "films: rsna 20" in done.stdout
    assert "0 films have a copy, in 0 groups" in done.stdout
    assert "no two parts share a film or a patient" in done.stdout
    assert "known: rsna has films of nih" in done.stdout
    done = runner.invoke(app, ["data", "audit", "-q"], env=env)
    assert done.exit_code == 2
    assert "No dataset is named" in done.output
    done = runner.invoke(
        app, ["data", "audit", "rsna", "--data-root", str(tmp_path), "--out", "x.txt"], env=env
    )
    assert done.exit_code == 2
    assert "ends in .parquet or .csv" in done.output
