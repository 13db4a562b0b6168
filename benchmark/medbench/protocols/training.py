"""Epochs over a label fraction: order, early stop on validation, the best state, and going on after a kill.

Every protocol that trains by steps does it here. What a step and a validation are is the protocol's business.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medbench.files import replacing
from medbench.seeding import derive_seed
from medbench.task import Environment

Rows = npt.NDArray[np.int64]

Step = Callable[[Rows, torch.Generator], Tensor]
"""(rows of the index, a generator of the CPU that no other batch has) -> the loss, a scalar with a gradient."""


@dataclass(frozen=True)
class Schedule:
    """Optimisation at one amount of labels: a constant rate, early stop on validation."""

    up_to: float
    """Share of the training split, 0 to 1, up to which it holds."""
    lr: float
    """Learning rate."""
    batch_size: int
    """Films a step."""
    epochs: int
    """At most."""
    validate_every: int
    """Epochs between validations; the last epoch is always validated."""
    patience: int
    """Validations without a better score before training stops."""


def schedule_for(schedules: Sequence[Schedule], train: int, whole: int) -> Schedule:
    """The schedule for `train` films of a training split of `whole`; `schedules` rise in `up_to`, the last has 1."""
    return next(s for s in schedules if train <= s.up_to * whole)


class Training:
    """A module on its way: what a checkpoint holds, and how it goes on.

    Attributes:
        epoch: finished ones.
        validations: done so far.
        best: `score` and `epoch` of the best validation, and the `state` of the module then.

    Args:
        name: of the protocol, one word or two ("detection"); part of seeds and of the checkpoint's name.
        module: everything whose state is trained, on `env.device`. Train and eval mode are the business of `step` and
            `validate`.
        optimiser: over its parameters.
        schedule: when to stop.
        train: rows of the index to train on.
        seed: of the order and of what `step` draws.
        env: everything in it is used.
        key: JSON values that tell this training from every other in `env.workdir`: the config, a digest of the encoder,
            the trial.
        step: the loss of a batch; see `Step`. It must not draw from torch's global generator.
        validate: the score of the module as it is, higher is better.
        drop_last: leave out a last batch that is smaller than the others (unless it is the only one).
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: Schedule,
        train: Rows,
        seed: int,
        env: Environment,
        key: Mapping[str, Any],
        *,
        step: Step,
        validate: Callable[[], float],
        drop_last: bool = False,
    ) -> None:
        self.name, self.module, self.optimiser, self.schedule = name, module, optimiser, schedule
        self.train, self.seed, self.env = train, seed, env
        self.drop_last = drop_last
        self._step, self._validate_module = step, validate
        self.epoch = 0
        self.validations = 0
        self.best: dict[str, Any] = {"score": -torch.inf, "epoch": 0, "state": {}}
        self._stale = 0  # validations since the best
        parts = {
            "key": dict(key),
            "schedule": asdict(schedule),
            "train": hashlib.sha256(train.tobytes()).hexdigest(),
            "seed": seed,
            "device": env.device.type,
            "precision": env.precision,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        self.path = env.workdir / f"{name.replace(' ', '-')}-{digest[:24]}.pt"

    def run(self) -> None:
        """Train to the end, from the last validation of a killed run if there was one, and load the best state.

        Raises:
            FloatingPointError: the loss is no longer finite, or no validation gave a number.
        """
        self._resume()
        films, schedule = len(self.train), self.schedule
        what, total = f"training {self.name} on {films:,} films", schedule.epochs * films
        with self.env.progress.track(what, total, "films", self.epoch * films) as advance:
            while self.epoch < schedule.epochs and self._stale < schedule.patience:
                loss = torch.zeros((), device=self.env.device)
                for number, rows in enumerate(self._batches()):
                    loss += self._update(rows, number)
                    advance(len(rows), f"best {self.best['score']:.3f}" if self.validations else "")
                self.epoch += 1
                if not torch.isfinite(loss):  # asked once an epoch: asking waits for the device
                    raise FloatingPointError(
                        f"the loss of {self.name} is no longer finite in epoch {self.epoch} at learning rate "
                        f"{schedule.lr}, precision {self.env.precision}"
                    )
                if self.epoch % schedule.validate_every == 0 or self.epoch == schedule.epochs:
                    self._validate()
                    self._save()
        if not self.best["state"]:
            raise FloatingPointError(
                f"none of the {self.validations} validations of {self.name} gave a number, so no state can be chosen: "
                f"what it predicts on validation films is not finite, at learning rate {schedule.lr}, precision "
                f"{self.env.precision}"
            )
        self.module.load_state_dict(self.best["state"])

    def search(self, metric: str) -> dict[str, Any]:
        """What was chosen, for the record.

        Args:
            metric: what `validate` gives, as in "map_40_75".
        """
        return {
            "grid": {"epoch": f"every {self.schedule.validate_every}, up to {self.schedule.epochs}"},
            "trials": self.validations,
            "selected_on": f"validation {metric}",
            "chosen": {"epoch": self.best["epoch"], f"validation_{metric}": self.best["score"]},
            "schedule": asdict(self.schedule),
        }

    def forget(self) -> None:
        """Remove the checkpoint."""
        self.path.unlink(missing_ok=True)

    def _batches(self) -> list[Rows]:
        """The films of this epoch in its order, which depends on seed and epoch alone."""
        seed = derive_seed(f"{self.name} order", self.seed, self.epoch)
        order = np.random.Generator(np.random.PCG64(seed)).permutation(self.train)
        size = self.schedule.batch_size
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        return batches[:-1] if self.drop_last and len(batches) > 1 and len(batches[-1]) < size else batches

    def _update(self, rows: Rows, number: int) -> Tensor:
        """One step; nothing in it waits for the device."""
        generator = torch.Generator().manual_seed(
            derive_seed(f"{self.name} step", self.seed, self.epoch, number)
        )
        loss = self._step(rows, generator)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.detach()

    def _validate(self) -> None:
        score = self._validate_module()
        self.validations += 1
        self._stale += 1
        if score > self.best["score"]:
            state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
            self.best = {"score": score, "epoch": self.epoch, "state": state}
            self._stale = 0

    def _save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "stale": self._stale,
            "validations": self.validations,
            "best": self.best,
        }
        # Opened here, since torch names no errors of files that it opens.
        with replacing(self.path) as partial, partial.open("wb") as file:
            torch.save(state, file)

    def _resume(self) -> None:
        if not self.path.is_file():
            return
        state = torch.load(self.path, map_location=self.env.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self._stale = state["epoch"], state["stale"]
        self.validations, self.best = state["validations"], state["best"]
