"""Reading the tensors of a foreign checkpoint, without running anything that is in it.

Four kinds of file are read, told apart by their first bytes and not by their name: what `torch.save` writes (.pt, .pth,
.ckpt, .bin, and CXR-CLIP's .tar), safetensors, and numpy's npz. A pickle is only ever opened by torch's `weights_only`
reader, which builds tensors and plain containers and calls nothing else. What a training program leaves beside the
tensors (hyper-parameters, callbacks) is named in `STAND_INS`: these names are let through, and an empty object of ours
is put in their place, so that not even harmless code of another package is imported.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medbench.errors import WeightsError
from medbench.files import sha256_file
from medbench.terminal import printable


class _Nothing:
    """Takes the place of an object that is not wanted: accepts whatever the file gives it and keeps none of it."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _dict(*_: object) -> OrderedDict[Any, Any]:
    """Takes the place of `defaultdict`: a plain dict, whatever it was to be filled by."""
    return OrderedDict()


_LIGHTNING: Final = tuple(
    f"{package}.{name}"
    for package in ("pytorch_lightning", "lightning.pytorch")
    for name in (
        "callbacks.model_checkpoint.ModelCheckpoint",
        "callbacks.early_stopping.EarlyStopping",
        "callbacks.lr_monitor.LearningRateMonitor",
        "trainer.states.TrainerFn",
        "trainer.states.TrainerStatus",
    )
)

_OMEGACONF: Final = tuple(
    f"omegaconf.{name}"
    for name in (
        "dictconfig.DictConfig",
        "listconfig.ListConfig",
        "tupleconfig.TupleConfig",
        "base.ContainerMetadata",
        "base.Metadata",
        "base.UnionNode",
        *(
            f"nodes.{kind}Node"
            for kind in (
                *("Any", "Boolean", "Bytes", "Enum", "Float", "Integer"),
                *("InterpolationResult", "Literal", "None", "Path", "String", "Value"),
            )
        ),
    )
)

_TYPES: Final = (
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple", "Ellipsis", "NoneType")
    ),
    *(f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Sequence", "Tuple", "Union")),
    # How Python up to 3.10, and typing's Dict[str, Any] to this day, are written down: getitem(Dict, (str, Any)).
    "_operator.getitem",
    "operator.getitem",
)

_LOVT: Final = tuple(
    f"models.{name}Config"
    for name in (
        "pretraining.pretraining_utils.BiModalModel",
        "components.utils.Encoder",
        "image.scan_encoder.ScanEncoder",
        "image.scan_transforms.ScanAugmentation",
        "text.report_encoder.ReportEncoder",
        "text.report_transforms.ReportAugmentation",
        *(
            f"objectives.local_alignment.Local{kind}"
            for kind in ("AlignmentObjective", "MseLoss", "PredictorLoss", "IntraSampleContrastiveLoss")
        ),
        *(
            f"objectives.global_alignment.Global{kind}"
            for kind in ("AlignmentObjective", "MseLoss", "PredictorLoss", "NceLoss")
        ),
    )
)

STAND_INS: Final[Mapping[str, Callable[..., Any]]] = {
    # Keys of the `callbacks` section that Lightning before 1.5 wrote: the classes themselves.
    **dict.fromkeys(_LIGHTNING, _Nothing),
    # How Lightning and its users keep hyper-parameters. The first is a dict with attributes.
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
    "lightning.fabric.utilities.data.AttributeDict": OrderedDict,
    "argparse.Namespace": _Nothing,
    "easydict.EasyDict": OrderedDict,
    **dict.fromkeys(_OMEGACONF, _Nothing),
    # What omegaconf's metadata mention: types of keys and values, and a cache of resolved values.
    **dict.fromkeys(_TYPES, _Nothing),
    "collections.defaultdict": _dict,
    # LoVT's own config classes, which its files name as the type of what omegaconf holds.
    **dict.fromkeys(_LOVT, _Nothing),
    # Folders of the author's machine.
    **dict.fromkeys(("pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath"), _Nothing),
    # Scores that a callback kept as a numpy number. Not `_reconstruct`: an array could be a weight.
    **dict.fromkeys(
        ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"), _Nothing
    ),
    # The types of such numbers.
    **dict.fromkeys(("numpy.float64", "numpy.float32", "numpy.int64"), _Nothing),
}
"""Globals that a pickle may name beside torch's own list, and what stands in for each.

Each is harmless for the same reason: the name is looked up in this table and nowhere else. What is built is an empty
object or a plain ordered dict, whatever arguments and state the file gives."""

