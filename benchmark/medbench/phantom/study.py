"""Patients and their studies, drawn by lot: who has what, how often, and how it changes from study to study.

Everything about a patient follows from (PHANTOM_VERSION, seed, layout, patient number): not from how many
patients there are, nor from the order or the process in which they are drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medbench.phantom.anatomy import Acquisition, Anatomy, View, sample_acquisition, sample_anatomy
from medbench.phantom.findings import KINDS, Finding, Kind, evolve, sample_finding

PHANTOM_VERSION = 2
"""Raised whenever the same seed would give other films, reports or files."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How often things are found in one layout."""

    normal: float
    """Share of patients whose first study shows no disease (devices and foreign objects may be there)."""
    pneumonia: float
    """Share of patients with pneumonia at the first study."""
    others: Mapping[Kind, float]
    """Chance of each further kind in a patient who is not normal."""
    things: Mapping[Kind, float] = field(default_factory=lambda: {"device": 0.10, "foreign": 0.05})
    """Chance of each kind that is no disease."""
    studies: Sequence[float] = (1.0,)
    """Chance of 1, 2, 3, ... studies."""
    second_view: float = 0.0
    """Chance that a study holds a second frontal film."""


@dataclass(frozen=True, slots=True)
class Study:
    """One visit: what there is, what there was, and the films that were taken."""

    number: int
    """0 for a patient's first study."""
    day: int
    """Days since the first study."""
    findings: tuple[Finding, ...]
    prior: tuple[Finding, ...] | None
    """Findings of the study before, None if there is none."""
    films: tuple[Acquisition, ...]

    def has(self, kind: Kind) -> bool:
        """Whether any finding is of the kind."""
        return any(f.kind == kind for f in self.findings)

    @property
    def normal(self) -> bool:
        """No disease; devices and foreign objects do not count."""
        return all(f.kind in ("device", "foreign") for f in self.findings)


@dataclass(frozen=True, slots=True)
class Patient:
    """One synthetic patient."""

    number: int
    anatomy: Anatomy
    studies: tuple[Study, ...]


MIMIC_MIX = Mix(
    normal=0.26,
    pneumonia=0.34,
    others={
        "cardiomegaly": 0.26,
        "effusion": 0.32,
        "atelectasis": 0.30,
        "edema": 0.17,
        "pneumothorax": 0.09,
        "nodule": 0.12,
        "fracture": 0.08,
    },
    things={"device": 0.22, "foreign": 0.06},
    studies=(0.56, 0.24, 0.12, 0.08),
    second_view=0.05,
)
RSNA_MIX = Mix(
    normal=0.30,
    pneumonia=0.225,
    others={
        "cardiomegaly": 0.25,
        "effusion": 0.30,
        "atelectasis": 0.32,
        "edema": 0.16,
        "pneumothorax": 0.07,
        "nodule": 0.20,
        "fracture": 0.07,
    },
    things={"device": 0.20, "foreign": 0.06},
)


def stream(layout: str, seed: int, *numbers: int) -> np.random.Generator:
    """The random stream of one patient, study or film of a layout."""
    key = np.random.SeedSequence([PHANTOM_VERSION, seed, zlib.crc32(layout.encode()), *numbers])
    return np.random.Generator(np.random.Philox(key))


def sample_patient(layout: str, mix: Mix, patient: int, seed: int = 0) -> Patient:
    """Draw patient number `patient` of a layout, with all studies.

    Args:
        layout: Name of the layout; part of the random key, so that layouts never share a patient.
        mix: How often things are found.
        patient: 0, 1, 2, ...
        seed: At least 0.
    """
    rng = stream(layout, seed, patient)
    anatomy = sample_anatomy(rng)
    count = 1 + int(np.searchsorted(np.cumsum(mix.studies), rng.random() * sum(mix.studies), side="right"))
    studies: list[Study] = []
    day = 0
    for number in range(min(count, len(mix.studies))):
        own = stream(layout, seed, patient, 1 + number)
        if number == 0:
            findings, prior = _first(mix, own), None
        else:
            prior = studies[-1].findings
            findings = _next(mix, prior, own)
            day += int(own.integers(1, 12)) if own.random() < 0.6 else int(own.integers(12, 400))
        sick = any(f.kind not in ("foreign",) for f in findings)
        view: View = "AP" if own.random() < (0.52 if sick else 0.38) else "PA"
        films = [sample_acquisition(own, view)]
        if own.random() < mix.second_view:
            films.append(replace(sample_acquisition(own, view), inspiration=films[0].inspiration))
        studies.append(Study(number, day, findings, prior, tuple(films)))
    return Patient(patient, anatomy, tuple(studies))


def _first(mix: Mix, rng: np.random.Generator) -> tuple[Finding, ...]:
    fate = float(rng.random())
    found: list[Finding] = []
    if fate >= mix.normal:
        sick = fate < mix.normal + mix.pneumonia
        # pneumonia comes with the same company as other disease, so that company does not tell it apart;
        # a patient without it has at least one finding
        others = _others(mix, rng)
        while not sick and not others:
            others = _others(mix, rng)
        found = others + (_pneumonias(rng) if sick else [])
    found += [sample_finding(kind, rng) for kind, chance in mix.things.items() if rng.random() < chance]
    return _ordered(found)


def _others(mix: Mix, rng: np.random.Generator) -> list[Finding]:
    found: list[Finding] = []
    for kind, chance in mix.others.items():
        if rng.random() < chance:
            first = sample_finding(kind, rng)
            found.append(first)
            # effusions come in pairs rather often
            if kind == "effusion" and rng.random() < 0.40:
                second = sample_finding(kind, rng)
                found.append(replace(second, side="left" if first.side == "right" else "right"))
    return found


def _pneumonias(rng: np.random.Generator) -> list[Finding]:
    first = sample_finding("pneumonia", rng)
    if rng.random() >= 0.30:
        return [first]
    second = sample_finding("pneumonia", rng)
    if (second.side, second.zone) == (first.side, first.zone):
        second = replace(second, side="left" if first.side == "right" else "right")
    return [first, second]


def _next(mix: Mix, prior: Sequence[Finding], rng: np.random.Generator) -> tuple[Finding, ...]:
    found = [later for f in prior if (later := evolve(f, rng)) is not None]
    chances: list[tuple[Kind, float]] = [("pneumonia", 0.5 * mix.pneumonia)]
    chances += [(kind, 0.4 * chance) for kind, chance in (*mix.others.items(), *mix.things.items())]
    for kind, chance in chances:
        if rng.random() < chance and not any(f.kind == kind for f in found):
            found.append(sample_finding(kind, rng))
    return _ordered(found)


def _ordered(found: list[Finding]) -> tuple[Finding, ...]:
    """In the order of `KINDS`: fluid covers what lies behind it, devices lie over everything."""
    return tuple(sorted(found, key=lambda f: KINDS.index(f.kind)))
