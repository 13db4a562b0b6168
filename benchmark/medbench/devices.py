"""Where and how numbers are computed: device, precision, determinism. Nothing here acts on import."""

import platform
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal

import torch

from medbench.errors import UsageError
from medbench.memory import is_kept

Precision = Literal["32", "bf16"]

CUBLAS_WORKSPACE: Final = ":4096:8"
"""Value of CUBLAS_WORKSPACE_CONFIG with which cuBLAS is deterministic. It has to be in the environment before CUDA
starts, so the command line sets it, before torch is imported."""


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device that `name` stands for.

    Args:
        name: "auto" (the first CUDA device, else the CPU), "cpu", "cuda" (the first one) or "cuda:n".
        local_rank: of several processes that work together, the number of this one on its machine, which is that of
            its CUDA device, unless it sees one alone; None for one process.

    Raises:
        UsageError: the name is none of these, or the CUDA device is not there.
    """
    if local_rank is not None and name != "cpu":
        if name not in ("auto", "cuda"):
            raise UsageError(
                f"--device {name}: of several processes each has its own. Use auto, cpu or cuda."
            )
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if seen > 1 or name == "cuda":
            name = f"cuda:{local_rank if seen > 1 else 0}"
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise UsageError(f"--device {name}: no such device. Use auto, cpu, cuda or cuda:n (n from 0).")
    index = int(number) if number else 0
    if index >= count:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        found = (
            f"CUDA devices found: {count}"
            if count
            else f"no CUDA device found (torch {torch.__version__}, {built})"
        )
        raise UsageError(f"--device {name}: {found}. Use --device cpu, or auto to take what is there.")
    return torch.device("cuda", index)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The precision that `name` stands for on `device`.

    "auto" is bf16 where the hardware multiplies bf16 matrices, and 32 elsewhere: on CUDA from compute capability 8.0,
    on the CPU with AMX (the flag `amx_bf16`). It is the same on the same machine. A step of `place`, recipe `tiny`, on
    one core with AMX (torch 2.14, `benchmarks/pretrain_step.py`) took 0.76 of fp32's time in bf16, and 0.5 to 0.6 of
    it with kept memory. Without such hardware bf16 is emulated, which is slower than fp32.

    Args:
        name: "auto", "32" or "bf16".
        device: where the model will be.

    Raises:
        UsageError: the name is none of these, or the device does not compute in bf16.
    """
    if name == "32":
        return "32"
    if name not in ("auto", "bf16"):
        raise UsageError(f"--precision {name}: unknown. Use auto, 32 or bf16.")
    if device.type == "cuda":
        if _cuda_has_bf16(device):
            return "bf16"
        if name == "bf16":
            found = torch.cuda.get_device_name(device)
            raise UsageError(
                f"--precision bf16: {found} does not compute in bf16 (Ampere and later do). Use 32."
            )
        return "32"
    return "bf16" if name == "bf16" or "amx_bf16" in _cpu_flags() else "32"


def _cuda_has_bf16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it, slower than fp32


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Run what is inside in `precision`: bf16 where torch thinks it safe, or everything in fp32."""
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on `device`, without waiting for the device; the tensor itself where that is the CPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def deterministic() -> None:
    """Ask torch for deterministic kernels, for the rest of the process.

    Where there is none, torch warns and goes on: `watch_determinism` collects those, for the record. On CUDA the
    command line must also have set CUBLAS_WORKSPACE_CONFIG to `CUBLAS_WORKSPACE`.
    """
    # Equal to use_deterministic_algorithms(True, warn_only=True), without the seconds that its import of torch's
    # compiler takes.
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.benchmark = False
    # Filling fresh memory with NaN finds bugs but costs a pass over every tensor; results do not depend on it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by name there


@contextmanager
def watch_determinism() -> Iterator[set[str]]:
    """Collect what torch says, inside, about kernels that are not deterministic; other warnings pass through.

    Yields:
        A set that fills with the first sentence of each such warning. Empty means: same seed, same numbers.
    """
    seen: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def sort_out(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            text = str(message)
            if "deterministic" in text and issubclass(category, UserWarning):
                seen.add(text.split(". ")[0].split(", but you set")[0])
            else:
                show(message, category, *rest, **named)

        warnings.showwarning = sort_out
        warnings.filterwarnings("always", message=".*deterministic", category=UserWarning)
        yield seen


def describe(device: torch.device) -> dict[str, Any]:
    """What a record says about the device; JSON types only."""
    about: dict[str, Any] = {
        "type": device.type,
        "name": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "keeps_freed_memory": is_kept(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        about |= {
            "name": torch.cuda.get_device_name(device),
            "capability": f"{major}.{minor}",
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch's own
        }
    return about


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpu_info("flags").split())


def _cpu_info(what: str) -> str:
    """What Linux says about the first core; "" where there is no such line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == what), "")