_AGAIN = "Download it again"

_MOST_UNPACKED = 100
"""Times its size that an archive may unpack to. Weights hardly shrink when they are packed."""

_DEPTH = 16  # dicts within dicts; a state dict has one or two


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file.

    Attributes:
        path: the file.
        sha256: of its bytes.
        kind: "torch", "safetensors" or "npz".
        groups: tensors by name, by the key of the file's outermost dict that holds them ("state_dict", "model"); ""
            for tensors that lie at the top. All are dense, all names and keys `printable`.
        others: what else the outermost dict holds, by key, with its type.
    """

    path: Path
    sha256: str
    kind: str
    groups: Mapping[str, Mapping[str, Tensor]]
    others: Mapping[str, str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a foreign checkpoint; nothing in it is run.

    Raises:
        WeightsError: there is no such file, it is damaged, of no kind that is read, holds no tensors, or names code.
    """
    kind = _kind(path)
    if kind == "safetensors":
        content: Any = _safetensors(path)
    elif kind == "npz":
        content = _npz(path)
    else:
        content = _torch(path)
    groups, others = _sorted(path, content)
    if not groups:
        held = ", ".join(f"{key} ({type_})" for key, type_ in others.items()) or type(content).__name__
        raise WeightsError(
            f"{path}: no tensors by name in it, found {held}. Expected a state dict, or a dict that holds one; ask the"
            f" authors for their checkpoint file, not for one of optimiser states or results."
        )
    return Checkpoint(path, sha256_file(path), kind, groups, others)


def _kind(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file. Give the file that the authors released.") from None
    except IsADirectoryError:
        raise WeightsError(
            f"{path}: a folder, expected a file. Give the checkpoint in it; weights of medbench's own are used as they"
            f" are, with --checkpoint {path}."
        ) from None
    except OSError as error:
        raise WeightsError(
            f"{path}: can not be opened ({error.strerror}). Check the path and its permissions."
        ) from None
    if not head:
        raise WeightsError(f"{path}: the file is empty, expected a checkpoint. {_AGAIN}.")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(
            f"{path}: a web page, expected a checkpoint: the download was refused, or asked for a login or a"
            f" confirmation first. {_AGAIN} in a browser."
        )
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path}: a Git LFS pointer, expected a checkpoint. Run `git lfs pull` where it came from."
        )
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")) or head[257:262] == b"ustar":
        raise WeightsError(
            f"{path}: an archive, expected a checkpoint. Unpack it and give the file that is inside."
        )
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 100_000_000:
        if length + 8 > size:
            raise _damaged(path, f"a safetensors header of {length:,} bytes in a file of {size:,}")
        return "safetensors"
    if head[0:1] == b"\x80":  # a pickle, as torch wrote it before 1.6
        return "torch"
    raise WeightsError(
        f"{path}: starts with {head[:8]!r}, expected a file of torch (.pt, .pth, .ckpt, .bin, .tar), safetensors or"
        f" npz. {_AGAIN}, or ask the authors what it is."
    )


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise _damaged(path, str(error)) from None
    if unpacked > _MOST_UNPACKED * (packed := path.stat().st_size):
        raise WeightsError(
            f"{path}: {packed:,} bytes that unpack to {unpacked:,}, which weights never do; nothing of it was read."
            f" {_AGAIN}."
        )
    if any(name.endswith("data.pkl") for name in names):
        if any(name.endswith("constants.pkl") for name in names):
            raise WeightsError(
                f"{path}: a TorchScript program, expected tensors. It holds code, which is not run; ask for the state"
                f" dict, or save `torch.jit.load(FILE).state_dict()` where you trust it."
            )
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise WeightsError(
        f"{path}: a zip archive of {len(names)} files, expected a checkpoint. Unpack it and give the file inside."
    )


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path}: damaged or cut short ({path.stat().st_size:,} bytes; {printable(' '.join(why.split()))[:200]}),"
        f" expected a whole"
        f" checkpoint. {_AGAIN} and compare its size."
    )


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _npz(path: Path) -> dict[str, Tensor]:
    tensors = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                array = arrays[name]
                if array.dtype.kind in "fiub":
                    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
                    tensors[name] = torch.from_numpy(native)
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise WeightsError(
                f"{path}: an npz file that holds Python objects, expected arrays of numbers. They could run code and"
                f" are not opened; ask for arrays, or for safetensors."
            ) from None
        raise _damaged(path, str(error)) from None
    except TypeError as error:  # long doubles
        raise WeightsError(
            f"{path}: numbers of a type that torch does not have, expected 16 to 64 bits ({error})."
        ) from None
    except (zipfile.BadZipFile, OSError, EOFError, MemoryError) as error:
        raise _damaged(path, str(error)) from None
    return tensors


