"""A task as the checks see it: at recipe `micro`, on phantom films or a folder of the user's, with an encoder."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from medbench.conformance.check import NotApplicable
from medbench.data.splits import Rows
from medbench.devices import deterministic
from medbench.model import VisionLanguageModel
from medbench.plugins import Catalogue
from medbench.request import RunRequest
from medbench.runner import Runner
from medbench.specs import TaskSpec
from medbench.task import Environment, Evaluation, Task, TaskData

ENCODERS = ("random", "clip")
"""The first of these that serves a task is its encoder: `random` needs no pretraining, and knows no text."""

TRUTH = ("label_", "boxes", "box_labels", "regions")
"""Columns of an index that tell the truth, by how they start."""


@dataclass
class TaskSubject:
    """A task under test.

    Attributes:
        spec: its declaration.
        catalogue: that it is in.
        folder: for phantom films and whatever else is made.
        data: folders of real datasets, by name; what is not in it is a phantom.
    """

    spec: TaskSpec
    catalogue: Catalogue
    folder: Path
    data: Mapping[str, Path]

    def __post_init__(self) -> None:
        """Ask for the kernels that runs ask for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        deterministic()

    @property
    def request(self) -> RunRequest:
        """A run of this task at recipe `micro`, on the CPU.

        Raises:
            NotApplicable: there are no films to run it on, or no encoder that has what it needs.
        """
        spec = self.spec
        if spec.family:
            raise NotApplicable("it runs on anyone's file, and none is named")
        serving = [name for name in ENCODERS if spec.needs <= self.catalogue.lookup_method(name).provides]
        if not serving:
            raise NotApplicable(f"neither {' nor '.join(ENCODERS)} provides {', '.join(sorted(spec.needs))}")
        if spec.dataset not in self.data and not self.catalogue.lookup_dataset(spec.dataset).phantom:
            raise NotApplicable(
                f"{spec.dataset} has no phantom twin; give its folder with --data {spec.dataset}=DIR"
            )
        return RunRequest(
            methods=tuple(serving[:1]),
            tasks=(spec.name,),
            results=self.folder / "results",
            cache=self.folder / "cache",
            fractions=(1.0,),
            recipe="micro",
            device="cpu",
            precision="32",
            corpus="phantom",
            data={name: where for name, where in self.data.items() if name == spec.dataset},
            offline=True,
            quiet=True,
        )

    @cached_property
    def _opened(self) -> tuple[VisionLanguageModel, TaskData, Environment]:
        runner = Runner(self.request, self.catalogue)
        encoder = runner.planner.encoder(self.catalogue.lookup_method(self.request.methods[0]), 0)
        model, info = runner.model(encoder)
        env = runner.environment(self.folder, encoder, info)
        return model, runner.planner.group(encoder, self.spec).data, replace(env, encoder="", cache=None)

    @property
    def taken(self) -> TaskData:
        """Its films and their split."""
        return self._opened[1]

    def make(self) -> Task:
        """The task at recipe `micro`."""
        return self.catalogue.make_task(self.spec, "micro")

    def evaluate(
        self, task: Task | None = None, data: TaskData | None = None, train: Rows | None = None
    ) -> Evaluation:
        """One cell, from features to predictions, in a folder of its own.

        Args:
            task: a fresh one where it is left out.
            data: `taken` where it is left out.
            train: rows of the training part; all of them where they are left out.
        """
        model, known, env = self._opened
        task, data = task or self.make(), data or known
        env = replace(env, workdir=Path(tempfile.mkdtemp(dir=self.folder)))
        features: Any = task.extract(model, data, env)
        try:
            return task.evaluate(features, data, data.split.train if train is None else train, 0, env)
        finally:
            if hasattr(features, "close"):
                features.close()

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Of the test films, by all training films."""
        return self.evaluate().predictions
