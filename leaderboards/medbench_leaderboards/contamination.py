"""Whether an encoder has seen what it is tested on, in words.

Facts only: the corpus that the record names, which sets share films as datasets declare it, and what the record says
of its split. What nobody declared is not guessed: a corpus of one's own table has no mark.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

from medbench.records import Corpus, Record
from medbench.specs import DatasetSpec


class Overlaps:
    """Which datasets share films.

    Args:
        datasets: declared ones, by name.
    """

    def __init__(self, datasets: Mapping[str, DatasetSpec]) -> None:
        self._datasets = datasets

    @cached_property
    def _holders(self) -> dict[str, dict[str, str]]:
        """By dataset: all sets that its films are in, with what says so; a set's set included."""
        direct = {
            name: ({spec.within: f"{name} is chosen from {spec.within}"} if spec.within else {})
            | {other: f"{name} has films of {other} ({source})" for other, source in spec.films_of.items()}
            for name, spec in self._datasets.items()
        }
        found = {name: dict(own) for name, own in direct.items()}
        for _ in direct:  # a chain is no longer than there are sets
            for own in found.values():
                for other in list(own):
                    for further, why in direct.get(other, {}).items():
                        own.setdefault(further, f"{own[other]}; {why}")
        return found

    def why(self, dataset: str, corpus: Corpus) -> str:
        """What the corpus has to do with the test set, in words; "" where nothing is known."""
        if corpus.dataset == dataset:
            return f"pretrained on {corpus.dataset}, the very set that it is tested on"
        if corpus.source == "phantom":
            return ""  # the twins of two sets are drawn apart
        holders = self._holders.get(dataset, {})
        for name in (dataset, *holders):
            spec = self._datasets.get(name)
            named = spec is not None and spec.title and spec.title.casefold() in corpus.dataset.casefold()
            if name == corpus.dataset or named:
                because = f": {holders[name]}" if name in holders else ", the very set that it is tested on"
                return f"pretrained on {corpus.dataset}{because}"
        return ""


def contamination(records: Sequence[Record], overlaps: Overlaps) -> list[str]:
    """Why the scores of one place are too good, a line for each reason; empty where nothing speaks for it."""
    lines: dict[str, None] = {}
    for record in records:
        if record.counts.split_leak:
            lines[f"split {record.identity.split}: {record.counts.split_leak}"] = None
        corpus = record.identity.weights.corpus
        if corpus is not None and (why := overlaps.why(record.identity.dataset, corpus)):
            lines[f"{why}; {_left_out(record, corpus)}"] = None
    return list(lines)


def _left_out(record: Record, corpus: Corpus) -> str:
    """What the pretraining did not see of its corpus."""
    info = record.weights.info.get("corpus", {}) if record.weights is not None else {}
    split = info.get("split")
    if record.identity.weights.kind == "pretrained" and split:
        broken = f", {corpus.excluded:,} broken samples left out" if corpus.excluded else ""
        return f"it saw the training and validation parts of split {split} and no other film{broken}"
    return "what was left out of it is not known"
