"""A method as the checks see it: at recipe `micro`, with batches of phantom pairs as the engine would make them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medbench.conformance.check import Failed, NotApplicable
from medbench.data.augment import centre_crop
from medbench.data.pairs import Pairs, Reports, TrainingBatches, read_reports
from medbench.data.reports import DEFAULT_CLEANING
from medbench.devices import deterministic
from medbench.method import Method, Recipe, Setup
from medbench.model import ImageTextBatch, TextBatch, VisionLanguageModel
from medbench.planner import OpenDataset, Planner
from medbench.plugins import Catalogue
from medbench.progress import Progress
from medbench.request import RunRequest
from medbench.seeding import derive_seed, seed_everything
from medbench.specs import MethodSpec

BATCH = 8
"""Pairs of a batch: even, so that two processes can share it."""

CLOSE = 1e-4
"""Difference that rounding may make, in parts of the largest number: a matrix product sums in another order where the
batch has another size."""

CAPTIONS = (
    ("no acute process",),
    ("small left pleural effusion", "left basal atelectasis"),
    ("heart size is normal", "no pleural effusion or pneumothorax", "the lungs are clear"),
    (
        "right upper lobe opacity suspicious for pneumonia",
        "no edema",
        "lines and tubes are in place",
        "no change",
    ),
)
"""Of different lengths, so that three of them are padded."""


@dataclass
class MethodSubject:
    """A method under test.

    Attributes:
        spec: its declaration.
        catalogue: that it is in.
        folder: for phantom films and whatever else is made; kept as long as the checks run.
    """

    spec: MethodSpec
    catalogue: Catalogue
    folder: Path

    def __post_init__(self) -> None:
        """Ask for the kernels that runs ask for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        deterministic()

    def request(self, **changes: Any) -> RunRequest:
        """A run of this method at recipe `micro`, on phantoms, on the CPU."""
        request = RunRequest(
            methods=(self.spec.name,),
            tasks=(),
            results=self.folder / "results",
            cache=self.folder / "cache",
            recipe="micro",
            device="cpu",
            precision="32",
            corpus="phantom",
            offline=True,
            quiet=True,
        )
        return replace(request, **changes)

    @cached_property
    def method_class(self) -> type[Method]:
        """Its class."""
        loaded: type[Method] = self.catalogue.load("methods", self.spec.name)
        return loaded

    @cached_property
    def recipe(self) -> Recipe:
        """`micro`."""
        return self.method_class.recipes["micro"]

    @cached_property
    def corpus(self) -> OpenDataset:
        """The phantom corpus that runs at recipe `micro` are pretrained on."""
        planner = Planner(self.request(), self.catalogue, "32", Progress(quiet=True))
        return planner.corpus(self.recipe)

    @cached_property
    def reports(self) -> Reports:
        """Its training reports."""
        cleaning = self.recipe.pretrain.cleaning if self.recipe.pretrain is not None else DEFAULT_CLEANING
        return read_reports(self.corpus.index, self.corpus.training_split().train, cleaning)

    def build(self, *, kept: bool = True, **changes: Any) -> Method:
        """The method with fresh weights, in training mode, as the engine builds it.

        Args:
            kept: whether what is learnt from the reports alone may be found where another build left it.
            changes: fields of its config.

        Raises:
            NotApplicable: its encoder comes from a released checkpoint.
        """
        if self.spec.released_only:
            raise NotApplicable("its encoder comes from a released checkpoint, and none is made here")
        seed_everything(derive_seed(0, "init"))
        setup = Setup(offline=True, store=self.folder / "text" if kept else None)
        return self.method_class.from_corpus(
            replace(self.recipe.config, **changes), self.reports.sentences, setup
        ).train()

    def images(self, model: VisionLanguageModel, n: int = BATCH) -> Tensor:
        """(n, 3, S, S) phantom films as tasks give them to a model."""
        inputs = model.preprocessing
        films = self.corpus.images(inputs.resize, "pad").images[np.arange(n)]
        return inputs.normalise(centre_crop(torch.from_numpy(np.ascontiguousarray(films)), inputs.size))

    def pairs(self, method: Method) -> ImageTextBatch:
        """A training batch of phantom pairs as the engine gives it to a method.

        Raises:
            NotApplicable: the method is not trained.
        """
        if not self.spec.pretrains:
            raise NotApplicable("the method is not pretrained, so it has no losses")
        inputs = method.model.preprocessing
        films = self.corpus.images(inputs.resize * method.film_scale, "pad")
        some = Reports(self.reports.rows[: 2 * BATCH], self.reports.sentences[: 2 * BATCH], 0)
        vectors = method.report_vectors(some.sentences)
        pairs = Pairs(some, films, method.model, vectors, scale=method.film_scale)
        batch = TrainingBatches(pairs, 0, BATCH).batch(0, 0)
        images = inputs.normalise(batch.films(inputs.size * method.film_scale))
        images = images.contiguous(memory_format=torch.channels_last)
        return ImageTextBatch(images, batch.text, batch.report_vectors)

    def text(self, model: VisionLanguageModel) -> TextBatch:
        """`CAPTIONS` as a batch.

        Raises:
            NotApplicable: the method has no text.
        """
        if not self.has_text:
            raise NotApplicable("the method does not provide text.pooled")
        return model.tokenize(CAPTIONS)

    @property
    def has_text(self) -> bool:
        """Whether a task may ask it for texts."""
        return "text.pooled" in self.spec.provides

    def seen(self, model: VisionLanguageModel, images: Tensor) -> dict[str, Tensor]:
        """What the model says of films, by name; embeddings where it has a joint space."""
        features = model.encode_image(images, "image.pyramid" in self.spec.provides)
        found = {"pooled": features.pooled}
        if features.local is not None:
            found["local"] = features.local
        for level, part in enumerate(features.pyramid or ()):
            found[f"pyramid[{level}]"] = part
        if "embedding" in self.spec.provides:
            found["embedding"] = model.embed_image(features)
        return found

    def told(self, model: VisionLanguageModel, text: TextBatch) -> dict[str, Tensor]:
        """What the model says of texts, by name; vectors of words that are none are 0."""
        features = model.encode_text(text)
        found = {"text pooled": features.pooled, "text local": features.local * features.mask[..., None]}
        if "embedding" in self.spec.provides:
            found["text embedding"] = model.embed_text(features)
        return found

    def all_features(self, model: VisionLanguageModel) -> dict[str, Tensor]:
        """What the model says of some films and of `CAPTIONS`, without gradients."""
        with torch.no_grad():
            found = self.seen(model, self.images(model))
            return found | (self.told(model, self.text(model)) if self.has_text else {})


