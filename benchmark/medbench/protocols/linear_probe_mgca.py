"""Linear probe as MGCA's released code trains it (`lp@mgca`): one linear layer by AdamW over augmented films.

The encoder is frozen and in eval mode; the layer takes its pooled features before any projection. Films are padded to
the square of `preprocessing.resize` (256) and cut to `size` (224) at random, anew in every epoch; those of CheXpert are
lit differently, blurred and mirrored, too. Labels that may occur together have a sigmoid each (BCE), classes that
exclude each other a softmax (CE). Training stops when the validation loss has not fallen for ten epochs, and the state
with the lowest one is tested.

What differs from the released code:

- There the validation loader drops its last batch, if it is not full, and the loss is a mean of batch means. Here every
  validation film counts, once, so that the number depends on no batch size. The training loader drops it here, too,
  unless it is the only one: a fraction may hold fewer films than a batch.
- There every film passes through the encoder in every epoch. Validation and test films are not augmented, so that their
  features are computed once.
- A class without a positive or without a negative in the fraction gives every film one score, as in `lp`: the log-odds
  of its share. There the layer would make an order of whatever differs between films, for which no label speaks.
- The colour jitter's saturation and hue, and the turning to grey, change nothing on a film with three equal channels,
  and are left out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medbench.data.augment import crop
from medbench.data.film_augmentation import FilmAugmentation
from medbench.devices import autocast
from medbench.errors import DataError
from medbench.model import VisionLanguageModel
from medbench.protocols.classification import Classification, label_loss, log_odds
from medbench.protocols.features import evaluating, pooled_features, read_films
from medbench.protocols.selection import one_valued, prior_log_odds
from medbench.protocols.training import Schedule, Training, schedule_for
from medbench.seeding import derive_seed
from medbench.task import Environment, Evaluation, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

JITTER = FilmAugmentation(
    flip=0.5,
    brightness=(0.6, 1.4),
    contrast=(0.6, 1.4),
    light_probability=0.8,
    blur=(0.1, 2.0),
    blur_probability=0.5,
)
"""Of MGCA's released code (Moco2Transform, after SimCLR), on films of one channel."""


@dataclass(frozen=True)
class MgcaProbeConfig:
    """Every number of the protocol at one recipe. Defaults: `paper`, MGCA's released code (ssl_classifier.py)."""

    schedules: tuple[Schedule, ...] = (
        Schedule(up_to=1.0, lr=5e-4, batch_size=48, epochs=50, validate_every=1, patience=10),
    )
    """AdamW at a constant rate; patience in epochs."""
    weight_decay: float = 1e-6
    """Of AdamW, on the weights and the bias."""
    jitter: FilmAugmentation | None = None
    """What is done to films beside the random crop: `JITTER` to CheXpert's, nothing to others."""


RECIPES: Mapping[str, MgcaProbeConfig] = {
    "paper": MgcaProbeConfig(),
    # Thousands of films at 128 px through the encoder in each epoch: few epochs where there are many films, and a rate
    # at which few steps get somewhere.
    "tiny": MgcaProbeConfig(
        schedules=(
            Schedule(up_to=0.05, lr=5e-3, batch_size=48, epochs=50, validate_every=1, patience=10),
            Schedule(up_to=0.5, lr=5e-3, batch_size=48, epochs=15, validate_every=1, patience=5),
            Schedule(up_to=1.0, lr=5e-3, batch_size=48, epochs=4, validate_every=1, patience=2),
        ),
    ),
    # Seconds, for tests: the numbers mean nothing.
    "micro": MgcaProbeConfig(
        schedules=(Schedule(up_to=1.0, lr=1e-2, batch_size=16, epochs=3, validate_every=1, patience=2),),
    ),
}
"""The protocol at each recipe. A table never mixes them."""


@dataclass(frozen=True)
class FrozenEncoder:
    """A frozen encoder, and what never changes of what it sees.

    Attributes:
        model: on the device.
        val: (V, D) features of the validation films, float32 on the device.
        test: (T, D) those of the test films.
        digest: SHA-256 over both, which tells encoders apart.
    """

    model: VisionLanguageModel
    val: Tensor
    test: Tensor
    digest: str


