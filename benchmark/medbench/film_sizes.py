"""Which films a recipe asks for, so that they can be prepared before a run. Imports the methods and tasks."""

from collections.abc import Sequence

from medbench.errors import UsageError
from medbench.plugins import Catalogue
from medbench.specs import DatasetSpec
from medbench.task import Fit, Task


def film_sizes(
    catalogue: Catalogue, dataset: DatasetSpec, recipe: str, methods: Sequence[str]
) -> list[tuple[int, Fit]]:
    """Side in pixels and fit of the films that runs of these methods ask of a dataset.

    As a corpus it is asked for the padded square that a method crops from, as large as its losses want it; as the
    dataset of a task for what `Task.films` says.

    Args:
        catalogue: known methods and tasks.
        dataset: whose films.
        recipe: `tiny`, `paper` or `micro`.
        methods: names; those without this recipe ask for nothing.

    Returns:
        Each once, in ascending order.

    Raises:
        UsageError: nothing is asked for.
    """
    tasks: list[Task] = [
        catalogue.make_task(spec, recipe) for spec in catalogue.tasks.values() if spec.dataset == dataset.name
    ]
    found: set[tuple[int, Fit]] = set()
    for name in methods:
        recipes = catalogue.load("methods", name).recipes
        config = recipes[recipe].config if recipe in recipes else None
        inputs = getattr(config, "preprocessing", None)
        if inputs is None:
            continue
        if dataset.paired and catalogue.lookup_method(name).pretrains:
            found.add((inputs.resize * getattr(config, "film_scale", 1), "pad"))
        found |= {task.films(inputs) for task in tasks}
    if not found:
        raise UsageError(
            f"No task runs on {dataset.name} and no method of these reads its reports at recipe {recipe}: name a size, "
            "as in --size 256."
        )
    return sorted(found)
