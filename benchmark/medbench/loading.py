"""A method in Python: `medbench.load` gives one of these, for notebooks and scripts."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from medbench import weights
from medbench.data.augment import centre_crop
from medbench.data.images import fit_square, read_image
from medbench.data.reports import CLEANINGS, DEFAULT_CLEANING, Cleaning, caption
from medbench.devices import resolve_device
from medbench.errors import UsageError, WeightsError
from medbench.importing import import_released, method_of
from medbench.method import Method, Setup
from medbench.model import ImageFeatures, ImageTextBatch, TextBatch, TextFeatures, VisionLanguageModel
from medbench.overrides import apply_overrides
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.seeding import derive_seed, seed_everything

Film = str | Path | Image.Image | npt.NDArray[Any]
"""A path (DICOM, PNG, JPEG), a PIL image, or an array: (H, W) or (H, W, 3), uint8, or floats in [0, 1]."""

Texts = str | Sequence[str] | Sequence[Sequence[str]]
"""A report, several, or several that are cut into sentences."""

_PHANTOM_PATIENTS = 200  # whose reports a vocabulary is learnt from where the user gives none


class LoadedMethod:
    """A method with its weights in place, in eval mode.

    Attributes:
        name: of the method.
        method: the `torch.nn.Module` that has the losses; `method.model` holds the encoders.
        info: what is known of the weights (weights.json); of fresh ones the config and the seed.
        device: where the method is.
    """

    def __init__(self, name: str, method: Method, info: Mapping[str, Any], device: torch.device) -> None:
        self.name, self.info, self.device = name, info, device
        self._cleaning = CLEANINGS[(info.get("pretrain") or {}).get("cleaning", DEFAULT_CLEANING)]
        self.method = method.to(device).eval()

    @property
    def model(self) -> VisionLanguageModel:
        """The encoders."""
        return self.method.model

    def to(self, device: str | torch.device) -> Self:
        """Move to a device."""
        self.device = torch.device(device)
        self.method.to(self.device)
        return self

    # Images.

    def preprocess(self, film: Film) -> Tensor:
        """One film as the image encoder takes it: padded to a square, resized, cut to its centre, normalised.

        Returns:
            (3, S, S) float32.

        Raises:
            DataError: the file can not be read.
            UsageError: it is no film.
        """
        inputs = self.model.preprocessing
        square = fit_square(_grey(film), inputs.resize, "pad")  # (R, R) uint8
        cut = centre_crop(torch.from_numpy(np.array(square))[None], inputs.size)  # (1, S, S)
        return inputs.normalise(cut)[0]

    def encode_image(
        self, images: Tensor | Film | Sequence[Tensor | Film], pyramid: bool = False
    ) -> ImageFeatures:
        """Features of preprocessed images or of films, without gradients.

        Args:
            images: (B, 3, S, S) or (3, S, S) from `preprocess`; or a film or several, which are preprocessed here.
            pyramid: give the five maps too.
        """
        with torch.no_grad():
            return self.model.encode_image(self._images(images), pyramid)

    def embed_image(self, features: ImageFeatures) -> Tensor:
        """(B, E) unit vectors in the joint space, without gradients."""
        with torch.no_grad():
            vectors: Tensor = self._half(self.model.embed_image, features)
            return vectors

    def _images(self, images: Any) -> Tensor:
        if isinstance(images, Tensor):
            batch = images if images.ndim == 4 else images[None]
            if batch.ndim != 4 or batch.shape[1] != 3:
                raise UsageError(
                    f"images of shape {tuple(images.shape)}, expected (B, 3, S, S) or (3, S, S), as `preprocess` gives"
                    f" them."
                )
            return batch.to(self.device)
        films = images if isinstance(images, list | tuple) else [images]
        if not films:
            raise UsageError("no images, expected at least one.")
        ready = [film if isinstance(film, Tensor) else self.preprocess(film) for film in films]
        return torch.stack(ready).to(self.device)

    # Texts.

    def tokenize(self, texts: Texts) -> TextBatch:
        """Reports as token ids, padded.

        A text is cleaned and cut into sentences as for pretraining (`medbench.data.reports`); one of which nothing
        would be left, as it has too few words, is taken as it is. Texts that are cut already are not touched.
        """
        reports = [texts] if isinstance(texts, str) else list(texts)
        if not reports:
            raise UsageError("no texts, expected at least one.")
        cut = [
            _cut(report, self._cleaning) if isinstance(report, str) else list(report) for report in reports
        ]
        batch: TextBatch = self._half(self.model.tokenize, cut)
        return batch.to(self.device)

    def encode_text(self, texts: Texts | TextBatch | Tensor, mask: Tensor | None = None) -> TextFeatures:
        """Features of texts, without gradients.

        Args:
            texts: strings, what `tokenize` gave, or token ids (B, T) of the model's own vocabulary.
            mask: with token ids only: (B, T), 1 or True where there is a token. All, if it is left out.
        """
        with torch.no_grad():
            features: TextFeatures = self._half(self.model.encode_text, self._texts(texts, mask))
            return features

    def embed_text(self, features: TextFeatures) -> Tensor:
        """(B, E) unit vectors in the joint space, without gradients."""
        with torch.no_grad():
            vectors: Tensor = self._half(self.model.embed_text, features)
            return vectors

    def _half(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a part of the model gives that not every model has."""
        try:
            return call(*arguments)
        except NotImplementedError as error:
            raise UsageError(
                f"{self.name}: {error}. Load a method that has it, or a released file with part='all' where the method"
                f" can take all of it."
            ) from None

    def _texts(self, texts: Any, mask: Tensor | None = None) -> TextBatch:
        if isinstance(texts, TextBatch):
            return texts.to(self.device)
        if not isinstance(texts, Tensor):
            return self.tokenize(texts)
        from_ids = getattr(self.model, "text_from_ids", None)
        if from_ids is None:
            raise UsageError(f"{self.name} takes no token ids; give strings, or what `tokenize` gives.")
        batch: TextBatch = from_ids(texts, torch.ones_like(texts) if mask is None else mask)
        return batch.to(self.device)

    # Both.

    def losses(self, batch: ImageTextBatch | tuple[Any, Any], epoch: int = 0) -> dict[str, Tensor]:
        """The terms of the loss by name, weighted, with gradients; their sum is what pretraining minimises.

        Args:
            batch: an `ImageTextBatch`, or a pair of images and texts, as `encode_image` and `encode_text` take them.
            epoch: from 0, for terms that start late.
        """
        if not isinstance(batch, ImageTextBatch):
            images, texts = batch
            batch = ImageTextBatch(self._images(images), self._texts(texts))
        if len(batch.images) != len(batch.text.ids):
            raise UsageError(f"{len(batch.images)} images and {len(batch.text.ids)} texts, expected pairs.")
        return self.method.losses(batch.to(self.device), epoch)

    def __repr__(self) -> str:
        return f"<medbench method {self.name} on {self.device}>"


