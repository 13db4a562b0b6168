"""Device, precision, determinism and memory."""

import json
import warnings
from collections.abc import Iterator

import pytest
import torch

from medbench import devices
from medbench.devices import (
    autocast,
    describe,
    deterministic,
    resolve_device,
    resolve_precision,
    to_device,
    watch_determinism,
)
from medbench.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def undo() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("two_gpus")
def test_devices_with_cuda() -> None:
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == CPU
    with pytest.raises(
        UsageError, match=r"--device cuda:2: CUDA devices found: 2\. Use --device cpu, or auto"
    ):
        resolve_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
def test_devices_without_cuda() -> None:
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU
    with pytest.raises(UsageError, match=r"--device cuda: no CUDA device found \(torch .*built"):
        resolve_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "CPU", "mps"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(UsageError, match=r"no such device\. Use auto, cpu, cuda or cuda:n"):
        resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("capability", "expected"), [((8, 0), "bf16"), ((9, 0), "bf16"), ((7, 5), "32")])
def test_precision_on_cuda(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda", 0)
    assert resolve_precision("auto", device) == expected
    assert resolve_precision("32", device) == "32"
    if expected == "32":
        with pytest.raises(UsageError, match="--precision bf16: Some GPU does not compute in bf16"):
            resolve_precision("bf16", device)


@pytest.mark.parametrize(("tiles", "expected"), [(True, "bf16"), (False, "32")])
def test_precision_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tiles: bool, expected: str) -> None:
    monkeypatch.setattr(
        devices, "_cpu_flags", lambda: {"sse2", "amx_bf16"} if tiles else {"sse2", "avx512_bf16"}
    )
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("32", CPU) == "32"
    assert resolve_precision("bf16", CPU) == "bf16"  # slower without the hardware, but what was asked for


def test_unknown_precision() -> None:
    with pytest.raises(UsageError, match=r"--precision 16: unknown\. Use auto, 32 or bf16\."):
        resolve_precision("16", CPU)


def test_autocast() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "32"):
        assert (a @ a).dtype == torch.float32


@pytest.mark.usefixtures("undo")
def test_kernels_that_are_not_deterministic_are_collected() -> None:
    deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings(record=True) as passed_on, watch_determinism() as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            torch.zeros(4).put_(torch.tensor([1]), torch.ones(1), accumulate=False)
        warnings.warn("something else", stacklevel=1)
    assert len(seen) == 1
    assert "put_" in next(iter(seen))
    assert [str(w.message) for w in passed_on] == ["something else"]


def test_describe_is_json() -> None:
    about = describe(CPU)
    assert json.loads(json.dumps(about)) == about
    assert about["type"] == "cpu"
    assert about["name"]
    assert about["threads"] == torch.get_num_threads()


@pytest.mark.gpu
def test_real_gpu_is_described() -> None:
    device = resolve_device("cuda")
    about = describe(device)
    assert json.loads(json.dumps(about)) == about
    assert about["memory_bytes"] > 0


def test_a_tensor_that_is_there_is_not_copied() -> None:
    tensor = torch.rand(3)
    assert to_device(tensor, CPU) is tensor


@pytest.mark.gpu
def test_a_tensor_gets_to_the_gpu_as_it_is() -> None:
    tensor = torch.rand(3)
    assert torch.equal(to_device(tensor, torch.device("cuda", 0)).cpu(), tensor)
