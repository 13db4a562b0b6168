"""Pooled features of a frozen encoder: read once, then every label fraction and every task trains on them.

They are kept in the user's cache (`medbench.feature_cache`) where it is known which encoder gives them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medbench.data.augment import centre_crop
from medbench.data.shards import Films
from medbench.devices import autocast, to_device
from medbench.errors import WeightsError
from medbench.feature_cache import FeatureCache, Identity
from medbench.model import VisionLanguageModel
from medbench.progress import Progress
from medbench.task import Environment, TaskData

BATCH_SIZE = 64
"""Films a forward pass. The features do not depend on it beyond the rounding of a matrix product."""

TOGETHER = 32
"""Batches whose features stay on the device until they are copied back at once: copying waits for the device."""

PROBE = 8
"""Films that an encoder is recognised by."""


@contextmanager
def evaluating(model: VisionLanguageModel) -> Iterator[None]:
    """Every module of `model` in eval mode, no gradients; afterwards each has its own mode back."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.inference_mode():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def read_films(films: Films, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """(B, H, W) uint8 films `rows` (B,) of prepared ones, on the device; a GPU need not wait for them."""
    batch = torch.from_numpy(np.ascontiguousarray(films[rows]))
    return to_device(batch, device)


def pooled_features(
    model: VisionLanguageModel,
    data: TaskData,
    rows: npt.NDArray[np.int64],
    env: Environment,
    batch_size: int = BATCH_SIZE,
) -> npt.NDArray[np.float32]:
    """`ImageFeatures.pooled` of films, padded to a square of `preprocessing.resize` and cut to its centre.

    Args:
        model: on `env.device`.
        data: whose films.
        rows: (M,) positions in the index.
        env: where `encoder` and `cache` are known, features are found in the cache or put there.
        batch_size: films a forward pass.

    Returns:
        (M, D) float32, row i belongs to `rows[i]`. Where they are in the cache they are mapped from there.

    Raises:
        WeightsError: a feature is not finite.
    """
    if not env.encoder or env.cache is None or not len(rows):
        return _extract(model, data, rows, env, batch_size)
    probe = _extract(model, data, rows[:PROBE], replace(env, progress=Progress(quiet=True)), PROBE)
    identity = Identity(
        encoder=env.encoder,
        probe=digest(probe),
        preprocessing=asdict(model.preprocessing),
        fit="pad",
        kind="pooled",
        dtype="float32",
        films=data.images(model.preprocessing.resize, "pad").sha256,
        rows=digest(rows),
    )

    def fill(array: npt.NDArray[Any]) -> None:
        _extract(model, data, rows, env, batch_size, array)

    kept = FeatureCache(env.cache, env.progress).get(
        identity,
        (len(rows), probe.shape[1]),
        f"features of {len(rows):,} films",
        about(data, rows, env),
        fill,
    )
    return kept.array if kept is not None else _extract(model, data, rows, env, batch_size)


def about(data: TaskData, rows: npt.NDArray[np.int64], env: Environment) -> dict[str, Any]:
    """Whose features of what, for the user who lists the cache."""
    return {
        "method": env.method,
        "dataset": data.index.dataset,
        "source": data.index.source,
        "split": data.split.name,
        "films": len(rows),
    }


def digest(array: npt.NDArray[Any]) -> str:
    """SHA-256 over the values of an array, in hex."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _extract(
    model: VisionLanguageModel,
    data: TaskData,
    rows: npt.NDArray[np.int64],
    env: Environment,
    batch_size: int,
    features: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """See `pooled_features`; written into `features` (M, D) where that is given."""
    inputs = model.preprocessing
    films = data.images(inputs.resize, "pad").images
    parts: list[Tensor] = []
    written, finite = 0, np.ones(len(rows), bool)
    with evaluating(model), env.progress.track("extracting features", len(rows), "films") as advance:
        for start in range(0, len(rows), batch_size):
            batch = read_films(films, rows[start : start + batch_size], env.device)
            with autocast(env.device, env.precision):
                pooled = model.encode_image(inputs.normalise(centre_crop(batch, inputs.size))).pooled
            parts.append(pooled.float())
            if len(parts) == TOGETHER or start + batch_size >= len(rows):
                part = torch.cat(parts).cpu().numpy()
                if features is None:
                    features = np.empty((len(rows), part.shape[1]), np.float32)
                to = slice(written, written + len(part))
                features[to], finite[to] = part, np.isfinite(part).all(axis=1)
                written += len(part)
                parts.clear()
            advance(len(batch))
    if features is None:
        raise ValueError("no rows to extract features of")
    broken = np.flatnonzero(~finite)
    if len(broken):
        sample = data.index.table["sample"].iloc[rows[broken[0]]]
        raise WeightsError(
            f"the encoder gives features that are not finite for {len(broken):,} of {len(rows):,} films "
            f"(the first is {sample}), at precision {env.precision}. Try --precision 32; if nothing "
            "changes, the weights hold NaN or infinity: pretrain again with a lower learning rate, or check the "
            "checkpoint."
        )
    return features
