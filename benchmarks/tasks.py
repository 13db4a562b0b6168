"""How fast, and in how much memory, tasks are measured: each part prints its goal and whether it is met.

    python benchmarks/tasks.py                             # every part, at full size
    python benchmarks/tasks.py retrieval --pairs 5000      # smaller

Parts:

- `retrieval`: `--pairs` images against as many texts by the cosine of vectors of 512 numbers, in five classes: rankings
  in both directions, all metrics and their intervals, in a process of its own. Its time, and the most memory that it
  takes at any time, libraries included.
- `features`: pooled features and feature maps of `--films` films by `random`, a ResNet-50 at 224 px: extracting and
  keeping them, against finding them in the cache. How many times faster that is, and what the cache takes.
- `lp`: the linear probe of `--rows` films with `--width` features and `--labels` labels, from features in memory to
  predictions, all eleven penalties: its time and the most memory of its process, libraries included. Against it
  scikit-learn's LogisticRegression (float32 features, its own tolerance), one label and penalty at a time. `--fits` of
  these are measured, a different label at each penalty in turn, and their mean stands for all: how many is printed. The
  last line is the largest difference of both validation AUROCs at the same label and penalty.
- `lp_mgca`: the linear probe at 1, 10 and 100 % of the same split of `--frozen` films, from features in memory, against
  `lp@mgca` with its published schedule, which has to pass the films through the encoder again (`random`, `tiny`).

Other work on the machine spoils the times.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np

    from medbench.protocols.probe_features import ProbeFeatures
    from medbench.task import Environment, TaskData

WIDTH = 512
"""Of a vector: wider than MGCA (128), as wide as CLIP."""

CLASSES = 5
"""As in CheXpert 5x200."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    pairs: int
    films: int
    recipe: str
    rows: int
    width: int
    labels: int
    fits: int
    frozen: int


@dataclass(frozen=True)
class Result:
    """One line: what, how much of it, and what it should be."""

    what: str
    value: float
    unit: str
    goal: float
    most: bool = False
    """Whether the goal is the most that is allowed, not the least."""

    def __str__(self) -> str:
        met = self.value <= self.goal if self.most else self.value >= self.goal
        sign = "at most" if self.most else "at least"
        return f"{self.what:<58}{self.value:10,.2f} {self.unit:<6} {sign} {self.goal:g}: {'met' if met else 'MISSED'}"


def alone(measure: "Callable[..., None]", *given: Any) -> Any:
    """What `measure(*given, answer)` answers, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=measure, args=(*given, theirs))
    child.start()
    theirs.close()
    answer = ours.recv()
    child.join()
    return answer


def peak() -> int:
    """Bytes at the largest moment of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def retrieval(sizes: Sizes) -> Iterator[Result]:
    seconds, memory = alone(measure_retrieval, sizes.pairs)
    name = f"retrieval, {sizes.pairs:,} x {sizes.pairs:,}"
    yield Result(name, seconds, "s", 60, most=True)
    yield Result(f"{name}, memory", memory / 1e9, "GB", 2, most=True)


def measure_retrieval(pairs: int, answer: "Connection") -> None:
    """Answers seconds, and bytes at the largest moment of this process."""
    import numpy as np

    from medbench.metrics.retrieval import Items, cosine, rank, retrieval_metrics

    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES, size=pairs)
    images = rng.standard_normal((pairs, WIDTH), np.float32)
    images += rng.standard_normal((CLASSES, WIDTH), np.float32)[label] / 4
    texts = images + 4 * rng.standard_normal((pairs, WIDTH), np.float32)
    items = Items(
        samples=[f"s{k}" for k in range(pairs)],
        patients=[f"p{k // 2}" for k in range(pairs)],
        classes=[str(k) for k in label],
        pairs=[str(k) for k in range(pairs)],
    )
    start = time.perf_counter()
    retrieval_metrics(rank(cosine(images, texts), items, items))
    seconds = time.perf_counter() - start
    answer.send((seconds, peak()))


def features(sizes: Sizes) -> Iterator[Result]:
    import medbench

    encoder = medbench.load("random", recipe=sizes.recipe)
    for kind, measure in (("pooled features", measure_pooled), ("feature maps", measure_maps)):
        with tempfile.TemporaryDirectory() as folder:
            extracting, finding, size = measure(encoder.model, sizes.films, Path(folder))
        name = f"{kind} of {sizes.films:,} films"
        print(f"{name}: {extracting:.2f} s to extract, {finding:.2f} s to find, {size / 1e6:,.1f} MB")
        yield Result(f"{name}, found in the cache", extracting / finding, "times", 20)


def measure_pooled(model: Any, films: int, folder: Path) -> tuple[float, float, int]:
    """Seconds to extract and keep, seconds to find and read, bytes of disk."""
    from medbench.feature_cache import held
    from medbench.protocols.features import pooled_features

    data, env = noise(model.preprocessing.resize, films), environment(folder)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        pooled_features(model, data, data.split.train, env).sum()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], held(folder)[0].bytes


