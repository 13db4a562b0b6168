"""Layouts of released checkpoints, and how far a file covers one.

A method says in its spec (`released`) where its `Release` is: the encoder that such files are imported into, and the
layouts that they come in. A layout is data and at most one renaming function, so that each can be read in a minute.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from medbench.checkpoints import Checkpoint
from medbench.method import Method

State = dict[str, Tensor]

COUNTERS: Final = "num_batches_tracked"
"""Of BatchNorm: steps it was trained for. It changes no output, old files lack it, so it is filled with 0."""

_FLOATING: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_COUNTED: Final = _FLOATING | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Types of numbers that parameters, and counters of BatchNorm, are taken from."""

NAMED: Final = 8
"""How many names an error lists."""


def _as_they_are(state: State) -> State:
    return state


def no_reshape(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Only the expected shape will do."""
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
    reshape: Callable[[str, Tensor, torch.Size], Tensor | None] = no_reshape
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
        lines += [f"missing:     {name}" for name in self.missing[:NAMED]]
        if len(self.missing) > NAMED:
            lines.append(f"             and {len(self.missing) - NAMED} more")
        lines += [f"shape:       {name} {how}" for name, how in list(self.shapes.items())[:NAMED]]
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
def expected_by(encoder: type[Method], config: Any) -> dict[str, torch.Size]:
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
        name.removeprefix(layout.into): shape for name, shape in expected_by(encoder, layout.config).items()
    }
    groups = layout.groups if prefix is None else tuple(checkpoint.groups)
    found = [
        _match_at(checkpoint, layout, expected, group, start, prefix is not None)
        for group in groups
        if group in checkpoint.groups
        for start in _starts(checkpoint.groups[group], layout, prefix)
    ]
    if not found:
        compared = compare(expected, {}, layout.reshape)
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
    compared = compare(expected, renamed, layout.reshape, layout.stored)
    surplus = Counter(prefix + name.split(".")[0] for name in renamed if name not in expected)
    coverage = Coverage(
        layout=layout.name,
        where=_place(layout, group, prefix),
        unused=dict(unused),
        unexpected={**surplus, **rest(checkpoint, group, {prefix + name for name in below})},
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
class Compared:
    """Expected tensors held against found ones.

    Attributes:
        state: those that fit, by name.
        report: fields of `Coverage`.
    """

    state: State
    report: dict[str, Any]


def compare(
    expected: Mapping[str, torch.Size],
    found: Mapping[str, Tensor],
    reshape: Callable[[str, Tensor, torch.Size], Tensor | None],
    stored: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Compared:
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
    return Compared(state, report)


def _squeezed(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The tensor with axes of length 1 added or taken away."""
    same = [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]
    return tensor.reshape(shape) if same else None


def rest(checkpoint: Checkpoint, group: str = "", taken: Set[str] = frozenset()) -> dict[str, int]:
    """What else a file holds: where it stands -> tensors."""
    counts: Counter[str] = Counter()
    for where, tensors in checkpoint.groups.items():
        for name in tensors:
            if where != group or name not in taken:
                parts = re.split(r"[./]", name)
                head = ".".join(parts[: 2 if parts[0] == "module" else 1])
                counts[short(f"{where + ': ' if where else ''}{head}")] += 1
    return dict(counts)


def short(name: str) -> str:
    """A name that fits into a table, where a file has a monstrous one."""
    return name if len(name) <= 80 else f"{name[:60]}…{name[-19:]}"