def losses(method: Method, batch: ImageTextBatch) -> dict[str, Tensor]:
    """The terms of one step, with torch seeded as the engine does, and nothing else seeded."""
    torch.manual_seed(derive_seed(0, "step"))
    return method.losses(batch, 0)


def total(terms: dict[str, Tensor]) -> Tensor:
    """Their sum."""
    return torch.stack([term.float() for term in terms.values()]).sum()


def module(model: VisionLanguageModel) -> nn.Module:
    """The model as a torch module.

    Raises:
        Failed: it is none.
    """
    if not isinstance(model, nn.Module):
        raise Failed(
            f"a model of type {type(model).__name__}",
            "a torch.nn.Module below the method",
            "Derive it from nn.Module, so that it is trained, moved and saved with the method.",
        )
    return model


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[str, float]:
    """The tensor that differs most, and by how much in parts of its largest number; infinite where shapes differ."""
    worst = ("", 0.0)
    for name, left in one.items():
        right = other.get(name)
        if right is None or left.shape != right.shape:
            return name, float("inf")
        if not left.numel():
            continue
        scale = max(float(left.detach().abs().max()), float(right.detach().abs().max()), 1e-12)
        apart = float((left.detach().double() - right.detach().double()).abs().max()) / scale
        if math.isnan(apart):
            return name, float("inf")
        if apart > worst[1]:
            worst = (name, apart)
    return worst
