"""Random numbers that depend on what they are for, and on nothing else."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.seeding import derive_seed, drawn_from, seed_everything, uniforms

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """The published C code in Python's whole numbers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_uniform(seed: int, epoch: int, sample: int, position: int) -> float:
    inner = splitmix64(derive_seed(seed, epoch) ^ splitmix64(sample & MASK))
    return (splitmix64(inner ^ splitmix64(position)) >> 11) / 2**53


def test_splitmix64_gives_its_published_first_numbers() -> None:
    # state 0, then one step of the state: the first two outputs of the reference generator seeded with 0
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


def test_derived_seeds_stay_what_they_are() -> None:
    # a change here changes every number of every run
    assert derive_seed(0, "init") == derive_seed(0, "init")
    assert derive_seed("a", 1) == 5245476326992601844
    assert 0 <= derive_seed() < 2**63


def test_derived_seeds_keep_parts_apart() -> None:
    parts = [
        ("ab",),
        ("a", "b"),
        ("b", "a"),
        (1,),
        ("1",),
        (1, 1),
        (11,),
        (-1,),
        ("",),
        (),
        ("a", ""),
        ("s1:a",),
    ]
    assert len({derive_seed(*p) for p in parts}) == len(parts)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10_000),
    samples=st.lists(st.integers(0, 2**63 - 1), max_size=5),
    n=st.integers(0, 4),
)
def test_uniforms_equal_the_slow_twin(seed: int, epoch: int, samples: list[int], n: int) -> None:
    found = uniforms(seed, epoch, np.array(samples, dtype=np.int64), n)
    assert found.shape == (len(samples), n)
    assert found.dtype == np.float64
    expected = [[slow_uniform(seed, epoch, sample, j) for j in range(n)] for sample in samples]
    assert found.tolist() == expected
    assert ((found >= 0) & (found < 1)).all()


def test_uniforms_of_a_sample_do_not_depend_on_the_others_or_on_how_many_are_asked_for() -> None:
    index = np.array([5, 3, 900, 5], dtype=np.int64)
    all_at_once = uniforms(7, 2, index, 3)
    for row, sample in enumerate(index):
        assert uniforms(7, 2, np.array([sample]), 5)[0, :3].tolist() == all_at_once[row].tolist()
    assert all_at_once[0].tolist() == all_at_once[3].tolist()


@pytest.mark.parametrize(
    "draw", [lambda n: uniforms(0, 0, np.arange(n), 1)[:, 0], lambda n: uniforms(0, 0, np.array([4]), n)[0]]
)
def test_uniforms_are_uniform_and_independent(draw: object) -> None:
    n = 200_000
    values = draw(n)  # type: ignore[operator]
    counts = np.histogram(values, bins=50, range=(0, 1))[0]
    chi2 = float(((counts - n / 50) ** 2 / (n / 50)).sum())
    assert chi2 < 100  # 49 degrees of freedom: p < 1e-4 beyond 95
    for lag in (1, 2, 64):
        assert abs(float(np.corrcoef(values[:-lag], values[lag:])[0, 1])) < 4.5 / np.sqrt(n)


def test_seeds_and_epochs_give_unrelated_numbers() -> None:
    index = np.arange(50_000)
    base = uniforms(0, 0, index, 1)[:, 0]
    for other in (uniforms(1, 0, index, 1), uniforms(0, 1, index, 1)):
        assert abs(float(np.corrcoef(base, other[:, 0])[0, 1])) < 0.02


def test_seed_everything() -> None:
    drawn = []
    for _ in range(2):
        seed_everything(2**63 - 1)
        drawn.append((random.random(), np.random.get_state()[1][:3].tolist(), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_lent_generator_starts_from_the_seed_and_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("nobody puts these back"))
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with drawn_from(3, torch.device("cpu")):
            drawn.append(torch.rand(4))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*drawn)
    assert torch.equal(drawn[0], torch.rand(4, generator=torch.Generator().manual_seed(3)))


@pytest.mark.gpu
def test_lent_generator_of_a_gpu_goes_back_too() -> None:
    device = torch.device("cuda", 0)
    before = torch.cuda.get_rng_state(device)
    drawn = []
    for _ in range(2):
        with drawn_from(3, device):
            drawn.append(torch.rand(4, device=device).cpu())
        assert torch.equal(torch.cuda.get_rng_state(device), before)
    assert torch.equal(*drawn)
