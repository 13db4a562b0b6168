"""Importing a released checkpoint: which layout covers it, and a method that is filled from it and seen to differ.

Every tensor that the method needs must come from the file, or an error says what lacks.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from medbench import weights
from medbench.checkpoints import Checkpoint, read_checkpoint
from medbench.errors import UsageError, WeightsError, did_you_mean
from medbench.files import sha256_file
from medbench.method import Method, Recipe, Setup
from medbench.overrides import apply_overrides
from medbench.records import sha256_json
from medbench.released import NAMED, Coverage, Layout, Match, Release, State, compare, match, no_reshape, rest
from medbench.seeding import derive_seed, seed_everything
from medbench.weights import Weights, tensors_sha256

if TYPE_CHECKING:
    from medbench.plugins import Catalogue
    from medbench.specs import MethodSpec

Part = Literal["image", "all"]
"""What of a released model is imported: its image encoder alone, or the whole model with its text half."""


_IMAGE: Final = frozenset({"image.pooled", "image.local", "image.pyramid"})
"""What an image encoder can give a task."""

_WHOLE: Final = ("state_dict", "model", "")
"""Where the tensors of a whole model are looked for first."""

_PROBES: Final = [["no focal consolidation", "the heart is enlarged"], ["small left pleural effusion"]]
"""Two texts that no trained text encoder takes for one."""


@dataclass(frozen=True)
class Imported:
    """A released model in medbench's own form, not saved yet.

    Attributes:
        method: in eval mode, on the CPU.
        info: for weights.json.
        coverage: the report.
    """

    method: Method
    info: Mapping[str, Any]
    coverage: Coverage

    def name(self) -> str:
        """Of the folder, where the user names none: by the file and by everything that was asked of it."""
        asked = weights.config_json(self.method.config), self.info["released"]["where"], self.info["part"]
        return f"{self.info['method']}-{self.info['released']['sha256'][:12]}-{sha256_json(list(asked))[:8]}"

    def save(self, folder: Path) -> str:
        """Write the folder that --checkpoint takes; see `medbench.weights.save`.

        Raises:
            UsageError: something is in its place that is not this very import, or nothing can be written there.
        """
        try:
            if folder.exists():
                if self._is(folder):
                    return str(weights.read_info(folder)[1]["sha256"])
                raise UsageError(
                    f"{folder} exists and is not what would be written there. Remove it, or name another --out."
                )
            return weights.save(self.method, folder, self.info)
        except OSError as error:
            raise _not_writable(folder, error) from None

    def as_weights(self) -> Weights:
        """For use without a folder."""
        sha256 = tensors_sha256(self.method)
        config = weights.config_json(self.method.config)
        return Weights(self.method, sha256, {**self.info, "config": config, "sha256": sha256}, None)

    def _is(self, folder: Path) -> bool:
        try:
            _, info = weights.read_info(folder)
            whole = sha256_file(folder / weights.TENSORS) == info["sha256"]
        except (WeightsError, OSError):
            return False
        same = all(info.get(key) == self.info[key] for key in ("method", "recipe", "part"))
        was, ours = info.get("released", {}), self.info["released"]  # the file may have another name by now
        same = same and all(was.get(key) == ours[key] for key in ("sha256", "layout", "where"))
        return same and whole and info["config"] == weights.config_json(self.method.config)


def check_writable(folder: Path) -> None:
    """See that a folder can be made, before the work whose result is to lie there; nothing is left behind.

    Raises:
        UsageError: it can not.
    """
    try:
        there = folder
        while not there.exists():
            there = there.parent
        if there != folder:  # a name that nobody has, made and taken away again
            with tempfile.TemporaryDirectory(dir=there):
                pass
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{folder}: can not be written ({error.strerror or error}). Name a folder that can with --out, or a cache with"
        f" MEDBENCH_CACHE."
    )


def import_released(
    path: Path,
    spec: "MethodSpec",
    catalogue: "Catalogue",
    *,
    part: Part | None = None,
    prefix: str | None = None,
    overrides: Mapping[str, str] | None = None,
    recipe: str = "paper",
    offline: bool = False,
    checkpoint: Checkpoint | None = None,
    out: Path | None = None,
) -> Imported:
    """Import a released file as weights of a method.

    Args:
        path: the file.
        spec: the method that it is a checkpoint of.
        catalogue: which holds it.
        part: what to import; None for all where the method can take all and no prefix is given, else the encoder.
        prefix: what stands before the encoder's names, where the layouts do not know it.
        overrides: "method.FIELD" -> value, as `--set`.
        recipe: that the records of these weights belong to.
        offline: do not ask a hub for anything.
        checkpoint: `path`, where it was read before.
        out: where it will be saved, to hear at once that it can not be.

    Raises:
        UsageError: the method has no released checkpoints, or not this part, or `out` can not be written.
        WeightsError: the file can not be read, does not cover what the encoder needs, or changes nothing in it.
    """
    if out is not None:
        check_writable(out)
    release = catalogue.load_released(spec.name)
    part = part or ("all" if release.whole and prefix is None else "image")
    if part == "all" and (not release.whole or prefix is not None):
        why = "--prefix is of image encoders" if release.whole else "no whole model can be imported"
        raise UsageError(f"--part all: for {spec.name} {why}. Use --part image.")
    checkpoint = checkpoint or read_checkpoint(path)
    found = _best(checkpoint, release, prefix, overrides if part == "image" else None, spec.name)
    if not found.coverage.complete:
        names = [name for tensors in checkpoint.groups.values() for name in tensors]
        for rule, why in release.refused.items():
            if any(re.search(rule, name) for name in names):
                raise WeightsError(f"{path}: {why}")
        raise _not_covered(path, spec, found, checkpoint)
    if found.others:
        raise WeightsError(
            f"{path}: holds more than one whole encoder, {found.coverage.where} and {' and '.join(found.others)};"
            f" expected to know which is meant. Name what stands before its names with --prefix."
        )
    if part == "image":
        build: Callable[[], Method] = partial(release.encoder.from_assets, found.layout.config, {})
        state, coverage = found.state, found.coverage
    else:
        method_class: type[Method] = catalogue.load("methods", spec.name)
        plain = method_class.recipes[recipe]
        group, converted, settings = _converted(path, checkpoint, release)
        config = replace(plain.config, pretrained=False, **settings)
        config = apply_overrides(replace(plain, config=config), overrides or {}, spec.name).config
        assets = _assets(release, method_class, config, offline)
        build = partial(method_class.from_assets, config, assets)
        whole = _whole(build, converted, found.layout, group)
        if not whole.coverage.complete:
            raise _not_covered(path, spec, whole, checkpoint)
        state, coverage = whole.state, whole.coverage
    _check_finite(path, state)
    method = _filled(path, build, state, whole=part == "all")
    info: dict[str, Any] = {
        "method": spec.name,
        "recipe": recipe,
        "part": part,
        "provides": sorted(spec.provides if part == "all" else _IMAGE & spec.provides),
        "fidelity": spec.fidelity,
        "medbench": version("medbench"),
        "corpus": {
            "dataset": found.layout.corpus,
            "source": "real",
            "subset": None,
            "fingerprint": "as released",
            "excluded": 0,
        },
        "released": {
            "file": path.name,
            "sha256": checkpoint.sha256,
            "bytes": path.stat().st_size,
            "kind": checkpoint.kind,
            "layout": coverage.layout,
            "where": coverage.where,
            "coverage": coverage.to_json(),
        },
    }
    return Imported(method, info, coverage)


def _best(
    checkpoint: Checkpoint,
    release: Release,
    prefix: str | None,
    overrides: Mapping[str, str] | None,
    name: str,
) -> Match:
    """The first layout that is covered wholly, else the one that is covered most."""
    best: Match | None = None
    for layout in release.layouts:
        changed = apply_overrides(Recipe(layout.config), overrides or {}, name).config
        found = match(checkpoint, release.encoder, replace(layout, config=changed), prefix)
        if found.coverage.complete:
            return found
        if best is None or found.coverage.covered / found.coverage.needed > (
            best.coverage.covered / best.coverage.needed
        ):
            best = found
    assert best is not None  # a release has layouts
    return best


def _assets(release: Release, method: type[Method], config: Any, offline: bool) -> Mapping[str, bytes]:
    """What the method is built from beside its tensors, without weights of another model where that can be."""
    module = import_module(release.whole)
    if hasattr(module, "assets"):
        found: Mapping[str, bytes] = module.assets(config, offline)
        return found
    return method.from_corpus(config, [], Setup(offline=offline)).assets()


def _whole(build: Callable[[], Method], converted: State, layout: Layout, group: str) -> Match:
    """The tensors of a whole model held against those that the method needs."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build().state_dict().items()}
    compared = compare(expected, converted, no_reshape)
    coverage = Coverage(
        layout=f"{layout.name}, the whole model",
        where=group,
        unused={},
        unexpected=dict(Counter(name.split(".")[0] for name in converted if name not in expected)),
        **compared.report,
    )
    return Match(layout, coverage, compared.state)


