"""What a plugin declares: names, one line about each, and where the code is. Nothing here imports torch.

A `target` is "package.module:Class"; it is imported only when the thing is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

Fidelity = Literal["official-code", "paper", "reconstruction", "baseline"]
"""How far a method is known. `baseline` is for encoders with nothing to reproduce (`random`)."""

Provision = Literal["image.pooled", "image.local", "image.pyramid", "text.pooled", "text.local", "embedding"]
"""What a method's model can give a task; `embedding` is the joint image-text space."""


TABLE = "table"
"""The dataset whose name goes on with a file: `table:films.csv`."""


@dataclass(frozen=True)
class Spec:
    """Common part of every declaration.

    Attributes:
        name: what the user types; lower case, digits and underscores, `@` before a variant.
        target: "package.module:attribute".
        summary: one line for `medbench list`.
        reference: paper, code or page that it follows.
    """

    name: str
    target: str
    summary: str
    reference: str

    def load(self) -> Any:
        """Import the target and return it."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class MethodSpec(Spec):
    """A pretraining recipe. `target` is a subclass of `medbench.method.Method`.

    Attributes:
        provides: what its model can give a task.
        fidelity: printed wherever the method is.
        pretrains: False for encoders that are not trained here.
        seeded: False for an encoder that is the same for every seed, as one with given weights is. A result that
            nothing else makes depend on the seed is then computed once, and recorded with `seed: null`.
        released: "package.module:attribute" of its `medbench.released.Release`, "" where no checkpoint of it is known.
    """

    provides: frozenset[Provision] = frozenset()
    fidelity: Fidelity = "reconstruction"
    pretrains: bool = True
    seeded: bool = True
    released: str = ""

    @property
    def released_only(self) -> bool:
        """Whether it exists as a released checkpoint and in no other way."""
        return bool(self.released) and not self.pretrains

    def load_released(self) -> Any:
        """Import the release and return it."""
        module, _, attribute = self.released.partition(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class TaskSpec(Spec):
    """A dataset, a protocol and a primary metric. `target` is a subclass of `medbench.task.Task`.

    Attributes:
        dataset: name of the dataset it is run on.
        needs: what it asks of a method's model.
        primary_metric: the metric in the table.
        higher_is_better: direction of the primary metric.
        version: raised when what it measures changes; older records then leave the tables.
        fractions: label fractions it trains at; empty if it does not train.
        given: what the target is made with beside the recipe, `target(recipe, **given)`: the split, the classes.
            One protocol so serves many tasks.
    """

    dataset: str = ""
    needs: frozenset[Provision] = frozenset()
    primary_metric: str = ""
    higher_is_better: bool = True
    version: int = 1
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> bool:
        """Whether it is a protocol for anyone's table, which the name then has to say: `lp:table:FILE`."""
        return self.name.endswith(f":{TABLE}")

    def make(self, recipe: str) -> Any:
        """Import the target and make the task at a recipe."""
        return self.load()(recipe, **self.given)


@dataclass(frozen=True)
class DatasetSpec(Spec):
    """A real folder layout. `target` is a subclass of `medbench.data.dataset.Dataset`.

    Attributes:
        licence: one line.
        access: the page to get it from.
        credentialed: whether a training course or a signed agreement stands before the download.
        official_size: images of the official release, None where there is none (`table`).
        paired: True if its images come with reports (it can be a pretraining corpus).
        within: name of the dataset whose folder it is chosen from, and found in where it has none of its own; "".
        title: how texts call it where they name what an encoder was pretrained on; "" where it is called nothing else.
        films_of: other datasets whose films are in it, each with the source that says so.
        phantom: "package.module:function" that writes the synthetic twin in the same layout, or "".
        phantom_patients: patients of the twin by size; "default" and "micro" (tests).
    """

    licence: str = ""
    access: str = ""
    credentialed: bool = False
    official_size: int | None = None
    paired: bool = False
    within: str = ""
    title: str = ""
    films_of: Mapping[str, str] = field(default_factory=dict)
    phantom: str = ""
    phantom_patients: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LeaderboardSpec(Spec):
    """A way to turn records into files. `target` is a function `(results: Results) -> Mapping[str, bytes]`.

    It gives contents by path, relative to the folder that is written, with forward slashes; the same records must give
    the same bytes, in whatever order they come. `medbench_leaderboards.board.build(results)` has all statistics done.

    Attributes:
        format: what `--format` says to get it ("markdown", "csv").
    """

    format: str = "markdown"