def load(
    name: str,
    checkpoint: str | Path | None,
    *,
    recipe: str | None,
    reports: Sequence[str] | None,
    seed: int | None,
    device: str,
    offline: bool,
    part: str | None,
    prefix: str | None,
    config: Mapping[str, Any],
) -> LoadedMethod:
    """See `medbench.load`."""
    catalogue = load_catalogue()
    spec = catalogue.lookup_method(name)
    place = resolve_device(device)
    progress = Progress()
    overrides = {f"method.{field}": _written(value) for field, value in config.items()}
    path = None if checkpoint is None else Path(checkpoint).expanduser()
    finished = path is not None and (path.is_dir() or path.name == weights.TENSORS)
    if (part, prefix) != (None, None) and (path is None or finished):
        raise UsageError("part and prefix are of files that the authors released; leave them out.")
    given = {"recipe": recipe, "reports": reports, "seed": seed}
    fresh = [name for name, value in given.items() if value is not None]
    if path is not None and fresh:
        raise UsageError(f"{', '.join(fresh)}: of fresh weights; {path} brings its own. Leave it out.")
    if part not in (None, "image", "all"):
        raise UsageError(f"part={part!r}: expected 'image' or 'all'.")
    if path is None:
        if spec.released_only:
            raise WeightsError(
                f"{name} is not trained here, its encoder comes from a released checkpoint: expected"
                f" checkpoint=FILE with the authors' file, or a folder of `medbench weights import`."
            )
        recipe, seed = recipe or "tiny", seed or 0
        method_class: type[Method] = catalogue.load("methods", name)
        if recipe not in method_class.recipes:
            raise UsageError(f"{name} has no recipe {recipe!r}; it has {', '.join(method_class.recipes)}.")
        chosen = apply_overrides(method_class.recipes[recipe], overrides, name)
        scratch = getattr(chosen.config, "text_encoder", None) == "scratch"
        if reports is None and scratch:
            progress.say(f"{name}: a vocabulary is learnt from PHANTOM reports, as no reports were given")
        cleaning = CLEANINGS[chosen.pretrain.cleaning if chosen.pretrain is not None else DEFAULT_CLEANING]
        texts = _phantom_reports() if reports is None and scratch else (reports or ())
        seed_everything(derive_seed(seed, "init"))
        setup = Setup(seed=seed, device=place, offline=offline, say=progress.say)
        method = method_class.from_corpus(chosen.config, [_cut(text, cleaning) for text in texts], setup)
        progress.say(f"{name}: FRESH weights (seed {seed}); nothing was pretrained")
        info = {"method": name, "recipe": recipe, "seed": seed, "config": weights.config_json(method.config)}
        return LoadedMethod(name, method, info, place)
    if finished:
        if config:
            raise UsageError(
                f"{', '.join(config)}: the weights in {path} bring their own config, so none can be given with them."
            )
        folder, info = weights.read_info(path)
        weights.check_method(folder, info, name)
        loaded = weights.load(folder, method_of(catalogue, name, info), name)
        return LoadedMethod(name, loaded.method, loaded.info, place)
    if not spec.released:
        raise UsageError(
            f"{path}: expected a folder of finished weights, as `medbench pretrain` prints; of {name} no released"
            f" checkpoints are known."
        )
    imported = import_released(
        path, spec, catalogue, part=cast(Any, part), prefix=prefix, overrides=overrides, offline=offline
    )
    progress.say(imported.coverage.text())
    ready = imported.as_weights()
    return LoadedMethod(name, ready.method, ready.info, place)