def _torch(path: Path) -> Any:
    stand_ins = [(standing, name) for name, standing in STAND_INS.items()]
    try:
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]  # pairs are taken too
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _unknown_globals(path)
        if not named:
            raise _damaged(path, str(error)) from None
        raise WeightsError(
            f"{path}: its pickle names {printable(', '.join(named[:5]))}{' and more' if len(named) > 5 else ''}, which"
            f" could run code; nothing of it was run. Expected tensors and plain containers. If you trust the file,"
            f" turn its state dict into safetensors in a place of its own, and import that."
        ) from None
    except Exception as error:  # zip, storage and decoding errors of every kind come out of a damaged file
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _unknown_globals(path: Path) -> list[str]:
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not even its opcodes can be listed, or it is of torch before 1.6
        return _globals_of_a_bare_pickle(path)
    return sorted(set(named) - set(STAND_INS))


def _globals_of_a_bare_pickle(path: Path) -> list[str]:
    """Names in the opcodes of a pickle that is no zip file; reads, and runs nothing."""
    import pickletools

    found, strings = set(), []
    try:
        with path.open("rb") as file:
            for _ in range(
                5
            ):  # torch wrote a magic number, a version, system facts, the objects, then storages
                for opcode, argument, _place in pickletools.genops(file):
                    if opcode.name == "GLOBAL":
                        found.add(str(argument).replace(" ", "."))
                    elif opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE"):
                        strings.append(str(argument))
                    elif opcode.name == "STACK_GLOBAL":
                        found.add(".".join(strings[-2:]))
    except Exception:  # the end of the file, or of what is a pickle
        pass
    return sorted(name for name in found - set(STAND_INS) if not name.startswith(("torch.", "collections.")))


def _sorted(path: Path, content: Any) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """What a file holds, as named tensors by group, and the rest by type."""
    groups: dict[str, dict[str, Tensor]] = {}
    others: dict[str, str] = {}
    if not isinstance(content, Mapping):
        return groups, others
    for key, value in content.items():
        name = printable(str(key))
        if isinstance(value, Tensor):
            groups.setdefault("", {})[name] = _dense(path, name, value)
        elif isinstance(value, Mapping) and (tensors := _flat(path, value)):
            groups[name] = tensors
        else:
            others[name] = type(value).__name__
    return groups, others


def _flat(path: Path, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors of nested dicts with text keys, their names joined by dots; each dict is looked into once."""
    found: dict[str, Tensor] = {}
    ahead: list[tuple[Mapping[Any, Any], str, int]] = [(content, "", 1)]
    seen = {id(content)}
    while ahead:
        held, head, depth = ahead.pop()
        if not all(isinstance(key, str) for key in held):
            continue  # an optimiser's state is keyed by numbers
        inner = []
        for key, value in held.items():
            name = printable(f"{head}{key}")
            if isinstance(value, Tensor):
                found[name] = _dense(path, name, value)
            elif isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                inner.append((value, f"{head}{key}.", depth + 1))
        if inner and depth == _DEPTH:
            raise WeightsError(
                f"{path}: dicts in {_DEPTH} layers and more, expected a state dict of one or two. Is this a checkpoint?"
            )
        ahead += reversed(inner)
    return found


def _dense(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor without its gradient.

    Raises:
        WeightsError: its numbers do not lie there one by one.
    """
    kind = "sparse" if tensor.layout is not torch.strided else "quantised" if tensor.is_quantized else ""
    kind = "on no device" if tensor.is_meta else kind
    if kind:
        raise WeightsError(
            f"{path}: {name} is {kind}, expected a dense tensor with its numbers. Ask the authors for plain weights, or"
            f" save them so (`tensor.to_dense()`, `dequantize()`) where you have the model."
        )
    return tensor.detach()
