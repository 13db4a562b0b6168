"""`medbench weights`, and whole models by a method's own converter, on small nets."""

import dataclasses
import json
import re
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.resnet import BasicBlock, ResNet
from typer.testing import CliRunner, Result

from medbench.cli import app
from medbench.errors import UsageError, WeightsError
from medbench.importing import check_writable, import_released, method_of
from medbench.plugins import Catalogue, load_catalogue
from medbench.released import Release
from medbench.weights import load, read_info
from medbench_methods.clip import Clip
from medbench_methods.released.encoder import ReleasedEncoder
from medbench_methods.released.layouts import released as generic

pytestmark = pytest.mark.usefixtures("medbench_home")
CATALOGUE = load_catalogue(third_party=False)
SMALL = ("--backbone", "resnet18", "--set", "method.size=64", "--set", "method.resize=64")
SMALL = (*SMALL, "--set", "method.layers=(1,1,1,1)")


def medbench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    state = {f"backbone.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "released.ckpt")
    return tmp_path / "released.ckpt"


def test_import_writes_a_folder_and_finds_it_again(file: Path, tmp_path: Path) -> None:
    first = medbench("weights", "import", file, "--method", "released", *SMALL)
    assert first.exit_code == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home" / "cache" / "released")
    assert "matched:     72 of 72 tensors" in first.stderr
    assert "left out:    2 tensors: classifier or pooler" in first.stderr
    assert f"--recipe paper --checkpoint {folder}" in first.stderr
    _, info = read_info(folder)
    assert (info["method"], info["part"], info["recipe"]) == ("released", "image", "paper")
    assert info["released"]["file"] == "released.ckpt"  # no folder of this machine
    assert str(tmp_path) not in json.dumps(info)
    file = file.rename(tmp_path / "renamed.ckpt")
    again = medbench("weights", "import", file, "--method", "released", *SMALL, "-q")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    loaded = load(folder, method_of(CATALOGUE, "released", info), "released")
    assert isinstance(loaded.method, ReleasedEncoder)
    taken = medbench("weights", "import", file, "--method", "released", *SMALL, "--out", tmp_path)
    assert taken.exit_code == 2
    assert "exists and is not what would be written there" in taken.stderr
    shown = medbench("weights", "inspect", folder)
    assert json.loads(shown.stdout)["released"]["sha256"] == info["released"]["sha256"]


def test_mistakes_on_the_command_line(file: Path, tmp_path: Path) -> None:
    for arguments, code, message in (
        (("released",), 4, r"covers \d+ of \d+ tensors"),
        (("kads",), 2, "Unknown method 'kads'. Did you mean 'kad'"),
        (("random",), 2, "random has no released checkpoints"),
        (("kad", "--part", "all"), 2, "no whole model can be imported"),
        (("kad", "--part", "half"), 2, "expected image or all"),
        (("kad", "--set", "task.lr=1"), 2, "expected method.FIELD"),
    ):
        done = medbench("weights", "import", file, "--method", *arguments)
        assert done.exit_code == code, (arguments, done.stderr)
        assert re.search(message, done.stderr), (arguments, done.stderr)
    (tmp_path / "page.pth").write_text("<html>")
    done = medbench("weights", "import", tmp_path / "page.pth", "--method", "kad")
    assert done.exit_code == 4 and "a web page" in done.stderr
    done = medbench("run", "-m", "kad", "-t", "rsna_lp", "--recipe", "micro")
    assert done.exit_code == 4 and "weights import FILE --method kad" in done.stderr


@pytest.mark.parametrize("out", ["file/x", "file/x/y", "/proc/nope/x"])
def test_a_folder_that_can_not_be_written_is_named(file: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    done = medbench("weights", "import", file, "--method", "released", *SMALL, "--out", tmp_path / out)
    assert done.exit_code == 2
    assert re.search(r"(file|nope)/x(/y)?: can not be written \(.+\)\. Name a folder", done.stderr)
    with pytest.raises(UsageError, match="can not be written"):
        check_writable(tmp_path / out)
    check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_names_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    torch.save({"x\x1b[2J.a": torch.ones(1), "y" * 300 + ".a": torch.ones(1)}, tmp_path / "a.pth")
    shown = medbench("weights", "inspect", tmp_path / "a.pth")
    refused = medbench("weights", "import", tmp_path / "a.pth", "--method", "kad")
    assert (shown.exit_code, refused.exit_code) == (0, 4)
    for text in (shown.output, refused.output):
        assert "\x1b[2J" not in text and "x\\x1b[2J" in text and "y" * 100 not in text


def test_globs_leave_out_methods_that_need_a_checkpoint() -> None:
    assert CATALOGUE.expand("methods", ["*"]) == tuple(
        name for name, spec in CATALOGUE.methods.items() if not spec.released_only
    )
    assert CATALOGUE.expand("methods", ["kad"]) == ("kad",)


class WithRelease:
    """The catalogue, with a release for a method that has none."""

    def __init__(self, catalogue: Catalogue, release: Release) -> None:
        self.catalogue, self.release = catalogue, release

    def load_released(self, name: str) -> Release:
        return self.release

    def load(self, kind: Any, name: str) -> Any:
        return self.catalogue.load(kind, name)


REPORTS: Sequence[Sequence[str]] = [["heart size is normal", "small left effusion"]] * 4


def test_a_whole_model_by_the_methods_own_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medbench.method import Setup

    config = dataclasses.replace(Clip.recipes["micro"].config, text_vocabulary=100)
    torch.manual_seed(4)
    source = Clip.from_corpus(config, REPORTS, Setup(offline=True)).eval()
    body = "model.image_encoder.body."
    state = {
        name.replace(body, "img_encoder_q.model.").replace("model.text_encoder.", "text_encoder_q."): tensor
        for name, tensor in source.state_dict().items()
    }

    def convert(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name.replace("img_encoder_q.model.", body).replace(
                "text_encoder_q.", "model.text_encoder."
            ): tensor
            for name, tensor in given.items()
        }

    monkeypatch.setattr(
        Clip, "from_corpus", classmethod(lambda cls, config, reports, setup: cls.from_assets(config, source.assets()))
    )  # what a hub gives is not at hand  # fmt: skip
    layout = dataclasses.replace(
        generic.RELEASE.layouts[0],
        config=dataclasses.replace(
            generic.RELEASE.layouts[0].config,
            **{name: getattr(config, name) for name in ("backbone", "layers", "channels", "size", "resize")},
        ),
    )
    module: Any = types.ModuleType("a_converter")
    module.convert = convert
    module.settings = lambda given: {"temperature": 0.2, "text_vocabulary": 100}
    monkeypatch.setitem(sys.modules, "a_converter", module)
    release = Release(encoder=ReleasedEncoder, layouts=(layout,), whole="a_converter")
    shelf: Any = WithRelease(CATALOGUE, release)
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    spec = dataclasses.replace(CATALOGUE.methods["clip"], released="somewhere:RELEASE")
    whole = import_released(tmp_path / "a.ckpt", spec, shelf, recipe="micro")
    assert isinstance(whole.method, Clip)
    assert whole.info["part"] == "all" and "embedding" in whole.info["provides"]
    assert whole.method.config.temperature == 0.2
    text = source.model.tokenize(REPORTS)
    with torch.no_grad():
        one, two = (m.model.embed_text(m.model.encode_text(text)) for m in (source, whole.method))
    torch.testing.assert_close(one, two)
    whole.save(tmp_path / "weights")
    info = read_info(tmp_path / "weights")[1]
    assert isinstance(load(tmp_path / "weights", method_of(CATALOGUE, "clip", info), "clip").method, Clip)

    image = import_released(tmp_path / "a.ckpt", spec, shelf, recipe="micro", part="image")
    assert isinstance(image.method, ReleasedEncoder) and "embedding" not in image.info["provides"]
    with pytest.raises(UsageError, match="Use --part image"):
        import_released(tmp_path / "a.ckpt", spec, shelf, recipe="micro", part="all", prefix="img")
    constant = {k: torch.zeros_like(t) if k.startswith("text_encoder_q.") else t for k, t in state.items()}
    torch.save({"state_dict": constant}, tmp_path / "c.ckpt")
    with pytest.raises(
        WeightsError, match="the text encoder gives the same features for two different texts"
    ):
        import_released(tmp_path / "c.ckpt", spec, shelf, recipe="micro")
    lost = next(name for name in state if name.startswith("text_encoder_q."))
    torch.save({"state_dict": {k: v for k, v in state.items() if k != lost}}, tmp_path / "b.ckpt")
    with pytest.raises(WeightsError, match=r"the whole model(.|\n)*missing:     model.text_encoder"):
        import_released(tmp_path / "b.ckpt", spec, shelf, recipe="micro")

    def refuses(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise WeightsError("no checkpoint of ours.")

    module.convert = refuses
    with pytest.raises(WeightsError, match=r"a\.ckpt: no checkpoint of ours\. `--part image`"):
        import_released(tmp_path / "a.ckpt", spec, shelf, recipe="micro")
