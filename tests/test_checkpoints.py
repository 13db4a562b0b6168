"""Foreign files: the tensors come out, nothing is run, and what is wrong with a file is said."""

import argparse
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medbench.checkpoints import read_checkpoint
from medbench.errors import WeightsError
from medbench.terminal import printable

STATE = {"net.weight": torch.arange(6.0).reshape(2, 3), "net.bias": torch.ones(2)}


class Trap:
    """Writes a file when a careless reader builds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def old_format(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def test_the_groups_of_a_training_checkpoint(tmp_path: Path) -> None:
    optimiser = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {"state_dict": STATE, "epoch": 3, "optimizer": optimiser, "bare": torch.zeros(1)}, tmp_path / "a.ckpt"
    )
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert found.kind == "torch"
    assert set(found.groups) == {"state_dict", ""}
    assert torch.equal(found.groups["state_dict"]["net.weight"], STATE["net.weight"])
    assert found.others == {"epoch": "int", "optimizer": "dict"}
    assert len(found.sha256) == 64


@pytest.mark.parametrize("save", [torch.save, old_format, save_file])
def test_a_bare_state_dict(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "weights.tar"  # as CXR-CLIP calls its torch files: the name does not count
    save(STATE, path)
    assert set(read_checkpoint(path).groups[""]) == set(STATE)


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"a/kernel": np.ones((2, 3), np.float32), "name": np.array("text")})
    found = read_checkpoint(tmp_path / "a.npz")
    assert found.kind == "npz"
    assert list(found.groups[""]) == ["a/kernel"]


@pytest.mark.parametrize("save", [torch.save, old_format])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    planted = tmp_path / "planted"
    save({"state_dict": STATE, "hyper_parameters": Trap(planted)}, tmp_path / "evil.ckpt")
    with pytest.raises(
        WeightsError, match=r"names (posix|os)\.system, which could run code; nothing of it was run"
    ):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not planted.exists()
    # and the trap is one
    pickle.loads(pickle.dumps(Trap(planted)))
    assert planted.exists()


def test_a_bare_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Trap(planted)}, protocol=2))
    with pytest.raises(WeightsError, match=r"could run code|damaged"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not planted.exists()


def test_an_npz_with_objects_is_refused_and_not_run(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    np.savez(tmp_path / "evil.npz", weight=np.array([Trap(planted)], dtype=object))
    with pytest.raises(WeightsError, match="Python objects, expected arrays of numbers"):
        read_checkpoint(tmp_path / "evil.npz")
    assert not planted.exists()


def module_like(name: str, **classes: type) -> Any:
    """A module that is not installed, for as long as a checkpoint is written."""
    import types

    module = types.ModuleType(name)
    for key, kind in classes.items():
        kind.__module__, kind.__qualname__, kind.__name__ = name, key, key
        setattr(module, key, kind)
    return module


def test_what_training_programs_leave_is_let_through_and_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    class AttributeDict(dict[str, Any]):
        pass

    class DictConfig:
        def __init__(self) -> None:
            self.content = {"lr": 0.1}

    class ModelCheckpoint:
        pass

    for name, key, kind in (
        ("pytorch_lightning.utilities.parsing", "AttributeDict", AttributeDict),
        ("omegaconf.dictconfig", "DictConfig", DictConfig),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", ModelCheckpoint),
    ):
        for end in range(1, name.count(".") + 1):
            parent = ".".join(name.split(".")[:end])
            monkeypatch.setitem(sys.modules, parent, module_like(parent))
        monkeypatch.setitem(sys.modules, name, module_like(name, **{key: kind}))
    content = {
        "state_dict": STATE,
        "hyper_parameters": AttributeDict(
            args=argparse.Namespace(lr=1), folder=Path("/data"), score=np.float64(0.5), more=DictConfig()
        ),
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(0.5)}},
        "config": DictConfig(),
    }
    torch.save(content, tmp_path / "a.ckpt")
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert set(found.groups) == {"state_dict"}
    assert found.others == {"hyper_parameters": "OrderedDict", "callbacks": "dict", "config": "_Nothing"}


OMEGACONF = """
import collections, typing
class Metadata:
    def __init__(self, kind):
        self.ref_type, self.object_type, self.optional, self.key = typing.Any, kind, True, None
class ContainerMetadata(Metadata):
    def __init__(self, kind):
        super().__init__(kind)
        self.key_type, self.element_type = (int if kind is list else str), typing.Dict[str, typing.List[int]]
        self.resolver_cache = collections.defaultdict(dict, {"env": {"HOME": "somewhere"}})
"""
NODES = """
class Node:
    def __init__(self, value, parent, metadata):
        self._content, self._parent, self._metadata = value, parent, metadata
    def __getstate__(self):
        return dict(self.__dict__)
    def __setstate__(self, state):
        raise AssertionError("omegaconf's own code was run")
