"""Films and findings: what is drawn lies where anatomy puts it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.phantom.anatomy import Anatomy, Thorax, View, sample_acquisition, sample_anatomy, shape_thorax
from medbench.phantom.findings import KINDS, VARIETIES, Finding, Kind, changes_by, evolve, sample_finding
from medbench.phantom.render import Film, Region, box_of, render
from medbench.phantom.study import MIMIC_MIX, RSNA_MIX, sample_patient


def upright(film):
    """The same film, taken straight: positions can then be compared with the thorax's own."""
    return replace(film, tilt=0.0, shift_x=0.0, shift_y=0.0, zoom=1.0, collimation=(0.0,) * 4, marker=False)


def one(kind: Kind, seed: int, view: View = "PA", **changes) -> tuple[Film, Region, Thorax, Finding]:
    rng = np.random.default_rng(seed)
    anatomy, film = sample_anatomy(rng), upright(sample_acquisition(rng, view))
    finding = replace(sample_finding(kind, rng), **changes)
    drawn = render(anatomy, film, [finding], size=128)
    (region,) = drawn.regions
    return drawn, region, shape_thorax(anatomy, film, changes_by([finding])), finding


def centre(region: Region, size: int = 128) -> tuple[float, float]:
    """Centre of gravity of a mask in half-films."""
    rows, cols = np.nonzero(region.mask)
    return (cols.mean() + 0.5) * 2 / size - 1, (rows.mean() + 0.5) * 2 / size - 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([64, 128, 256]), portable=st.booleans())
def test_any_patient_gives_a_valid_film(seed, size, portable):
    rng = np.random.default_rng(seed)
    anatomy: Anatomy = sample_anatomy(rng)
    film = sample_acquisition(rng, "AP" if portable else "PA")
    findings = [sample_finding(kind, rng) for kind in KINDS if rng.random() < 0.4]
    drawn = render(anatomy, film, findings, size=size)
    assert drawn.pixels.shape == (size, size)
    assert drawn.pixels.dtype == np.uint8
    # neither burnt out nor empty
    assert 40 < drawn.pixels.mean() < 235
    assert drawn.pixels.std() > 25
    assert [region.finding for region in drawn.regions] == findings
    for region in drawn.regions:
        x0, y0, x1, y1 = region.box
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size
        inside = region.mask[y0:y1, x0:x1]
        assert inside.sum() == region.mask.sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_finding_with_a_side_lies_on_that_side(kind, seed):
    _, region, _, finding = one(kind, seed)
    x, _ = centre(region)
    if kind == "device" and finding.variety == "line":
        return  # a central line crosses the midline on its way to the superior vena cava
    if finding.side == "right":
        assert x < 0.02
    elif finding.side == "left":
        assert x > -0.02


@pytest.mark.parametrize("seed", range(8))
def test_an_effusion_lies_on_the_diaphragm_and_climbs_with_its_size(seed):
    tops = []
    for extent in (0.1, 0.5, 0.95):
        _, region, thorax, finding = one("effusion", seed, extent=extent)
        side = finding.side
        depth = 0.9 * thorax.width[side == "left"]
        floor = (thorax.floor_at(side, depth) + 1) * 64
        assert abs(region.box[3] - floor) < 12
        tops.append(region.box[1])
    assert tops[0] > tops[1] > tops[2]


@pytest.mark.parametrize("seed", range(8))
def test_a_pneumothorax_is_apical(seed):
    _, region, thorax, finding = one("pneumothorax", seed, extent=0.3)
    apex = (thorax.apex + 1) * 64
    assert abs(region.box[1] - apex) < 5
    assert centre(region)[1] < (thorax.apex + thorax.dome[finding.side == "left"]) / 2


@pytest.mark.parametrize("kind", ["pneumonia", "nodule"])
@pytest.mark.parametrize("seed", range(20))
def test_a_zone_is_the_third_of_the_lung_where_the_opacity_lies(kind, seed):
    _, region, thorax, finding = one(kind, seed, extent=0.3)
    _, y = centre(region)
    down = (y - thorax.apex) / (thorax.dome[finding.side == "left"] - thorax.apex)
    low, high = {"upper": (0.0, 0.48), "mid": (0.28, 0.76), "lower": (0.55, 1.15)}[finding.zone]
    assert low < down < high


@pytest.mark.parametrize("seed", range(8))
def test_cardiomegaly_passes_half_of_the_thorax(seed):
    _, region, thorax, _ = one("cardiomegaly", seed)
    ratio = (region.box[2] - region.box[0]) / (64 * sum(thorax.width))
    assert ratio > 0.47
    rng = np.random.default_rng(seed)
    anatomy, film = sample_anatomy(rng), upright(sample_acquisition(rng, "PA"))
    normal = shape_thorax(anatomy, film, changes_by([]))
    assert normal.heart_half * 2 / sum(normal.width) <= 0.50


@pytest.mark.parametrize(
    "kind", ["effusion", "pneumonia", "nodule", "atelectasis", "edema", "device", "foreign"]
)
def test_what_is_dense_brightens_its_region(kind):
    # whether a line or an opacity, the masked pixels must be brighter than without the finding
    for seed in range(6):
        rng = np.random.default_rng(seed)
        anatomy, film = sample_anatomy(rng), upright(sample_acquisition(rng, "PA"))
        finding = replace(sample_finding(kind, rng), strength=0.8)
        with_it = render(anatomy, film, [finding], size=128)
        without = render(anatomy, film, [], size=128)
        mask = with_it.regions[0].mask
        gain = with_it.pixels[mask].astype(float).mean() - without.pixels[mask].astype(float).mean()
        assert gain > 4


