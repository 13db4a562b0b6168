"""Features for people who only want features: `medbench features extract`, a row a film in a parquet file."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench import __version__
from medbench.data.splits import PARTS, Split
from medbench.devices import deterministic
from medbench.errors import UsageError
from medbench.files import replacing
from medbench.planner import Encoder, OpenDataset
from medbench.plugins import Catalogue
from medbench.protocols.features import pooled_features
from medbench.records import WeightsInfo
from medbench.request import RunRequest
from medbench.runner import Runner
from medbench.task import TaskData

METADATA = b"medbench"
"""Key in the metadata of the parquet schema; its value is JSON."""

ROWS_A_GROUP = 16_384
"""Films a row group, so that a reader need not take all of them at once."""


def extract(request: RunRequest, catalogue: Catalogue, out: Path) -> tuple[int, int]:
    """Write the pooled features of every film of `request.films`.

    A row has `sample`, `patient`, with `request.split` also `part` (train, val, test, or null for a film in none of
    them), and `feature`, a list of D float32 of fixed size. What made them is JSON under `medbench` in the metadata
    of the schema.

    Args:
        request: one method and one seed; `films` is a dataset's name, or `table:FILE`.
        catalogue: known methods and datasets.
        out: the file, replaced if it is there.

    Returns:
        Films and D.

    Raises:
        UsageError: the method gives no pooled features, several methods or seeds are named, or the file can not be
            written.
    """
    if len(request.methods) != 1 or len(request.seeds) != 1:
        raise UsageError(
            f"Features of one encoder go into one file; found methods {', '.join(request.methods)} and seeds "
            f"{', '.join(map(str, request.seeds))}. Name one of each."
        )
    runner = Runner(request, catalogue)
    [spec] = runner.planner.methods()
    if "image.pooled" not in spec.provides:
        raise UsageError(f"{spec.name} gives no pooled features (it provides {', '.join(spec.provides)}).")
    deterministic()
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder. Name the file that the features go into.")
    runner.check_folder("--out", out.absolute().parent)
    runner.check_folder("cache", request.cache)
    runner.planner.sources.check_corpus()
    return runner.without_broken(partial(_extract, runner, out))


def _extract(runner: Runner, out: Path) -> tuple[int, int]:
    request, planner = runner.request, runner.planner
    opened = planner.evaluation(request.films or "")  # first, since pretraining may take hours
    split = opened.split(request.split) if request.split is not None else None
    encoder = planner.encoder(planner.methods()[0], request.seeds[0])
    model, info = runner.model(encoder)
    rows = np.arange(len(opened.index))
    nothing = rows[:0]
    data = TaskData(opened.index, split or Split("", nothing, nothing, nothing), opened.images)
    # No folder for unfinished work: what is kept is the features themselves.
    features = pooled_features(model, data, rows, runner.environment(request.cache, encoder, info))
    about = {
        "medbench": __version__,
        **_encoder(encoder, info),
        "recipe": request.recipe,
        "precision": runner.precision,
        "device": runner.device.type,
        "feature": "pooled output of the image encoder, before any projection",
        "preprocessing": {**asdict(model.preprocessing), "fit": "pad, then the centre"},
        **_dataset(opened, split),
        "pixels_sha256": opened.images(model.preprocessing.resize, "pad").sha256,
    }
    _write(out, _columns(opened, split), features, about)
    return len(rows), features.shape[1]


def _encoder(encoder: Encoder, info: WeightsInfo) -> dict[str, Any]:
    return {
        "method": encoder.spec.name,
        "method_owner": encoder.owner,
        "fidelity": encoder.spec.fidelity,
        "seed": encoder.seed,
        "weights": {"sha256": info.sha256, **encoder.identity.model_dump(mode="json")},
    }


def _dataset(opened: OpenDataset, split: Split | None) -> dict[str, Any]:
    index = opened.index
    return {
        "dataset": index.dataset,
        "source": index.source,
        "subset": index.subset,
        "data_fingerprint": index.fingerprint(),
        "split": split and {"name": split.name, "sha256": split.sha256(index), "leak": split.leak},
        "excluded": [str(problem) for problem in index.excluded],
    }


def _columns(opened: OpenDataset, split: Split | None) -> pd.DataFrame:
    columns = opened.index.table[["sample", "patient"]].copy()
    if split is not None:
        part = np.full(len(columns), None, object)
        for name in PARTS:
            part[getattr(split, name)] = name
        columns["part"] = part
    return columns


def _write(
    out: Path, columns: pd.DataFrame, features: npt.NDArray[np.float32], about: dict[str, Any]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = features.shape[1]
    fields = [(name, pa.string()) for name in columns] + [("feature", pa.list_(pa.float32(), width))]
    schema = pa.schema(fields, metadata={METADATA: json.dumps(about)})
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for start in range(0, len(features), ROWS_A_GROUP):
            part = slice(start, start + ROWS_A_GROUP)
            arrays = [pa.array(columns[name].iloc[part], pa.string()) for name in columns]
            values = pa.array(features[part].reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(values, width))
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))
