"""What a method is: model + losses + optimiser defaults. The training engine knows no more than this."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, get_args

import torch
from torch import Tensor, nn

from medbench.data.reports import CLEANINGS, DEFAULT_CLEANING
from medbench.errors import UsageError
from medbench.model import ImageTextBatch, VisionLanguageModel

FROM_DISK: Final = "from_disk"


def from_disk(*other: str) -> dict[str, Any]:
    """Metadata of a config field that may name a file or a folder, whose content then belongs to the weights' key.

    Args:
        other: values that stand for something else, whatever lies under that name.
    """
    return {FROM_DISK: other}


ADDED_LATER: Final = {"added_later": True}
"""Metadata of a config field that came after weights and records had been made: at its default it is left out of their
keys, so that they are found again."""

SAME_NUMBERS: Final = {"same_numbers": True}
"""Metadata of a config field that says how numbers are computed, not which: the same come out, up to rounding. It is in
no key and in no record's identity; weights.json says it under `computed`."""

Schedule = Literal["cosine", "plateau", "restarts"]

Keep = Literal["best", "last"]


@dataclass(frozen=True)
class PretrainConfig:
    """Optimisation of a pretraining run: AdamW, linear warm-up, and a schedule for what follows.

    Attributes:
        epochs: at most; early stopping may end sooner.
        batch_size: pairs a batch, over all processes that train together. A corpus smaller than this is one batch.
        accumulate: batches summed into one optimiser step.
        lr: peak learning rate.
        final_lr: the lowest learning rate after the warm-up: at the end of the cosine, or of each of its cycles; a
            plateau does not lower it further.
        warmup: share of all steps with linear warm-up, 0 to 1.
        schedule: after the warm-up, `cosine`: one half cosine over the rest of the run. `restarts`: half cosines one
            after the other, each from `lr` again. `plateau`: `lr`, lowered where the validation loss of an epoch no
            longer gets better, counted as torch's `ReduceLROnPlateau` does; refused without validation pairs.
        plateau_factor: what a plateau multiplies the learning rate by; of that schedule alone.
        plateau_patience: epochs without a better validation loss that it lets pass; one more lowers the rate.
        restart_epochs: epochs of the first cycle of `restarts`; of that schedule alone.
        restart_factor: how many times as long as the one before each further cycle is.
        betas: of AdamW.
        weight_decay: of AdamW, on every parameter.
        clip_gradient: maximal gradient norm; None for no clipping.
        patience: epochs without a better validation loss before training stops; None to run them all.
        keep: whose weights count, those of the epoch with the `best` validation loss or of the `last` epoch. Without
            validation pairs it is the last in any case.
        cleaning: how the corpus' reports are read, `mgca` or `clean` (docs/reports.md).
        checkpointing: compute activations of the encoders again backward instead of keeping them (docs/memory.md).
        compile: let torch compile the losses; refused where it can not as one graph (docs/distributed.md).
    """

    epochs: int
    batch_size: int
    lr: float
    accumulate: int = 1
    final_lr: float = 1e-8
    warmup: float = 0.4
    schedule: Schedule = "cosine"
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    restart_epochs: int = 10
    restart_factor: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    clip_gradient: float | None = None
    patience: int | None = 5
    keep: Keep = field(default="best", metadata=ADDED_LATER)
    cleaning: str = field(default=DEFAULT_CLEANING, metadata=ADDED_LATER)
    checkpointing: bool = field(default=False, metadata=SAME_NUMBERS)
    compile: bool = field(default=False, metadata=SAME_NUMBERS)

    def __post_init__(self) -> None:
        """Refuse what can not be run.

        Raises:
            UsageError: it names the field, what was found and what is possible.
        """
        counts = ("epochs", "accumulate", "patience", "restart_epochs", "restart_factor")
        # Batch statistics and contrasts are over the pairs of a batch; of one pair there are none.
        for name, least in (*((name, 1) for name in counts), ("plateau_patience", 0), ("batch_size", 2)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UsageError(f"pretrain.{name} is {value}; expected at least {least}.")
        words = {"schedule": get_args(Schedule), "keep": get_args(Keep), "cleaning": CLEANINGS}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"pretrain.{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}."
                )
        finite = math.isfinite  # a comparison with NaN is never true, but infinity passes one
        clip = self.clip_gradient
        betas: Sequence[float] = self.betas
        wrong = {
            "lr": (not (self.lr > 0 and finite(self.lr)), "a number above 0"),
            "final_lr": (not 0 <= self.final_lr <= self.lr, f"0 to pretrain.lr ({self.lr})"),
            "warmup": (not 0 <= self.warmup <= 1, "a share of the steps, 0 to 1"),
            "plateau_factor": (not 0 < self.plateau_factor < 1, "a number above 0 and below 1"),
            "betas": (
                len(betas) != 2 or not all(0 <= beta < 1 for beta in betas),
                "two numbers of at least 0 and below 1",
            ),
            "weight_decay": (
                not (self.weight_decay >= 0 and finite(self.weight_decay)),
                "a number of at least 0",
            ),
            "clip_gradient": (
                clip is not None and not (clip > 0 and finite(clip)),
                "a number above 0, or none",
            ),
        }
        for name, (refused, expected) in wrong.items():
            if refused:
                raise UsageError(f"pretrain.{name} is {getattr(self, name)}; expected {expected}.")


