"""Released checkpoints: tensors under the authors' names become weights of medbench's own, or an error says what lacks.

A method says in its spec (`released`) where its `Release` is: the encoder that such files are imported into, and the
layouts that they come in. A layout is data and at most one renaming function, so that each can be read in a minute.
Every tensor that the encoder needs must come from the file; nothing is ever left at its random start.
"""

import difflib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from medbench import weights
from medbench.checkpoints import Checkpoint, read_checkpoint
from medbench.errors import UsageError, WeightsError
from medbench.files import sha256_file
from medbench.method import Method, Recipe, Setup
from medbench.overrides import apply_overrides
from medbench.records import sha256_json
from medbench.seeding import derive_seed, seed_everything
from medbench.weights import Weights, tensors_sha256

if TYPE_CHECKING:
    from medbench.plugins import Catalogue
    from medbench.specs import MethodSpec

State = dict[str, Tensor]

Part = Literal["image", "all"]
"""What of a released model is imported: its image encoder alone, or the whole model with its text half."""

COUNTERS: Final = "num_batches_tracked"
"""Of BatchNorm: steps it was trained for. It changes no output, old files lack it, so it is filled with 0."""

_FLOATING: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_COUNTED: Final = _FLOATING | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Types of numbers that parameters, and counters of BatchNorm, are taken from."""

_NAMED = 8  # how many names an error lists


def _as_they_are(state: State) -> State:
    return state


def _no_reshape(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one family of released files names and shapes the tensors of an image encoder.

    Attributes:
        name: model and backbone, for the report.
        source: where the layout and the preprocessing are known from.
        corpus: what the released model was pretrained on; goes into records.
        config: of `Release.encoder`: backbone and preprocessing.
        groups: keys of the file's outermost dict to look under, in this order; "" for tensors at the top.
        prefixes: what may stand before a name, tried in this order, each also with `module.` before it.
        rename: from the names behind the prefix to those of the encoder; may join and split tensors.
        reshape: (name, tensor, expected shape) -> the tensor in that shape, or None if it can not be.
        unused: names behind the prefix that are known and not needed (regular expression), with the reason.
        into: what stands before the encoder's own names in the method's state dict.
        anchor: a name behind the prefix by which the prefix is found in any file, where `prefixes` is empty.
        signs: where a prefix of `prefixes` alone could be any model's: by the prefix, what some name of the file, or a
            part behind a dot of it, must begin with (regular expression). Not asked where the user names the prefix.
        stored: names behind the prefix that tell this model by their shape, and this shape.
    """

    name: str
    source: str
    corpus: str
    config: Any
    prefixes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("state_dict", "model", "")
    rename: Callable[[State], State] = _as_they_are
    reshape: Callable[[str, Tensor, torch.Size], Tensor | None] = _no_reshape
    unused: Mapping[str, str] = field(default_factory=dict)
    into: str = "model.image_encoder.body."
    anchor: str = ""
    signs: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """Its name without the backbone."""
        return self.name.split(",")[0]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a method's released files are imported into.

    Attributes:
        encoder: a method of the image encoder alone.
        layouts: most specific first; the first one that a file covers wholly is taken.
        whole: a module that turns the whole released model into the method's own: `convert(state)` gives tensors by the
            names of the method's `state_dict()`, and `settings(state)`, where there is one, fields of its config that
            the file asks for, and `assets(config, offline)`, where there is one, what `Method.from_assets` takes, got
            without weights that would only be written over. "" where only the image encoder can be imported.
        refused: names in files of this method that can not be imported (regular expression), with the reason.
    """

    encoder: type[Method]
    layouts: tuple[Layout, ...]
    whole: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Coverage:
    """What of an encoder came from a file, and what of the file did not go into it.

    Attributes:
        layout: its name.
        where: the group and the prefix that the names stand behind.
        needed: tensors that the encoder needs.
        matched: names (the encoder's) whose tensor is in the file in the expected shape.
        reshaped: name -> from which shape to which.
        missing: names that the file does not hold.
        shapes: name -> found and expected shape, where they do not fit.
        filled: counters of BatchNorm that the file lacks.
        unused: what is known and left out: reason -> tensors.
        unexpected: the rest of the file, by where it stands -> tensors.
        another: why the file is not taken for this model although names fit; "" where it is.
    """

    layout: str
    where: str
    needed: int
    matched: tuple[str, ...]
    reshaped: Mapping[str, str]
    missing: tuple[str, ...]
    shapes: Mapping[str, str]
    filled: int
    unused: Mapping[str, int]
    unexpected: Mapping[str, int]
    another: str = ""

    @property
    def covered(self) -> int:
        """Tensors of the encoder that come from the file."""
        return len(self.matched) + len(self.reshaped)

    @property
    def complete(self) -> bool:
        """Whether every tensor that the encoder needs comes from the file, and the file is this model's."""
        return self.covered == self.needed and not self.another

    def to_json(self) -> dict[str, Any]:
        """For weights.json; matched names are the encoder's own and stay out."""
        return {
            "needed": self.needed,
            "matched": len(self.matched),
            "reshaped": dict(self.reshaped),
            "missing": list(self.missing),
            "shapes": dict(self.shapes),
            "filled": self.filled,
            "unused": dict(self.unused),
            "unexpected": dict(self.unexpected),
            **({"another": self.another} if self.another else {}),
        }

    def text(self) -> str:
        """The report, in lines."""
        lines = [
            f"layout:      {self.layout}",
            f"found under: {self.where or 'the top of the file'}",
            f"matched:     {len(self.matched)} of {self.needed} tensors that the encoder needs",
            *(f"reshaped:    {name} {how}" for name, how in self.reshaped.items()),
            *([f"not taken:   {self.another}"] if self.another else []),
        ]
        lines += [f"missing:     {name}" for name in self.missing[:_NAMED]]
        if len(self.missing) > _NAMED:
            lines.append(f"             and {len(self.missing) - _NAMED} more")
        lines += [f"shape:       {name} {how}" for name, how in list(self.shapes.items())[:_NAMED]]
        if self.filled:
            lines.append(f"filled:      {self.filled} counters of BatchNorm, which change no output, with 0")
        lines += [f"left out:    {count} tensors: {why}" for why, count in self.unused.items()]
        lines += [f"unexpected:  {count} tensors below {where}" for where, count in self.unexpected.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Match:
    """A layout held against a file.

    Attributes:
        layout: with the config that was used.
        coverage: the report.
        state: tensors by name of the method's state dict; complete only if `coverage.complete`.
        others: further places that a layout without prefixes of its own covers wholly.
    """

    layout: Layout
    coverage: Coverage
    state: Mapping[str, Tensor]
    others: tuple[str, ...] = ()


@cache
def _expected(encoder: type[Method], config: Any) -> dict[str, torch.Size]:
    """Names and shapes of an encoder's tensors, without memory for them."""
    with torch.device("meta"):
        return {name: t.shape for name, t in encoder.from_assets(config, {}).state_dict().items()}


def match(checkpoint: Checkpoint, encoder: type[Method], layout: Layout, prefix: str | None = None) -> Match:
    """Hold one layout against a file, at the place where it covers most.

    Args:
        checkpoint: the file.
        encoder: what is imported into.
        layout: one of its layouts.
        prefix: the user's, instead of the layout's; it is then looked for in every group.
    """
    expected = {
        name.removeprefix(layout.into): shape for name, shape in _expected(encoder, layout.config).items()
    }
    groups = layout.groups if prefix is None else tuple(checkpoint.groups)
    found = [
        _match_at(checkpoint, layout, expected, group, start, prefix is not None)
        for group in groups
        if group in checkpoint.groups
        for start in _starts(checkpoint.groups[group], layout, prefix)
    ]
    if not found:
        compared = _compare(expected, {}, layout.reshape)
        coverage = Coverage(layout=layout.name, where="nothing", unused={}, unexpected={}, **compared.report)
        return Match(layout, coverage, {})
    # Of equal ones the first; one that is another model's only where there is no other.
    best = max(found, key=lambda m: (m.coverage.complete, m.coverage.covered))
    others = [m.coverage.where for m in found if m.coverage.complete and m is not best]
    return replace(best, others=tuple(others) if layout.anchor else ())


def _starts(held: Mapping[str, Tensor], layout: Layout, prefix: str | None) -> Iterator[str]:
    """What the encoder's names may stand behind, in the order in which it is tried."""
    if prefix is None and layout.anchor:
        heads = dict.fromkeys(n.removesuffix(layout.anchor) for n in held if n.endswith(layout.anchor))
        yield from (head for head in heads if not head or head.endswith((".", "/")))
        return
    for known in layout.prefixes if prefix is None else (prefix,):
        start = f"{known}." if known and not known.endswith((".", "/")) else known
        yield start
        yield f"module.{start}"  # DistributedDataParallel's


def _match_at(
    checkpoint: Checkpoint,
    layout: Layout,
    expected: Mapping[str, torch.Size],
    group: str,
    prefix: str,
    asked: bool,
) -> Match:
    """Hold a layout against one place of a file; `asked` says that the user named the prefix."""
    held = checkpoint.groups[group]
    below = {name[len(prefix) :]: tensor for name, tensor in held.items() if name.startswith(prefix)}
    unused: Counter[str] = Counter()
    kept: State = {}
    for name, tensor in below.items():
        why = next((why for rule, why in layout.unused.items() if re.match(rule, name)), None)
        if why is None:
            kept[name] = tensor
        else:
            unused[why] += 1
    renamed = layout.rename(kept)
    compared = _compare(expected, renamed, layout.reshape, layout.stored)
    surplus = Counter(prefix + name.split(".")[0] for name in renamed if name not in expected)
    coverage = Coverage(
        layout=layout.name,
        where=_place(layout, group, prefix),
        unused=dict(unused),
        unexpected={**surplus, **_rest(checkpoint, group, {prefix + name for name in below})},
        another=_another(layout, expected, renamed, held, None if asked else prefix),
        **compared.report,
    )
    return Match(layout, coverage, {layout.into + name: tensor for name, tensor in compared.state.items()})


def _place(layout: Layout, group: str, prefix: str) -> str:
    where = f"{group + ': ' if group else ''}{prefix + '*' if prefix else 'names without a prefix'}"
    told = layout.anchor or "" in layout.signs or prefix not in ("", "module.")
    return where if told else f"{where}: nothing in the file says that it is {layout.model}"


_BLOCK: Final = re.compile(r"(blocks\.\d+|layer\d\.\d+|layers\.\d+\.blocks\.\d+)\.")
"""Of a net in timm's names: where a block begins."""


def _another(
    layout: Layout,
    expected: Mapping[str, torch.Size],
    renamed: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    prefix: str | None,
) -> str:
    """Why a file whose names fit is another model's; "" if nothing speaks against it.

    Args:
        layout: that it is held against.
        expected: what the encoder needs.
        renamed: what is behind the prefix, in the encoder's names.
        held: the whole group.
        prefix: None where the user named it.
    """
    if layout.anchor:
        return ""
    known = {block[0] for name in expected if (block := _BLOCK.match(name))}
    deeper = {block[0]: None for name in renamed if (block := _BLOCK.match(name)) and block[0] not in known}
    if deeper:
        return f"the net in the file is deeper than {layout.model}'s (it has {next(iter(deeper))}*): another model"
    sign = None if prefix is None else layout.signs.get(prefix.removeprefix("module.").rstrip("."))
    if sign is not None and not any(re.search(rf"(^|\.)({sign})", name) for name in held):
        return (
            f"nothing in the file says that it is {layout.model}: expected names that begin with {sign}. If you know"
            f" that it is, say what stands before the encoder's names: --prefix '{prefix}'"
        )
    return ""


@dataclass(frozen=True)
class _Compared:
    state: State
    report: dict[str, Any]
    """Fields of `Coverage`."""


def _compare(
    expected: Mapping[str, torch.Size],
    found: Mapping[str, Tensor],
    reshape: Callable[[str, Tensor, torch.Size], Tensor | None],
    stored: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> _Compared:
    """What of the expected tensors is found, as it is or in another shape; all but counters must be floating point."""
    state: State = {}
    matched, missing, filled = [], [], 0
    reshaped: dict[str, str] = {}
    shapes: dict[str, str] = {}
    for name, shape in expected.items():
        tensor = found.get(name)
        if tensor is None and name.endswith(COUNTERS):
            filled += 1
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif tensor is None:
            missing.append(name)
        elif tuple(tensor.shape) != stored.get(name, tuple(tensor.shape)):
            shapes[name] = f"{tuple(tensor.shape)}, expected {stored[name]}"
        elif tensor.dtype not in (_COUNTED if name.endswith(COUNTERS) else _FLOATING):
            kind = str(tensor.dtype).removeprefix("torch.")
            shapes[name] = f"numbers of type {kind}, expected floating point of 16 to 64 bits"
        elif tensor.shape == shape:
            matched.append(name)
            state[name] = tensor
        else:
            fitting = _squeezed(tensor, shape)
            fitting = reshape(name, tensor, shape) if fitting is None else fitting
            if fitting is None:
                shapes[name] = f"{tuple(tensor.shape)}, expected {tuple(shape)}"
            else:
                reshaped[name] = f"{tuple(tensor.shape)} -> {tuple(shape)}"
                state[name] = fitting
    report = {
        "needed": len(expected) - filled,
        "matched": tuple(matched),
        "reshaped": reshaped,
        "missing": tuple(missing),
        "shapes": shapes,
        "filled": filled,
    }
    return _Compared(state, report)


def _squeezed(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The tensor with axes of length 1 added or taken away."""
    same = [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]
    return tensor.reshape(shape) if same else None


def _rest(checkpoint: Checkpoint, group: str = "", taken: Set[str] = frozenset()) -> dict[str, int]:
    """What else a file holds: where it stands -> tensors."""
    counts: Counter[str] = Counter()
    for where, tensors in checkpoint.groups.items():
        for name in tensors:
            if where != group or name not in taken:
                parts = re.split(r"[./]", name)
                head = ".".join(parts[: 2 if parts[0] == "module" else 1])
                counts[_short(f"{where + ': ' if where else ''}{head}")] += 1
    return dict(counts)


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
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in build().state_dict().items()}
        compared = _compare(expected, converted, _no_reshape)
        state = compared.state
        coverage = Coverage(
            layout=f"{found.coverage.layout}, the whole model",
            where=group,
            unused={},
            unexpected=dict(Counter(name.split(".")[0] for name in converted if name not in expected)),
            **compared.report,
        )
        if not coverage.complete:
            raise _not_covered(path, spec, Match(found.layout, coverage, {}), checkpoint)
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


_IMAGE: Final = frozenset({"image.pooled", "image.local", "image.pyramid"})


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


_WHOLE: Final = ("state_dict", "model", "")
"""Where the tensors of a whole model are looked for first."""


def _not_covered(path: Path, spec: "MethodSpec", found: Match, checkpoint: Checkpoint) -> WeightsError:
    held = ", ".join(f"{where} ({count})" for where, count in list(_rest(checkpoint).items())[:_NAMED])
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


_PROBES: Final = [["no focal consolidation", "the heart is enlarged"], ["small left pleural effusion"]]


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


def _short(name: str) -> str:
    """A name that fits into a table, where a file has a monstrous one."""
    return name if len(name) <= 80 else f"{name[:60]}…{name[-19:]}"


def prefixes(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """A file's tensors grouped by the first parts of their names, for a table."""
    rows: dict[tuple[str, str], list[tuple[str, Tensor]]] = {}
    for group, tensors in checkpoint.groups.items():
        for name, tensor in tensors.items():
            parts = re.split(r"[./]", name)
            depth = 3 if parts[0] == "module" else 2
            head = ".".join(parts[:depth]) if len(parts) > depth else ".".join(parts[:-1])
            rows.setdefault((group, head), []).append((name, tensor))
    return [
        {
            "group": _short(group) or "-",
            "prefix": _short(head) or "-",
            "tensors": str(len(held)),
            "numbers": f"{sum(t.numel() for _, t in held):,}",
            "dtype": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for _, t in held})),
            "first": f"{_short(held[0][0])} {tuple(held[0][1].shape)}",
        }
        for (group, head), held in rows.items()
    ]


def matching(
    checkpoint: Checkpoint, catalogue: "Catalogue", prefix: str | None = None
) -> list[dict[str, str]]:
    """How far every layout of the catalogue covers its encoder with a file, the best first, for a table."""
    found = [
        (name, match(checkpoint, release.encoder, layout, prefix).coverage)
        for name, spec in catalogue.methods.items()
        if spec.released
        for release in (catalogue.load_released(name),)
        for layout in release.layouts
    ]
    found.sort(key=lambda pair: -pair[1].covered / pair[1].needed)
    return [
        {
            "method": name,
            "layout": coverage.layout,
            "covered": f"{coverage.covered} of {coverage.needed}",
            "where": coverage.where,
        }
        for name, coverage in found
        if coverage.covered
    ]


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
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(
        f"{name} has no released checkpoints that are known here.{hint} Methods with some: {', '.join(known)}."
    )
