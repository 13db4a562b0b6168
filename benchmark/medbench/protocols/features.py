"""Pooled features of a frozen encoder: read once, then every label fraction trains on them.

They are kept in memory and not on disk: 5,000 films take seconds to read again, and a run that is resumed
finds its finished cells.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medbench.data.augment import centre_crop
from medbench.errors import WeightsError
from medbench.model import VisionLanguageModel
from medbench.task import Environment, TaskData

BATCH_SIZE = 64
"""Films a forward pass. The features do not depend on it beyond the rounding of a matrix product."""


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
        env: `device`, `precision` and `progress` are used.
        batch_size: films a forward pass.

    Returns:
        (M, D) float32, row i belongs to `rows[i]`.

    Raises:
        WeightsError: a feature is not finite.
    """
    inputs = model.preprocessing
    films = data.images(inputs.resize, "pad").images
    pin = env.device.type == "cuda"
    parts = []
    with evaluating(model), env.progress.track("extracting features", len(rows), "films") as advance:
        for start in range(0, len(rows), batch_size):
            batch = torch.from_numpy(
                np.ascontiguousarray(films[rows[start : start + batch_size]])
            )  # (B, H, W) uint8
            batch = (batch.pin_memory() if pin else batch).to(env.device, non_blocking=True)
            with torch.autocast(env.device.type, torch.bfloat16, enabled=env.precision == "bf16"):
                pooled = model.encode_image(inputs.normalise(centre_crop(batch, inputs.size))).pooled
            parts.append(pooled.float())  # stays on the device: copying it back would wait for every step
            advance(len(batch))
    features = torch.cat(parts).cpu().numpy()
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        sample = data.index.table["sample"].iloc[rows[broken[0]]]
        raise WeightsError(
            f"the encoder gives features that are not finite for {len(broken):,} of {len(rows):,} films "
            f"(the first is {sample}), at precision {env.precision}. Try --precision 32; if nothing "
            "changes, the weights hold NaN or infinity: pretrain again with a lower learning rate, or check the "
            "checkpoint."
        )
    return features