@dataclass(frozen=True)
class Recipe:
    """One size of a method: `tiny`, `paper` or `micro`. `config` is the method's own frozen dataclass."""

    config: Any
    pretrain: PretrainConfig | None = None


def _quietly(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Setup:
    """Where and how a method is built: what is no part of its config.

    Attributes:
        seed: of the run. torch is seeded from it before a method is built; what is learnt from text alone and kept
            in `store` draws from a generator of its own, so that finding it there changes nothing that comes after.
        device: where work may be done while building; the method itself is returned on the CPU.
        offline: do not ask a hub for anything.
        store: folder for what is learnt from the reports alone, shared by the methods; None to keep nothing.
        say: takes a line for the user.
        times: seconds that were spent on what is learnt from the reports alone, by name; what is found in
            `store` counts as when it was made.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    offline: bool = False
    store: Path | None = None
    say: Callable[[str], None] = _quietly
    times: dict[str, float] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """Base of a method.

    The engine seeds torch from (seed, step) before every call of `losses`, so a method may draw random numbers
    (masks, dropout) with torch's default generator and a resumed run draws the same ones.

    Attributes:
        recipes: by name; every method has `tiny`, `paper` and `micro`.
        ablations: parts that can be left out, each with the fields that do it, as `--set` takes them
            ("method.pcma_weight": "0"); a part's name is made of lower-case letters, digits, `-` and `_`.
        config: the resolved config this instance was built from.
        model: the encoders that tasks ask for features. All weights that tasks need live below it.
    """

    recipes: ClassVar[Mapping[str, Recipe]]
    ablations: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    config: Any
    model: VisionLanguageModel

    @classmethod
    @abstractmethod
    def from_corpus(cls, config: Any, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """Build with fresh weights; what has to be learnt from text alone (a vocabulary) is learnt from `reports`.

        Args:
            config: an instance of this method's config.
            reports: the training reports, each a list of sentences; empty for a method without text.
            setup: seed, device, and where to keep what other methods can use too.
        """

    @classmethod
    @abstractmethod
    def from_assets(cls, config: Any, assets: Mapping[str, bytes]) -> Self:
        """Build the same architecture for weights that are loaded next; `assets` is what `assets()` gave.

        Asks no hub: a config and the assets are all it needs.
        """

    def assets(self) -> Mapping[str, bytes]:
        """Files that belong to the weights, by name (a tokenizer). Default: none."""
        return {}

    def report_vectors(self, reports: Sequence[Sequence[str]]) -> Tensor | None:
        """One vector a report that training does not change, for losses that compare reports. Default: none.

        The engine asks before the first step, once for the training and once for the validation reports, while the
        method is on the CPU. The rows of a batch's pairs come back as `ImageTextBatch.report_vectors`.

        Returns:
            (N, R) float32 on the CPU, or None where no loss needs it.
        """
        return None

    @property
    def film_scale(self) -> int:
        """How many times as large as what the model sees the films of training batches are. Default: 1.

        For losses that ask for more detail than the encoder gets. Tasks give films of the model's own size.
        """
        return 1

    @abstractmethod
    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms of the loss by name, already weighted: their sum is minimised.

        Args:
            batch: pairs on this method's device.
            epoch: from 0, for terms that start late.
        """