def measure_maps(model: Any, films: int, folder: Path) -> tuple[float, float, int]:
    """As `measure_pooled`, of the three coarsest maps; reading them is training's business."""
    from medbench.feature_cache import held
    from medbench.protocols.pyramids import Pyramids

    data, env = noise(model.preprocessing.size, films), environment(folder)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        assert Pyramids(model, data, 3, 2**40, env).cached
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], held(folder)[0].bytes


def environment(folder: Path) -> "Environment":
    """One whose features are kept in a folder."""
    import torch

    from medbench.progress import Progress
    from medbench.task import Environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quiet = Progress(quiet=True)
    return Environment(device, "32", folder / "work", quiet, encoder="weights", cache=folder)


def noise(side: int, films: int) -> "TaskData":
    """Films of noise, all of them to be trained on."""
    import numpy as np
    import pandas as pd

    from medbench.data.index import Index
    from medbench.data.prepared import PreparedImages
    from medbench.data.splits import Split
    from medbench.task import TaskData

    pixels = np.random.default_rng(0).integers(0, 256, (films, side, side), np.uint8)
    prepared = PreparedImages(pixels, np.full((films, 2), side), "noise")
    rows = np.arange(films)
    table = pd.DataFrame({"sample": [f"s{k}" for k in rows]})
    split = Split("noise", rows, rows[:0], rows[:0])
    return TaskData(Index("noise", Path(), "phantom", table), split, lambda side, fit: prepared)


def lp(sizes: Sizes) -> Iterator[Result]:
    seconds, memory, aurocs = alone(measure_lp, sizes)
    penalties = len(aurocs[0])
    fits = sizes.labels * penalties
    measured = [((3 * k) % sizes.labels, k % penalties) for k in range(min(sizes.fits, fits))]
    theirs = alone(measure_scikit_learn, sizes, measured)
    whole = fits * sum(spent for spent, _ in theirs) / len(theirs)
    name = f"lp, {sizes.rows:,} x {sizes.width:,}, {sizes.labels} labels, {penalties} penalties"
    share = f"{len(theirs)} of {fits} fits"
    print(f"{name}: {seconds:.1f} s; scikit-learn {whole:.0f} s, from {share}")
    yield Result("lp over scikit-learn", whole / seconds, "times", 10)
    yield Result("lp, memory", memory / 1e9, "GB", 2.5, most=True)
    off = [
        abs(aurocs[label][penalty] - value)
        for (label, penalty), (_, value) in zip(measured, theirs, strict=True)
    ]
    yield Result("lp, AUROC away from scikit-learn's, at most", max(off), "", 0.002, most=True)


