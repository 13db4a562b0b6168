"""What a record says against the installed catalogue, and against itself: what users can not choose."""

import json
from collections.abc import Iterator
from typing import Any

from medbench.errors import MedbenchError
from medbench.plugins import Catalogue, declared
from medbench.records import Corpus, Record
from medbench.specs import TaskSpec
from medbench.weights import config_json


def installed_task(record: Record, catalogue: Catalogue) -> TaskSpec | None:
    """The task of a record; None where it is not installed, or at another version."""
    spec = catalogue.tasks.get(declared(record.identity.task))
    return spec if spec is not None and spec.version == record.identity.task_version else None


def check_identity(record: Record, catalogue: Catalogue) -> Iterator[str]:
    """The identity, where the installed task or method decides it.

    No flag changes a task's config. Of what medbench itself brings, the owner and the fidelity are known too. The
    version of an owner may be another one, and `--set` may change a method's config.
    """
    identity = record.identity
    spec = installed_task(record, catalogue)
    if spec is not None and not spec.family:
        if identity.dataset != spec.dataset:
            yield f"dataset is {identity.dataset}, {spec.name} is run on {spec.dataset}"
        try:
            config = config_json(catalogue.make_task(spec, identity.recipe).config)
        except MedbenchError:  # of a plugin that can not be loaded
            config = None
        given = json.loads(json.dumps(dict(spec.given)))
        if config is not None and identity.task_config != (expected := {**config, "given": given}):
            names = sorted(identity.task_config.keys() | expected.keys())
            other = [name for name in names if identity.task_config.get(name) != expected.get(name)]
            yield f"task_config is not that of {spec.name} at recipe {identity.recipe}: {', '.join(other)}"
    if spec is not None:
        yield from _owner("task_owner", identity.task_owner, catalogue.owner("tasks", spec.name).name)
    method = catalogue.methods.get(identity.method)
    if method is None:
        return
    owner = catalogue.owner("methods", method.name).name
    yield from _owner("method_owner", identity.method_owner, owner)
    own = owner == "medbench" and identity.weights.kind != "checkpoint"  # of others medbench knows no version
    if own and identity.fidelity != method.fidelity:
        yield f"fidelity is {identity.fidelity}, that of {method.name} is {method.fidelity}"


def _owner(what: str, recorded: str, installed: str) -> Iterator[str]:
    if installed == "medbench" and recorded.partition(" ")[0] != installed:
        yield f"{what} is {recorded}, expected {installed}"


def check_weights(record: Record) -> Iterator[str]:
    """What is said of the weights twice has to agree."""
    identity, weights = record.identity, record.weights
    if weights is None:
        yield "a finished record names no weights"
        return
    info = weights.info
    expected: dict[str, Any] = {"sha256": weights.sha256, "method": identity.method}
    if identity.weights.kind != "checkpoint":
        expected["config"] = identity.method_config
        if identity.seed is not None:  # else whichever seed was asked for first made them, and none can change them
            expected["seed"] = identity.seed
    elif identity.weights.key != weights.sha256:
        yield f"weights: sha256 {weights.sha256[:12]}, its identity has {identity.weights.key[:12]}"
    if identity.weights.kind == "pretrained":
        expected |= {"recipe": identity.recipe, "pretrain": identity.pretrain_config}
    for name, value in expected.items():
        if name in info and info[name] != value:
            yield f"weights: info.{name} is not that of the record ({_short(info[name])}, {_short(value)})"
    corpus = info.get("corpus")
    if isinstance(corpus, dict) and identity.weights.corpus is not None:
        said = {name: value for name, value in corpus.items() if name in Corpus.model_fields}
        if said != identity.weights.corpus.model_dump(include=set(said)):
            yield "weights: info.corpus is another one than that of its identity"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:36]}..."


def check_search(record: Record) -> Iterator[str]:
    """What was chosen is one of the values of the grid, where both are listed."""
    grid, chosen = record.search.get("grid"), record.search.get("chosen")
    if not isinstance(grid, dict):
        return
    listed = {name: values for name, values in grid.items() if isinstance(values, list)}
    picked = chosen if isinstance(chosen, dict) else {}
    for name, values in listed.items():
        for where, block in {"": picked, **picked}.items():  # of all classes, or class by class
            if isinstance(block, dict) and name in block and block[name] not in values:
                yield f"search: chosen {f'{where} {name}'.strip()} {block[name]} is not in its grid"
    trials = record.search.get("trials")
    [size] = map(len, listed.values()) if len(grid) == len(listed) == 1 else [0 if not grid else None]
    if "schedule" not in record.search and None not in (trials, size) and trials != size:
        yield f"search: {trials} trials recorded, its grid has {size}"