class MgcaLinearProbe(Classification):
    """See the head of this file.

    Args:
        recipe: `tiny`, `paper` or `micro`.
        split: as for all protocols of classification.
        classes: likewise.
        exclusive: likewise.
        jitter: whether films are changed beyond the crop, as CheXpert's are.
    """

    config: MgcaProbeConfig

    def __init__(
        self,
        recipe: str,
        *,
        split: str,
        classes: Sequence[str] = (),
        exclusive: bool = False,
        jitter: bool = False,
    ) -> None:
        super().__init__(recipe, split=split, classes=classes, exclusive=exclusive)
        self.config = replace(RECIPES[recipe], jitter=JITTER if jitter else None)

    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> FrozenEncoder:
        """Features of the films that are not augmented.

        Raises:
            DataError: nobody is tested, or no label of a validation film is known: training stops by them.
        """
        self.require_test(data)
        if np.isnan(self.labels(data.index, data.split.val)).all():
            raise DataError(
                f"{data.index.dataset}: no label of the {len(data.split.val):,} validation films is known, so nothing "
                "can be chosen on them. The split needs films with labels; lp and ft go without."
            )
        val, test = (pooled_features(model, data, rows, env) for rows in (data.split.val, data.split.test))
        digest = hashlib.sha256(val.tobytes() + test.tobytes()).hexdigest()
        return FrozenEncoder(
            model, torch.from_numpy(val).to(env.device), torch.from_numpy(test).to(env.device), digest
        )

    def evaluate(
        self, features: FrozenEncoder, data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Train on `train`, keep the state with the lowest validation loss, predict the test rows.

        A killed call goes on from its last epoch and gives the same numbers.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        classes, split = self.names(data.index), data.split
        labels = torch.from_numpy(self.labels(data.index, np.arange(len(data.index)))).float()
        truth = labels[split.val].to(env.device)
        films = _Films(features.model, data, self.config.jitter, env)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("linear probe mgca head", seed))
            head = nn.Linear(features.val.shape[1], len(classes)).to(env.device)
        schedule = schedule_for(self.config.schedules, len(train), len(split.train))
        training = Training(
            "linear probe mgca",
            head,
            torch.optim.AdamW(head.parameters(), lr=schedule.lr, weight_decay=self.config.weight_decay),
            schedule,
            train,
            seed,
            env,
            {"config": asdict(self.config), "encoder": features.digest},
            step=lambda rows, generator: label_loss(
                head(films.features(rows, generator)), labels[rows].to(env.device), self.exclusive
            ),
            validate=lambda: -float(self._loss_of(head, features.val, truth)),
            drop_last=True,
        )
        training.run()
        known = self.labels(data.index, train)
        absent = one_valued(known, classes, "training fraction")
        learnt = [k for k, name in enumerate(classes) if name not in absent]
        test, val = (self._logits(head, part) for part in (features.test, features.val))
        scores = []
        for logits in (test, val):
            own = np.tile(prior_log_odds(known, exclusive=self.exclusive), (len(logits), 1))
            own[:, learnt] = log_odds(logits[:, learnt]) if self.exclusive else logits[:, learnt]
            scores.append(own)
        training.forget()
        notes = {name: f"{note}: every film has the same score" for name, note in absent.items()}
        return Evaluation(
            self.predictions(data, *scores), {**training.search("log_likelihood"), "notes": notes}
        )

    @torch.no_grad()
    def _loss_of(self, head: nn.Module, features: Tensor, truth: Tensor) -> Tensor:
        return label_loss(head(features).double(), truth.double(), self.exclusive)

    @torch.no_grad()
    def _logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """(M, C) float64 on the CPU."""
        logits: Tensor = head(features).double().cpu()
        return logits


class _Films:
    """Features of augmented films."""

    def __init__(
        self, model: VisionLanguageModel, data: TaskData, change: FilmAugmentation | None, env: Environment
    ) -> None:
        self.model, self.change, self.env = model, change, env
        self._films = data.images(model.preprocessing.resize, "pad").images

    def features(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """(B, D) float32, of films cut and changed as the generator says; no gradient reaches the encoder."""
        inputs, device = self.model.preprocessing, self.env.device
        corners = torch.randint(inputs.resize - inputs.size + 1, (len(rows), 2), generator=generator)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        batch = read_films(self._films, rows, device)  # (B, R, R) uint8
        films = inputs.normalise(crop(batch, corners.to(device), inputs.size))  # (B, 3, S, S)
        if self.change is not None:
            # It draws from the device's own generator, which gets its state back.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                films = self.change(films, inputs)
        with evaluating(self.model), autocast(device, self.env.precision):
            pooled = self.model.encode_image(films).pooled
        return pooled.float().clone()  # made under inference_mode, where nothing can be trained on it
