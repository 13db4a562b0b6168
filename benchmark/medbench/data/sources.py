"""From a dataset's name to a folder: the user's own, or the phantom twin. Never one in place of the other.

Without any folder named, everything is phantom. As soon as one is named, a dataset that is not found is an error.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from medbench.data.dataset import Dataset
from medbench.data.reports import DEFAULT_CLEANING
from medbench.errors import DataError, UsageError
from medbench.plugins import Catalogue
from medbench.progress import Progress
from medbench.request import RunRequest
from medbench.specs import TABLE, DatasetSpec

DEFAULT_CORPUS = "mimic_cxr"
"""What methods are pretrained on when nothing else is said; the corpus of the published protocols."""


class Sources:
    """Opens the datasets of one request.

    Attributes:
        request: what the user asked for.
        catalogue: known datasets.
        progress: for the writing of phantoms.
    """

    def __init__(self, request: RunRequest, catalogue: Catalogue, progress: Progress) -> None:
        self.request = request
        self.catalogue = catalogue
        self.progress = progress

    def evaluation(self, name: str) -> Dataset:
        """The dataset `name` that a task runs on.

        Args:
            name: of a dataset, or `table:FILE`.

        Raises:
            DataError: a data folder was given and this dataset is not in it, or there is no such file.
        """
        if name.startswith(f"{TABLE}:"):
            return self._table("--task" if self.request.tasks else "films of a", name)
        spec = self._spec(name)
        if not self.request.real_data:
            return self._open(spec, self.phantom(spec))
        return self._open(spec, self._real_root(spec))

    def corpus(self, cleaning: str = DEFAULT_CLEANING) -> Dataset:
        """The dataset that methods are pretrained on, its reports read as `cleaning` says.

        Raises:
            DataError: real data were named and no corpus, or it is not there.
            UsageError: the named dataset has no reports.
        """
        wanted = self.request.corpus
        spec = self._corpus_spec()
        if wanted is not None and wanted.startswith(f"{TABLE}:"):
            return self._table("--corpus", wanted, cleaning)
        if wanted == "phantom" or (wanted is None and not self.request.real_data):
            return self._open(spec, self.phantom(spec), cleaning)
        if wanted is not None and not self.request.real_data:
            return self._open(spec, self.phantom(spec), cleaning)
        if wanted is None and not self._found(spec):
            raise DataError(
                f"Real data are named, but no pretraining corpus: looked for {spec.name} in "
                f"{self._where(spec)}. Name one with --corpus (table:FILE.csv for your own pairs, a dataset below "
                "--data-root, or `phantom`), or give finished weights with --checkpoint."
            )
        return self._open(spec, self._real_root(spec), cleaning)

    def check_corpus(self) -> None:
        """See that `--corpus` and `--column` make sense, also where nothing is pretrained.

        Raises:
            UsageError: they do not.
        """
        self._corpus_spec()

    def _corpus_spec(self) -> DatasetSpec:
        """The dataset that the corpus is one of, before anything is looked for on a disk.

        Raises:
            UsageError: it has no reports, or columns are named of what is no table.
        """
        wanted = self.request.corpus
        if wanted in ("table", "table:"):
            raise UsageError(f"--corpus {wanted}: which one? Give it as --corpus table:FILE.")
        if wanted is not None and wanted.startswith(f"{TABLE}:"):
            return self._spec(TABLE)
        if self.request.columns and not self.request.tables:
            raise UsageError(
                "--column names columns of a table; give it with --corpus table:FILE, or with a task on a table."
            )
        spec = self._spec(DEFAULT_CORPUS if wanted in (None, "phantom") else wanted)
        if not spec.paired:
            paired = [s.name for s in self.catalogue.datasets.values() if s.paired]
            raise UsageError(
                f"--corpus {spec.name}: it has no reports to learn from. With reports: {', '.join(paired)}."
            )
        return spec

    def unwritten(self, name: str | None) -> tuple[DatasetSpec, int] | None:
        """The phantom that stands for dataset `name` (None: for the corpus) if it still has to be written.

        Returns:
            Its spec and the number of films; None if the data are real, or there already.

        Raises:
            UsageError: see `corpus`.
        """
        corpus = self._corpus_spec() if name is None else None
        if self.request.real_data and not (name is None and self.request.corpus == "phantom"):
            return None
        spec = self._spec(name) if corpus is None and name is not None else corpus
        assert spec is not None
        root, patients = self._twin(spec)
        if (root / "PHANTOM.json").exists():
            return None
        return spec, _module(spec).total(patients)

    def phantom(self, spec: DatasetSpec) -> Path:
        """The folder of the phantom twin, written now if it is not there yet.

        Raises:
            DataError: the dataset has no twin.
        """
        root, patients = self._twin(spec)
        if not (root / "PHANTOM.json").exists():
            module = _module(spec)
            write = getattr(module, spec.phantom.partition(":")[2])
            with self.progress.track(
                f"writing phantom {spec.name}", module.total(patients), "films"
            ) as advance:
                write(root, patients=patients, workers=self.request.workers, advance=advance)
        return root

    def _twin(self, spec: DatasetSpec) -> tuple[Path, int]:
        """Folder and number of patients of the phantom twin."""
        if not spec.phantom:
            raise DataError(f"{spec.name} has no phantom twin; give its folder with --data {spec.name}=DIR.")
        patients = spec.phantom_patients["micro" if self.request.recipe == "micro" else "default"]
        return phantom_root(self.request.cache, spec.name, patients), patients

    def _spec(self, name: str) -> DatasetSpec:
        return self.catalogue.lookup_dataset(name)

    def _table(self, flag: str, name: str, cleaning: str = DEFAULT_CLEANING) -> Dataset:
        """The dataset `table:FILE`."""
        file = Path(name.removeprefix(f"{TABLE}:")).expanduser()
        if not file.is_file():
            raise DataError(f"{flag} table: looked for {file.absolute()} and found no file there.")
        spec = self._spec(TABLE)
        table: Dataset = spec.load()(spec, file, self.request.columns, cleaning=cleaning)
        return table

    def _open(self, spec: DatasetSpec, root: Path, cleaning: str = DEFAULT_CLEANING) -> Dataset:
        dataset: Dataset = spec.load()(spec, root, cleaning=cleaning)
        return dataset

    def _root(self, spec: DatasetSpec) -> Path | None:
        return folder_of(spec, self.request.data_root, self.request.data)

    def _found(self, spec: DatasetSpec) -> bool:
        root = self._root(spec)
        return root is not None and root.exists()

    def _where(self, spec: DatasetSpec) -> str:
        root = self._root(spec)
        return str(root) if root is not None else f"--data (no {spec.name}=DIR among them) and no --data-root"

    def _real_root(self, spec: DatasetSpec) -> Path:
        root = self._root(spec)
        if root is None or not root.exists():
            raise DataError(
                f"{spec.name}: looked for it in {self._where(spec)} and found nothing there. "
                f"Get it from {spec.access} ({spec.licence}), name its folder with --data {spec.name}=DIR, "
                f"and check it with `medbench data verify {spec.name} --data {spec.name}=DIR`."
            )
        return root


def folder_of(spec: DatasetSpec, data_root: Path | None, data: Mapping[str, Path]) -> Path | None:
    """Where a dataset is looked for; None if nothing is named.

    The folder named for it, the one of its name below the data root, or that of the dataset which it is chosen from.
    """
    if spec.name in data:
        return data[spec.name]
    own = data_root / spec.name if data_root is not None else None
    if not spec.within or (own is not None and own.exists()):
        return own
    return data.get(spec.within, data_root / spec.within if data_root is not None else None)


def _module(spec: DatasetSpec) -> ModuleType:
    return importlib.import_module(spec.phantom.partition(":")[0])


def phantom_root(cache: Path, dataset: str, patients: int) -> Path:
    """Folder of a phantom twin in the cache."""
    from medbench.phantom import PHANTOM_VERSION

    return cache / "phantom" / f"v{PHANTOM_VERSION}" / f"{dataset}-{patients}"
