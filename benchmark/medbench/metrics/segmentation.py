"""Overlap and distance of predicted and true masks, five ways, and their intervals.

- `dice`: 2 |P ∩ T| / (|P| + |T|) of each image, then the mean over all images. An image where both masks are
  empty counts 1, one where only one of them is counts 0.
- `dice_pos`: the same over the images whose true mask is not empty: what healthy films give away is left out.
- `dice_mgca`: as the released code of MGCA counts it (ssl_segmenter.py): the mean of each batch, then the mean
  over the batches. An image without truth counts 1 if the prediction is empty, else 0, as in `dice`; so all
  that differs is that a last, smaller batch weighs as much as a whole one. The size of a batch and the order of
  the images are part of the definition: the size is the task's, the order is that of the sample ids.
- `iou`: |P ∩ T| / |P ∪ T| of each image, then the mean over all images; empty masks as in `dice`.
- `hausdorff95`: 95th percentile of the distances between the boundaries of each image, in pixels, then the mean
  over all images; lower is better.

All but the last need three areas an image and no pixels; the last decodes the masks, one image at a time.
"""

from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from medbench.data.regions import Mask, decode_rle, encode_rle
from medbench.metrics.bootstrap import INTERVAL, Bootstrap, Resample, bootstrap_blocks, percentile_interval
from medbench.task import Metric

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_AREAS = ["pred_area", "true_area", "intersection"]