def _written(value: Any) -> str:
    """A value of a config's field as it is written on the command line."""
    return repr(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _grey(film: Any) -> npt.NDArray[np.uint8]:
    """Any film as (H, W) grey values, 0 black to 255 white."""
    if isinstance(film, str | Path):
        return read_image(Path(film).expanduser())
    if isinstance(film, Image.Image):
        if film.mode.startswith(("I", "F")):
            raise UsageError(
                f"a PIL image of mode {film.mode!r}, expected 8 bits. Give the path of the file, whose grey values are"
                f" then windowed, or an array in [0, 1]."
            )
        return np.array(film.convert("L"))
    if not isinstance(film, np.ndarray):
        raise UsageError(f"{type(film).__name__} is no film; expected a path, a PIL image or an array.")
    if film.ndim not in (2, 3) or (film.ndim == 3 and film.shape[2] != 3):
        raise UsageError(f"an array of shape {film.shape}, expected (H, W) or (H, W, 3).")
    if film.dtype != np.uint8:
        if film.dtype.kind != "f" or not (np.isfinite(film).all() and film.min() >= 0 and film.max() <= 1):
            raise UsageError(
                f"an array of {film.dtype} from {film.min()} to {film.max()}, expected uint8, or floats from 0 to 1."
            )
        film = np.rint(film * 255).astype(np.uint8)
    return np.array(Image.fromarray(film).convert("L"))


def _cut(text: str, cleaning: Cleaning) -> list[str]:
    return cleaning.sentences(text) or [" ".join(re.findall(r"\w+", text.lower()))]


def _phantom_reports() -> list[str]:
    from medbench.phantom.grammar import write_report
    from medbench.phantom.mimic_cxr import patient
    from medbench.phantom.study import stream

    written = [
        write_report(who, study, stream("notebook", 0, number, study.number))
        for number in range(_PHANTOM_PATIENTS)
        for who in (patient(number),)
        for study in who.studies
    ]
    return [caption(report.impression, report.findings) for report in written]
