"""What is in a checkpoint file and which layouts fit it: the tables of `medbench weights inspect`."""

import re

from torch import Tensor

from medbench.checkpoints import Checkpoint
from medbench.plugins import Catalogue
from medbench.released import match, short


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
            "group": short(group) or "-",
            "prefix": short(head) or "-",
            "tensors": str(len(held)),
            "numbers": f"{sum(t.numel() for _, t in held):,}",
            "dtype": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for _, t in held})),
            "first": f"{short(held[0][0])} {tuple(held[0][1].shape)}",
        }
        for (group, head), held in rows.items()
    ]


def matching(checkpoint: Checkpoint, catalogue: Catalogue, prefix: str | None = None) -> list[dict[str, str]]:
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