def _converted(path: Path, checkpoint: Checkpoint, release: Release) -> tuple[str, State, Mapping[str, Any]]:
    """The whole model by the method's own converter: from which group, its tensors, and fields of the config."""
    module = import_module(release.whole)
    group = next(name for name in (*_WHOLE, *checkpoint.groups) if name in checkpoint.groups)
    held = checkpoint.groups[group]
    try:
        settings = module.settings(held) if hasattr(module, "settings") else {}
        return group, module.convert(held), settings
    except WeightsError as error:
        raise WeightsError(f"{path}: {error} `--part image` asks for the image encoder alone.") from None


def _not_covered(path: Path, spec: "MethodSpec", found: Match, checkpoint: Checkpoint) -> WeightsError:
    held = ", ".join(f"{where} ({count})" for where, count in list(rest(checkpoint).items())[:NAMED])
    if found.coverage.another and found.coverage.covered == found.coverage.needed:
        return WeightsError(
            f"{path}: {found.coverage.another}.\n{found.coverage.text()}\nThe file holds: {held}."
        )
    return WeightsError(
        f"{path}: covers {found.coverage.covered} of {found.coverage.needed} tensors that the encoder of {spec.name}"
        f" needs, expected all; nothing is left at random.\n{found.coverage.text()}\n"
        f"The file holds: {held}.\nSee `medbench weights inspect {path.name}`: another --method may fit, or name"
        f" what stands before the encoder's names with --prefix."
    )