def test_a_pneumothorax_darkens_its_region():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        anatomy, film = sample_anatomy(rng), upright(sample_acquisition(rng, "PA"))
        finding = replace(sample_finding("pneumothorax", rng), extent=0.6)
        with_it = render(anatomy, film, [finding], size=128)
        lung = ~with_it.regions[0].mask
        gain = with_it.pixels.astype(float) - render(anatomy, film, [], size=128).pixels
        assert gain[~lung].mean() < gain[lung].mean()


def test_the_anatomy_is_the_right_way_round():
    rng = np.random.default_rng(3)
    for _ in range(8):
        anatomy, film = sample_anatomy(rng), upright(sample_acquisition(rng, "PA"))
        thorax = shape_thorax(anatomy, film, changes_by([]))
        assert thorax.dome[0] < thorax.dome[1]  # the right dome is higher
        assert thorax.hilum("left")[1] < thorax.hilum("right")[1]
        assert thorax.heart_x > thorax.pull  # the heart lies to the left
        pixels = render(anatomy, film, [], size=128).pixels.astype(float)
        lung = pixels[40:60, 24:40].mean()
        assert lung < pixels[40:60, 60:68].mean() - 40  # mediastinum against lung
        assert lung < pixels[115:125, 24:40].mean() - 40  # abdomen against lung
        # heart against the right lung at the same height and distance
        assert pixels[76:84, 72:80].mean() > pixels[76:84, 36:44].mean() + 15


def test_a_portable_film_shows_a_larger_heart():
    rng = np.random.default_rng(0)
    anatomy = sample_anatomy(rng)
    standing = upright(sample_acquisition(rng, "PA"))
    lying = replace(standing, view="AP")
    assert (
        shape_thorax(anatomy, lying, changes_by([])).heart_half
        > shape_thorax(anatomy, standing, changes_by([])).heart_half
    )


def test_rendering_is_a_function_of_its_arguments():
    patient = sample_patient("mimic_cxr", MIMIC_MIX, 5)
    study = patient.studies[0]
    films = [render(patient.anatomy, study.films[0], study.findings) for _ in range(2)]
    assert (films[0].pixels == films[1].pixels).all()


@pytest.mark.parametrize("size", [63, 62, 129, 0])
def test_a_wrong_size_is_named(size):
    rng = np.random.default_rng(0)
    anatomy, film = sample_anatomy(rng), sample_acquisition(rng, "PA")
    with pytest.raises(ValueError, match=f"got {size}"):
        render(anatomy, film, [], size=size)


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty"):
        box_of(np.zeros((8, 8), bool))


def test_a_patient_does_not_depend_on_the_others_nor_on_the_layout():
    first = [sample_patient("rsna", RSNA_MIX, n, seed=3) for n in range(6)]
    again = [sample_patient("rsna", RSNA_MIX, n, seed=3) for n in reversed(range(6))]
    assert first == again[::-1]
    assert first[0] != sample_patient("rsna", RSNA_MIX, 0, seed=4)
    assert first[0].anatomy != sample_patient("mimic_cxr", RSNA_MIX, 0, seed=3).anatomy


def test_a_finding_keeps_its_place_as_it_evolves():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for _ in range(20):
            finding = sample_finding(kind, rng)
            later = evolve(finding, rng)
            if later is not None:
                assert (later.kind, later.side, later.zone, later.texture) == (
                    finding.kind,
                    finding.side,
                    finding.zone,
                    finding.texture,
                )
                assert 0 <= later.extent <= 1


def test_all_kinds_and_varieties_occur():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        seen = {sample_finding(kind, rng).variety for _ in range(80)}
        assert seen == {name for name, _ in VARIETIES[kind]}


def test_class_frequencies_of_the_rsna_mix():
    studies = [sample_patient("rsna", RSNA_MIX, n).studies[0] for n in range(1000)]
    sick = np.mean([s.has("pneumonia") for s in studies])
    normal = np.mean([s.normal for s in studies])
    assert sick == pytest.approx(0.225, abs=0.035)
    assert normal == pytest.approx(0.30, abs=0.035)


def test_brightness_does_not_give_pneumonia_away():
    patients = [sample_patient("rsna", RSNA_MIX, n) for n in range(200)]
    sick = np.array([p.studies[0].has("pneumonia") for p in patients])
    mean = np.array(
        [
            render(p.anatomy, p.studies[0].films[0], p.studies[0].findings, size=64, masks=()).pixels.mean()
            for p in patients
        ]
    )
    ranks = mean.argsort().argsort() + 1.0
    positive = sick.sum()
    auroc = (ranks[sick].sum() - positive * (positive + 1) / 2) / (positive * (~sick).sum())
    assert 0.36 < auroc < 0.66


def test_a_thin_opacity_behind_the_diaphragm_has_a_box() -> None:
    from medbench.phantom.rsna import patient

    who = next(p for p in map(patient, range(100)) if p.studies[0].has("pneumonia"))
    study = who.studies[0]
    found = next(finding for finding in study.findings if finding.kind == "pneumonia")
    for texture in range(12):  # with some of them nearly all of it is behind the diaphragm
        low = replace(found, zone="lower", extent=0.0, down=1.05, across=0.1, texture=texture)
        film = render(who.anatomy, study.films[0], (low,), masks=("pneumonia",))
        assert [region.finding for region in film.regions] == [low]
