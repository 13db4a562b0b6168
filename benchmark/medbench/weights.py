"""Finished weights: a folder with tensors (safetensors), what they are (JSON) and the files that belong to them.

    weights.safetensors   every parameter and buffer of the method
    weights.json          method, config, corpus, seed, history, and the SHA-256 of the tensors' file
    assets/               what the method needs beside its tensors (a tokenizer)

Nothing in it is code, and nothing of it is run when it is read.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.devices import Precision
from medbench.errors import WeightsError
from medbench.files import replacing, sha256_file, sync_folder, write_atomic
from medbench.method import ADDED_LATER, FROM_DISK, SAME_NUMBERS, Method, Recipe, Setup
from medbench.seeding import derive_seed, seed_everything

TENSORS: Final = "weights.safetensors"
INFO: Final = "weights.json"
ASSETS: Final = "assets"

FORMAT: Final = 1
"""Version of the folder's layout, in weights.json."""

ENGINE: Final = 2
"""Version of the training engine, part of the key: raised when the same inputs would give other weights."""

_NAMED = 5  # how many of the tensors that do not fit an error names


@dataclass(frozen=True)
class Weights:
    """A method with its weights in place.

    Attributes:
        method: in eval mode, on the CPU.
        sha256: of the tensors' file; of the tensors themselves where the weights were never saved.
        info: what weights.json says.
        path: the folder, None where the weights were never saved.
    """

    method: Method
    sha256: str
    info: Mapping[str, Any]
    path: Path | None


def config_json(config: Any) -> dict[str, Any]:
    """What decides numbers of a config (frozen dataclass, nested or not), as JSON types.

    Without `ADDED_LATER` fields at their default, and without `SAME_NUMBERS` fields.
    """
    plain: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return {
        field.name: plain[field.name]
        for field in fields(config)
        if not SAME_NUMBERS.items() <= field.metadata.items()
        and not (
            ADDED_LATER.items() <= field.metadata.items() and getattr(config, field.name) == field.default
        )
    }


def computed_json(config: Any) -> dict[str, Any]:
    """The `SAME_NUMBERS` fields of a config: how its numbers are computed; JSON types."""
    same = [field.name for field in fields(config) if SAME_NUMBERS.items() <= field.metadata.items()]
    return {name: getattr(config, name) for name in same}