"""


def config_of_omegaconf(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A config in the shape in which omegaconf pickles it: metadata, a cache, children that name their parents."""
    import sys

    base = module_like("omegaconf.base")
    exec(OMEGACONF, vars(base))
    made: dict[str, Any] = {}
    for name, keys in (
        ("omegaconf", ()),
        ("omegaconf.dictconfig", ("DictConfig",)),
        ("omegaconf.listconfig", ("ListConfig",)),
        ("omegaconf.nodes", ("AnyNode", "EnumNode", "PathNode", "BytesNode", "IntegerNode", "StringNode")),
        ("models", ()),
        ("models.pretraining", ()),
        ("models.pretraining.pretraining_utils", ("BiModalModelConfig",)),
    ):
        module = module_like(name)
        for key in keys:
            exec(NODES.replace("Node", key, 1), vars(module))
            made[key] = vars(module)[key]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "omegaconf.base", base)
    for key in ("Metadata", "ContainerMetadata"):
        vars(base)[key].__module__ = "omegaconf.base"
    about, within = vars(base)["Metadata"], vars(base)["ContainerMetadata"]
    root = made["DictConfig"](None, None, within(made["BiModalModelConfig"]))
    inner = made["ListConfig"](None, root, within(list))
    nodes = [kind for name, kind in made.items() if name.endswith("Node")]
    inner._content = [kind(number, inner, about(int)) for number, kind in enumerate(nodes)]
    root._content = {"layers": inner, "name": made["StringNode"]("x", root, about(str))}
    return root


@pytest.mark.parametrize("save", [torch.save, old_format])
def test_configs_of_omegaconf_are_let_through_and_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Any, Path], None]
) -> None:
    config = config_of_omegaconf(monkeypatch)
    save({"state_dict": STATE, "hyper_parameters": {"config": config}, "config": config}, tmp_path / "a.ckpt")
    monkeypatch.undo()  # where the file is read there is no such package
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert set(found.groups) == {"state_dict"}
    assert found.others == {"hyper_parameters": "dict", "config": "_Nothing"}


def test_dicts_that_hold_themselves_or_many_others(tmp_path: Path) -> None:
    within: dict[str, Any] = {**STATE, "more": {"a": torch.ones(1)}}
    within["self"] = within
    within["more"]["up"] = within
    torch.save({"model": within}, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth").groups["model"]) == [*STATE, "more.a"]
    deep: dict[str, Any] = {"a": torch.ones(1)}
    for _ in range(300):
        deep = {"x": deep}
    torch.save({"model": deep}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="dicts in 16 layers and more, expected a state dict"):
        read_checkpoint(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(2).to_sparse(), "net.weight is sparse"),
        (torch.zeros(2, device="meta"), "net.weight is on no device"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_without_their_numbers_are_refused(
    tmp_path: Path, tensor: torch.Tensor, message: str
) -> None:
    torch.save({"net": {"weight": tensor}}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=message.replace("net.weight", "weight") + ", expected a dense tensor"
    ):
        read_checkpoint(tmp_path / "a.pth")
    torch.save({"net.weight": tensor}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_names_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    torch.save({"a\x1b[2J": {"b\nc\u202e": torch.ones(1)}, "d\x07": 3}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert {group: list(held) for group, held in found.groups.items()} == {"a\\x1b[2J": ["b\\nc\\u202e"]}
    assert found.others == {"d\\x07": "int"}
    assert printable("größe \ud800") == "größe \\ud800"
    assert STATE.keys() == {printable(name) for name in STATE}


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
@pytest.mark.parametrize(
    "save",
    [torch.save, old_format, save_file, lambda state, path: np.savez(path.open("wb"), **state)],
    ids=["zip", "old", "safetensors", "npz"],
)
def test_a_file_cut_short(tmp_path: Path, save: Callable[[Any, Path], None], share: float) -> None:
    path = tmp_path / "file"
    save({"a": torch.randn(500), "b": torch.randn(500)}, path)
    cut(path, share)
    with pytest.raises(WeightsError, match=r"damaged or cut short \([\d,]+ bytes.*Download it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file is empty, expected a checkpoint. Download it again"),
        (b"\n<!DOCTYPE html><html>sign in</html>", "a web page, expected a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"\x1f\x8b\x08\x00 gzip", "an archive, expected a checkpoint. Unpack it"),
        (b"just some text", r"starts with b'just som', expected a file of torch"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "file.pth")


def test_archives_and_programs_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("model.pth", "x")
    with pytest.raises(WeightsError, match="a zip archive of 1 files"):
        read_checkpoint(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.zip", "a.zip")
    with pytest.raises(WeightsError, match="an archive, expected a checkpoint"):
        read_checkpoint(tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("a/data.pkl", "x")
        archive.writestr("a/constants.pkl", "x")
    with pytest.raises(WeightsError, match="a TorchScript program, expected tensors"):
        read_checkpoint(tmp_path / "script.pt")


def test_files_without_tensors_folders_and_nothing(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"no tensors by name in it, found epoch \(int\)"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="a folder, expected a file"):
        read_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "nowhere")