def probed(sizes: Sizes) -> "tuple[ProbeFeatures, TaskData]":
    """Features as an encoder's last layer gives them, none below 0, in falling variance, and labels they explain."""
    import numpy as np
    import pandas as pd

    from medbench.data.index import Index
    from medbench.data.splits import Split
    from medbench.protocols.probe_features import ProbeFeatures
    from medbench.task import TaskData

    rng = np.random.default_rng(0)
    held = max(20, sizes.rows // 20)
    rows = sizes.rows + 2 * held
    width = sizes.width
    mix = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    mix *= np.arange(1, width + 1, dtype=np.float32)[:, None] ** -0.5
    weights = rng.standard_normal((width, sizes.labels)).astype(np.float32)
    pooled = np.empty((rows, width), np.float32)
    signal = np.empty((rows, sizes.labels), np.float32)
    for start in range(0, rows, 2048):  # so that making them takes no more memory than having them
        block = rng.standard_normal((min(2048, rows - start), width), np.float32) @ mix
        np.maximum(block, 0, out=pooled[start : start + len(block)])
        signal[start : start + len(block)] = pooled[start : start + len(block)] @ weights
    signal = 1.5 * (signal - signal.mean(0)) / signal.std(0) + rng.logistic(size=signal.shape)
    table = pd.DataFrame(
        {"sample": [f"s{k}" for k in range(rows)], "patient": [f"p{k}" for k in range(rows)]}
    )
    names = tuple(f"c{k}" for k in range(sizes.labels))
    for k, (name, share) in enumerate(zip(names, np.linspace(0.05, 0.3, sizes.labels), strict=True)):
        table[f"label_{name}"] = (signal[:, k] > np.quantile(signal[:, k], 1 - share)) * 1.0
    everyone = np.arange(rows)
    split = Split("any", *np.split(everyone, [sizes.rows, sizes.rows + held]))
    index = Index("features", Path(), "phantom", table, names)
    return ProbeFeatures(everyone, pooled), TaskData(index, split, no_films)


def no_films(side: int, fit: str) -> Any:
    raise AssertionError("features are there, and no film is needed")


def measure_lp(sizes: Sizes, answer: "Connection") -> None:
    """Answers seconds, bytes, and the validation AUROCs of each label at each penalty."""
    from medbench.protocols.linear_probe import LinearProbe

    features, data = probed(sizes)
    task = LinearProbe("paper", split="any")
    start = time.perf_counter()
    found = task.evaluate(features, data, data.split.train, 0, environment(Path()))
    seconds = time.perf_counter() - start
    chosen = found.search["chosen"].values()
    answer.send((seconds, peak(), [label["validation_auroc_by_penalty"] for label in chosen]))


def measure_scikit_learn(sizes: Sizes, fits: list[tuple[int, int]], answer: "Connection") -> None:
    """Answers seconds and validation AUROC of each (label, penalty)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    from medbench.protocols.linear_probe import LinearProbeConfig
    from medbench.protocols.probe_features import Scaling

    features, data = probed(sizes)
    train, val = data.split.train, data.split.val
    scaling = Scaling.of(features, train)
    pooled = features.pooled
    pooled -= scaling.mean.astype("float32")
    pooled *= scaling.factor
    penalties = LinearProbeConfig().penalties
    found = []
    for label, penalty in fits:
        y: np.ndarray[Any, Any] = data.index.table[f"label_{data.index.labels[label]}"].to_numpy()
        model = LogisticRegression(C=1 / (len(train) * penalties[penalty]), max_iter=10_000)
        start = time.perf_counter()
        model.fit(pooled[: len(train)], y[train])
        seconds = time.perf_counter() - start
        value = roc_auc_score(y[val], model.decision_function(pooled[val]))
        found.append((seconds, float(value)))
    answer.send(found)


def lp_mgca(sizes: Sizes) -> Iterator[Result]:
    import numpy as np
    import pandas as pd

    from medbench.data.index import Index
    from medbench.data.prepared import PreparedImages
    from medbench.data.splits import fraction_rows, three_way
    from medbench.plugins import load_catalogue
    from medbench.protocols.linear_probe import LinearProbe
    from medbench.protocols.linear_probe_mgca import MgcaLinearProbe
    from medbench.task import TaskData
    from medbench.weights import untrained

    method = load_catalogue(third_party=False).load("methods", "random")
    model = (
        untrained(method, method.recipes["tiny"], "random", 0, offline=True, say=print).method.eval().model
    )
    side = model.preprocessing.resize
    rng = np.random.default_rng(0)
    ill = rng.random(sizes.frozen) < 0.3
    films = np.clip(rng.normal(110 + 20 * ill[:, None, None], 40, (sizes.frozen, side, side)), 0, 255)
    names = {"sample": [f"s{k}" for k in range(len(ill))], "patient": [f"p{k}" for k in range(len(ill))]}
    index = Index("films", Path(), "phantom", pd.DataFrame(names).assign(label_ill=ill * 1.0), ("ill",))
    prepared = PreparedImages(films.astype(np.uint8), np.full((len(ill), 2), side), "")
    data = TaskData(index, three_way(index, "any", 0.3), lambda side, fit: prepared)
    spent = {}
    for name, task in (
        ("lp", LinearProbe("paper", split="any", classes=("ill",))),
        ("lp@mgca", MgcaLinearProbe("paper", split="any", classes=("ill",))),
    ):
        with tempfile.TemporaryDirectory() as folder:
            env = environment(Path(folder))
            features = task.extract(model, data, env)
            start = time.perf_counter()
            for fraction in (0.01, 0.1, 1.0):
                rows = fraction_rows(data.index, data.split, fraction, 0, ill).rows
                if ill[rows].any():
                    task.evaluate(features, data, rows, 0, env)
            spent[name] = time.perf_counter() - start
    print(
        f"{len(data.split.train):,} training films: lp {spent['lp']:.2f} s, lp@mgca {spent['lp@mgca']:.1f} s"
    )
    yield Result("lp over lp@mgca, three fractions", spent["lp@mgca"] / spent["lp"], "times", 20)


PARTS = {part.__name__: part for part in (retrieval, features, lp, lp_mgca)}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=20_000, help="of retrieval (default: 20,000)")
    parser.add_argument("--films", type=int, default=1_000, help="of features (default: 1,000)")
    parser.add_argument("--recipe", default="paper", help="of the encoder of features (default: paper)")
    parser.add_argument("--rows", type=int, default=50_000, help="of lp (default: 50,000)")
    parser.add_argument("--width", type=int, default=2_048, help="of lp (default: 2,048)")
    parser.add_argument("--labels", type=int, default=14, help="of lp (default: 14)")
    parser.add_argument("--fits", type=int, default=22, help="of scikit-learn in lp (default: 22)")
    parser.add_argument("--frozen", type=int, default=1_500, help="films of lp_mgca (default: 1,500)")
    options = parser.parse_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    for name in options.parts or PARTS:
        for result in PARTS[name](sizes):
            print(result, flush=True)


if __name__ == "__main__":
    main()