def _check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    bad = [name for name, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise WeightsError(
            f"{path}: {bad[0]}{f' and {len(bad) - 1} more tensors hold' if len(bad) > 1 else ' holds'} values that are"
            f" no numbers, expected finite weights. Download the file again, or ask for an earlier checkpoint."
        )


def _filled(path: Path, build: Callable[[], Method], state: Mapping[str, Tensor], whole: bool) -> Method:
    """The method with these tensors, seen to behave otherwise than a random one."""
    seed_everything(derive_seed(0, "init"))
    method = build().eval()
    size = method.model.preprocessing.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    text = method.model.tokenize(_PROBES) if whole else None

    def seen() -> dict[str, Tensor]:
        pooled = {"image": method.model.encode_image(images).pooled}
        return pooled if text is None else {**pooled, "text": method.model.encode_text(text).pooled}

    with torch.no_grad():
        before = seen()
        method.load_state_dict(dict(state))
        after = seen()
    for what, features in after.items():
        who = "the encoder" if what == "image" else "the text encoder"
        if not torch.isfinite(features).all():
            raise WeightsError(
                f"{path}: {who} gives features that are no numbers. Is the file whole, and of this method?"
            )
        if torch.allclose(before[what], features, rtol=1e-3, atol=1e-5):
            raise WeightsError(
                f"{path}: {who} gives the same features as one with random weights, expected others. The file seems to"
                f" hold an untrained model; ask for another one."
            )
        if torch.equal(features[0], features[1]):
            raise WeightsError(
                f"{path}: {who} gives the same features for two different {what}s. The file seems to hold a collapsed"
                f" or empty model; ask for another one."
            )
    return method


def method_of(catalogue: "Catalogue", name: str, info: Mapping[str, Any]) -> type[Method]:
    """The class that weights of a method are loaded into: its own, or its encoder where only that was imported.

    Args:
        catalogue: which holds the method.
        name: of the method.
        info: what weights.json says.

    Raises:
        WeightsError: the weights are an image encoder's, and this version knows no such encoder of the method.
    """
    if info.get("part") != "image":
        found: type[Method] = catalogue.load("methods", name)
        return found
    if not catalogue.lookup_method(name).released:
        raise WeightsError(
            f"weights of the image encoder of {name}, imported from a released file; in this version {name} has no"
            f" released checkpoints. Use the version of medbench that wrote them."
        )
    return catalogue.load_released(name).encoder


def nearest_released(name: str, catalogue: "Catalogue") -> "MethodSpec":
    """The spec of a method that has released checkpoints.

    Raises:
        UsageError: there is no such method, or it has none.
    """
    spec = catalogue.lookup_method(name)
    if spec.released:
        return spec
    known = sorted(n for n, s in catalogue.methods.items() if s.released)
    hint = did_you_mean(name, known)
    raise UsageError(
        f"{name} has no released checkpoints that are known here.{hint} Methods with some: {', '.join(known)}."
    )