def mask_columns(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """What `segmentation_metrics` needs to know of masks.

    Args:
        predicted: (N, H, W) bool, True where the probability is over 0.5.
        true: (N, H, W) bool, on the same grid.

    Returns:
        N rows: `height`, `width` of the grid (int64, pixels); `pred_runs`, `true_runs` (str, as `encode_rle`
        writes them, "" of an empty mask); `pred_area`, `true_area`, `intersection` (int64, pixels).

    Raises:
        ValueError: shapes differ or are not (N, H, W).
    """
    if predicted.ndim != 3 or predicted.shape != true.shape:
        raise ValueError(f"masks of shape {predicted.shape} and {true.shape}; both should be (N, H, W)")
    _, height, width = predicted.shape
    pixels = (1, 2)
    return pd.DataFrame(
        {
            "height": np.full(len(true), height, np.int64),
            "width": np.full(len(true), width, np.int64),
            "pred_runs": pd.Series([encode_rle(mask) for mask in predicted], dtype="str"),
            "true_runs": pd.Series([encode_rle(mask) for mask in true], dtype="str"),
            "pred_area": predicted.sum(axis=pixels, dtype=np.int64),
            "true_area": true.sum(axis=pixels, dtype=np.int64),
            "intersection": (predicted & true).sum(axis=pixels, dtype=np.int64),
        }
    )


def image_dice(predicted: Ints, true: Ints, intersection: Ints) -> Floats:
    """Dice of each image.

    Args:
        predicted: (N,) int64 areas of the predicted masks, pixels.
        true: (N,) likewise of the true ones.
        intersection: (N,) likewise of what they share.

    Returns:
        (N,) float64, 0 to 1; 1 where both masks are empty, 0 where one of them is.
    """
    return _ratio(2 * intersection, predicted + true)


def image_iou(predicted: Ints, true: Ints, intersection: Ints) -> Floats:
    """Intersection over union of each image.

    Args:
        predicted: as `image_dice` takes it.
        true: likewise.
        intersection: likewise.

    Returns:
        (N,) float64, 0 to 1; 1 where both masks are empty, 0 where one of them is.
    """
    return _ratio(intersection, predicted + true - intersection)


def _ratio(part: Ints, whole: Ints) -> Floats:
    return np.divide(part, whole, out=np.ones(len(whole)), where=whole > 0)


def mean_of_batches(values: Floats, weights: npt.NDArray[np.int32], batch: int) -> Floats:
    """The mean over batches of the mean inside each, where image i comes weights[r, i] times in a row.

    Whole batches weigh the same, so only two sums are needed: over the images in whole batches and over those
    of a last, smaller one.

    Args:
        values: (N,) one an image, in the order in which batches take them.
        weights: (R, N) whole numbers from 0 up, at least one of each row above 0; ones for the plain value.
        batch: images in a batch; the last batch holds what is left and is kept.

    Returns:
        (R,) float64.
    """
    behind = np.cumsum(weights, axis=1, dtype=np.int64)  # (R, N) place behind the last copy of each image
    total = behind[:, -1]
    left = total % batch
    whole = np.clip((total - left)[:, None] - behind + weights, 0, weights)  # copies in whole batches
    sums = (whole @ values) / batch + ((weights - whole) @ values) / np.maximum(left, 1)
    means: Floats = sums / -(-total // batch)
    return means


def hausdorff95(predicted: Mask, true: Mask) -> float:
    """95th percentile of the distances between two boundaries.

    The boundary of a mask is its pixels that have one of their four neighbours outside of it; outside of the
    image nothing belongs to a mask. The distance of each boundary pixel of one mask to the nearest of the other
    is taken, both ways, and the percentile is that of all of them together (with linear interpolation), not
    the larger of two percentiles.

    Args:
        predicted: (H, W) bool.
        true: (H, W) bool.

    Returns:
        Distance between pixel centres, in pixels. With an empty mask there is no boundary: 0 if both are empty;
        if one is, the image's diagonal sqrt(H² + W²), which is more than any two pixels are apart.

    Raises:
        ValueError: shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"masks of one image have shapes {predicted.shape} and {true.shape}")
    if not predicted.any() or not true.any():
        return float(np.hypot(*true.shape)) if predicted.any() or true.any() else 0.0
    # Nothing is beyond the window that holds both, so a boundary in it is the boundary in the image.
    either = predicted | true
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    edges = [mask[window] & ~ndimage.binary_erosion(mask[window]) for mask in (predicted, true)]
    away = [ndimage.distance_transform_edt(~edge) for edge in edges]
    return float(np.quantile(np.concatenate([away[0][edges[1]], away[1][edges[0]]]), 0.95))


def segmentation_metrics(predictions: pd.DataFrame, *, mgca_batch: int) -> tuple[Metric, ...]:
    """The five metrics of predictions, with intervals. The order of the rows does not matter.

    Args:
        predictions: one row a sample: `sample` (each once), `patient` and the columns of `mask_columns`. Images
            may differ in size; distances are in pixels of the grid of each.
        mgca_batch: images in a batch of `dice_mgca`, from 1 up (MGCA's scripts: 8 for SIIM, 16 for RSNA).
            Batches are filled in the order of the sample ids, compared as text.

    Returns:
        `dice`, `dice_pos`, `iou`, `hausdorff95`, `dice_mgca`. `n` counts the images; of `dice_pos` those with a
        true mask that is not empty, and without any it is None, with the reason.

    Raises:
        ValueError: there are no rows, a sample comes twice, areas contradict one another or the run lengths, or
            `mgca_batch` is below 1.
        DataError: run lengths are none, or leave the image.
    """
    if len(predictions) == 0 or mgca_batch < 1:
        raise ValueError(
            f"metrics need images and batches, found {len(predictions)} images and batches of {mgca_batch}"
        )
    samples = predictions["sample"].to_numpy(dtype=str)
    order = np.argsort(samples, kind="stable")
    rows = predictions.iloc[order]
    samples = samples[order]
    if (twice := samples[1:] == samples[:-1]).any():
        raise ValueError(f"sample {samples[1:][twice][0]} comes twice; expected one row a sample")

    predicted, true, intersection = areas = rows[_AREAS].to_numpy(np.int64).T
    _check_areas(rows, samples, areas)
    dice = image_dice(predicted, true, intersection)
    everyone, positive = np.ones(len(rows), np.bool_), true > 0
    means = {  # plain means: the values of the images and which of them count
        "dice": (dice, everyone),
        "dice_pos": (dice, positive),
        "iou": (image_iou(predicted, true, intersection), everyone),
        "hausdorff95": (_distances(rows, samples, areas), everyone),
    }
    values = np.stack([np.where(counts, value, 0.0) for value, counts in means.values()], axis=1)  # (N, 4)
    counting = np.stack([counts for _, counts in means.values()], axis=1).astype(np.float64)

    def score(weights: npt.NDArray[np.int32]) -> Floats:
        """(R, N) -> (R, 5), NaN where no image counts; `dice_mgca` last."""
        total = weights @ counting
        plain = np.divide(weights @ values, total, out=np.full(total.shape, np.nan), where=total > 0)
        return np.column_stack([plain, mean_of_batches(dice, weights, mgca_batch)])

    whole = score(np.ones((1, len(rows)), np.int32))[0]
    patients = rows["patient"].to_numpy(dtype=str).tolist()
    draws = np.concatenate([score(weights) for weights in bootstrap_blocks(patients, positive)])  # (D, 5)
    resample = Resample.of(patients, positive)
    metrics = []
    for name, value, drawn in zip([*means, "dice_mgca"], whole.tolist(), draws.T, strict=True):
        n = int(means[name][1].sum()) if name in means else len(rows)
        low, high = percentile_interval(drawn)
        metrics.append(
            Metric(
                name=name,
                value=None if np.isnan(value) else value,
                low=low,
                high=high,
                interval=INTERVAL,
                n=n,
                higher_is_better=name != "hausdorff95",
                reason="no image has a true mask" if np.isnan(value) else "",
                bootstrap=Bootstrap(drawn, resample),
            )
        )
    return tuple(metrics)


def _check_areas(rows: pd.DataFrame, samples: npt.NDArray[np.str_], areas: Ints) -> None:
    """Refuse areas (3, N) that no two masks on the grid have, and one of them empty where its run lengths are not."""
    predicted, true, intersection = areas
    pixels = rows["height"].to_numpy(np.int64) * rows["width"].to_numpy(np.int64)
    wrong = (intersection < 0) | (intersection > np.minimum(predicted, true))
    wrong |= predicted + true - intersection > pixels
    wrong |= (rows["pred_runs"].to_numpy() == "") != (predicted == 0)
    wrong |= (rows["true_runs"].to_numpy() == "") != (true == 0)
    if wrong.any():
        _refuse(samples, areas, int(np.flatnonzero(wrong)[0]))


def _distances(rows: pd.DataFrame, samples: npt.NDArray[np.str_], areas: Ints) -> Floats:
    """(N,) `hausdorff95` of each image; only those with two masks that are not empty are decoded."""
    height, width = (rows[name].to_numpy(np.int64) for name in ("height", "width"))
    empty = areas[:2] == 0
    distances: Floats = np.where(empty.all(axis=0), 0.0, np.hypot(height, width))
    both = np.flatnonzero(~empty.any(axis=0))
    runs = rows[["pred_runs", "true_runs"]].to_numpy()
    for i in both.tolist():
        predicted, true = (decode_rle(text, int(height[i]), int(width[i])) for text in runs[i])
        if areas[:, i].tolist() != [mask.sum() for mask in (predicted, true, predicted & true)]:
            _refuse(samples, areas, i)
        distances[i] = hausdorff95(predicted, true)
    return distances


def _refuse(samples: npt.NDArray[np.str_], areas: Ints, i: int) -> NoReturn:
    predicted, true, intersection = areas[:, i]
    raise ValueError(
        f"sample {samples[i]}: areas predicted {predicted}, true {true}, intersection {intersection} are not "
        "those of its run lengths on its grid; predict it again"
    )
