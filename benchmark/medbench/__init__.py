"""medbench: a benchmark of medical vision-language pretraining on chest radiographs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medbench.loading import LoadedMethod

__version__ = "0.1.0"

API_VERSION = 1
"""Of what docs/api.md promises; raised when something that worked before no longer does."""


def load(
    method: str,
    checkpoint: str | Path | None = None,
    *,
    recipe: str | None = None,
    reports: Sequence[str] | None = None,
    seed: int | None = None,
    device: str = "cpu",
    offline: bool = False,
    part: str | None = None,
    prefix: str | None = None,
    **config: Any,
) -> "LoadedMethod":
    """A method for a notebook or a script: encoders, preprocessing and losses.

    Args:
        method: a name of `medbench list methods`.
        checkpoint: a folder of finished weights, or a file that the method's authors released; None for fresh weights.
        recipe: only for fresh weights: `tiny` (None), `paper` or `micro`.
        reports: only for fresh weights: texts that a vocabulary is learnt from, where the text encoder starts from
            scratch; None for phantom reports.
        seed: only for fresh weights; None for 0.
        device: `cpu`, `cuda` or `cuda:n`.
        offline: ask no hub for anything.
        part: only for a released file: `image` for the encoder alone, `all` for the whole model; None for all of it
            where the method can take it.
        prefix: only for a released file: what stands before the encoder's names in it; None to look for it.
        **config: fields of the method's config (`medbench info NAME --recipe tiny` lists them). Finished weights bring
            their own, so none may be given with them.

    Raises:
        UsageError: an unknown name, recipe or field, or an argument that the checkpoint leaves no room for.
        WeightsError: the weights can not be read, or lack something.
    """
    from medbench.loading import load as load_method  # torch is imported here, and not by `import medbench`

    return load_method(
        method,
        checkpoint,
        recipe=recipe,
        reports=reports,
        seed=seed,
        device=device,
        offline=offline,
        part=part,
        prefix=prefix,
        config=config,
    )