def content_on_disk(config: Any) -> dict[str, str]:
    """SHA-256 of what the fields with `medbench.method.from_disk` name, where it is a file or a folder here.

    Of a folder: over the names and contents of all files in it, at any depth.

    Returns:
        `on_disk.FIELD` to the hash, in hex; empty where no field names anything here.
    """
    others = {  # a subclass that gives a field another default keeps what it is
        field.name: field.metadata[FROM_DISK]
        for kind in reversed(type(config).__mro__)
        if is_dataclass(kind)
        for field in fields(kind)
        if FROM_DISK in field.metadata
    }
    found = {}
    for name, other in others.items():
        value = getattr(config, name)
        if value is None or value in other or not (path := Path(value)).exists():
            continue
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        content = [[file.relative_to(path).as_posix(), sha256_file(file)] for file in files]
        found[f"on_disk.{name}"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return found


def weights_key(
    method_name: str,
    owner: str,
    recipe: Recipe,
    corpus: Index,
    split: Split,
    seed: int,
    precision: Precision,
    processes: int = 1,
) -> str:
    """The name of these weights in the store: the method and a hash over all that the weights depend on.

    That is: who brings the method, in which version, its resolved config and optimisation, files that the config names,
    every row of the corpus, which rows are trained and validated on, the seed, the precision and the version of the
    training engine. How many processes train together counts where a loss is over the share of each: unless the config
    has `gather`, with which it is over the pairs of all.
    """
    apart = processes > 1 and not getattr(recipe.config, "gather", False)
    resolved = {
        "engine": ENGINE,
        "method": method_name,
        "owner": owner,
        "config": config_json(recipe.config),
        "pretrain": config_json(recipe.pretrain) if recipe.pretrain is not None else None,
        "corpus": corpus.fingerprint(),
        "split": split.sha256(corpus),
        "seed": seed,
        "precision": precision,
        **content_on_disk(recipe.config),
        **({"processes": processes} if apart else {}),
    }
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()
    return f"{method_name}-{digest[:24]}"


def finished(store: Path, key: str) -> Path | None:
    """The folder of these weights if they are finished, else None."""
    folder = store / key
    return folder if (folder / INFO).is_file() and (folder / TENSORS).is_file() else None


def save_tensors(method: Method, path: Path) -> str:
    """Write all parameters and buffers of a method, atomically.

    The bytes depend on the tensors alone: the same weights always give the same file.

    Returns:
        SHA-256 of the file.
    """
    tensors = {name: _plain(tensor) for name, tensor in method.state_dict().items()}
    with replacing(path) as partial:
        save_file(
            tensors, partial, metadata={"format": "pt"}
        )  # one entry: several are written in random order
    return sha256_file(path)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()  # tied weights are written once for each name


def tensors_sha256(method: Method) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and buffers, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(method.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(_plain(tensor).reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(method: Method, folder: Path, info: Mapping[str, Any], tensors: Path | None = None) -> str:
    """Write finished weights into a new folder, which appears as a whole or not at all.

    Args:
        method: whose config and assets are written, and whose tensors.
        folder: where to; must not exist.
        info: JSON types, with `method` (its name); `config`, `sha256` and `format` are added.
        tensors: a file that `save_tensors` wrote, copied instead of writing the method's present tensors.

    Returns:
        SHA-256 of the tensors' file.
    """
    building = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    building.mkdir(parents=True)
    if tensors is None:
        sha256 = save_tensors(method, building / TENSORS)
    else:
        with replacing(building / TENSORS) as partial:
            shutil.copyfile(tensors, partial)
        sha256 = sha256_file(building / TENSORS)
    for name, data in method.assets().items():
        path = building / ASSETS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    about = {**info, "config": config_json(method.config), "sha256": sha256, "format": FORMAT}
    write_atomic(building / INFO, json.dumps(about, indent=2, allow_nan=False).encode())
    building.replace(folder)
    sync_folder(folder.parent)  # whoever trained them removes its checkpoint next
    return sha256


def read_info(path: Path) -> tuple[Path, dict[str, Any]]:
    """What weights.json says, without reading the tensors.

    Args:
        path: the folder, or the tensors' file in it.

    Returns:
        The folder and the JSON.

    Raises:
        WeightsError: there is no such folder or file, or the JSON is not one of ours.
    """
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder. Give a folder written by `medbench pretrain`.")
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name != TENSORS:
        raise WeightsError(
            f"{path}: expected {TENSORS}, or the folder that holds it and {INFO}. Files that may hold code"
            f" (.pt, .pth, .ckpt, .bin) are not opened here. A checkpoint that the authors released becomes such a"
            f" folder with `medbench weights import {path.name} --method NAME`."
        )
    missing = [name for name in (INFO, TENSORS) if not (folder / name).is_file()]
    if missing:
        raise WeightsError(
            f"{folder}: {' and '.join(missing)} not found. Give a folder written by `medbench pretrain`. A checkpoint"
            f" that the authors released is looked into with `medbench weights inspect FILE`, and becomes such a folder"
            f" with `medbench weights import FILE --method NAME`."
        )
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        found = info["format"]
        if not all(isinstance(info[name], str) for name in ("method", "sha256")) or not isinstance(
            info["config"], dict
        ):
            raise TypeError("method, sha256 or config of the wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{folder / INFO}: not readable as a description of weights ({type(error).__name__}: {error}). Copy the"
            f" folder again, or pretrain again."
        ) from None
    if found != FORMAT:
        raise WeightsError(
            f"{folder / INFO}: format {found}, this version of medbench reads format {FORMAT}."
        )
    return folder, info


def check_method(folder: Path, info: Mapping[str, Any], method_name: str) -> None:
    """See that weights are those of a method.

    Raises:
        WeightsError: they are another one's.
    """
    if info["method"] != method_name:
        raise WeightsError(
            f"{folder}: weights of the method `{info['method']}`, asked for as `{method_name}`. Use"
            f" --method {info['method']}, or weights of `{method_name}`."
        )


def load(path: Path, method_class: type[Method], method_name: str) -> Weights:
    """Read finished weights; every tensor must be there, fit, and be as it was written.

    Args:
        path: the folder, or the tensors' file in it.
        method_class: the class that `method_name` stands for.
        method_name: the method that is asked for.

    Raises:
        WeightsError: the folder holds another method, is damaged or incomplete, or its tensors do not cover the model.
    """
    folder, info = read_info(path)
    check_method(folder, info, method_name)
    tensors = _read_tensors(folder / TENSORS, str(info["sha256"]))
    config = read_config(method_class, info["config"], folder)
    assets_folder = folder / ASSETS
    files = (
        sorted(file for file in assets_folder.rglob("*") if file.is_file()) if assets_folder.is_dir() else []
    )
    assets = {file.relative_to(assets_folder).as_posix(): file.read_bytes() for file in files}
    method = method_class.from_assets(config, assets)
    _check_coverage(tensors, method.state_dict(), folder / TENSORS)
    method.load_state_dict(tensors)
    return Weights(method.eval(), str(info["sha256"]), info, folder)


def _read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    found = sha256_file(path)
    if found != expected:
        raise WeightsError(
            f"{path}: SHA-256 {found[:16]}…, expected {expected[:16]}… ({path.stat().st_size:,} bytes): the file is"
            f" damaged or not the one that {INFO} describes. Copy it again, or pretrain again."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}). Pretrain again.") from None


def read_config(method_class: type[Method], data: Mapping[str, Any], folder: Path) -> Any:
    """The config that weights.json holds, as an instance of the method's config class.

    Raises:
        WeightsError: it is not one in this version.
    """
    kinds = {type(recipe.config) for recipe in method_class.recipes.values()}
    if len(kinds) != 1:  # our bug, or a plugin's: recipes are sizes of one method
        raise TypeError(f"{method_class.__name__}.recipes holds configs of several classes: {kinds}")
    (kind,) = kinds
    try:
        config = TypeAdapter(kind).validate_python(data)
        unknown = sorted(set(data) - {field.name for field in fields(config)})
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}")
    except (ValidationError, ValueError) as error:
        raise WeightsError(
            f"{folder / INFO}: its config is not one of {kind.__name__} in this version ({error}). Pretrain again, or"
            f" use the version of medbench that wrote it."
        ) from None
    return config


def _check_coverage(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if not (missing or unexpected or shapes):
        return
    fit = len(expected) - len(missing) - len(shapes)
    parts = [
        f"{len(names)} {what}: {_some(names)}"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    raise WeightsError(
        f"{path}: {fit} of {len(expected)} tensors fit the model; {'; '.join(parts)}. All must fit: pretrain again, or"
        f" use the version of the method that wrote them."
    )


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def untrained(
    method_class: type[Method],
    recipe: Recipe,
    method_name: str,
    seed: int,
    *,
    offline: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Weights:
    """A method as it is initialised, for baselines that are not pretrained.

    The same seed gives the same tensors. Its SHA-256 is over the tensors, as there is no file.
    """
    seed_everything(derive_seed(seed, "init"))
    method = method_class.from_corpus(recipe.config, [], Setup(seed=seed, offline=offline, say=say)).eval()
    sha256 = tensors_sha256(method)
    info = {
        "method": method_name,
        "config": config_json(method.config),
        "seed": seed,
        "sha256": sha256,
        "epochs": 0,
    }
    return Weights(method, sha256, info, None)
