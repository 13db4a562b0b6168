"""Prompt sets of zero-shot classification: what a class is called in words, read from a data file.

A file (TOML) has a `source`, an `ensemble` ("max" or "mean" of the similarities to the prompts of a class) and one of

    [words.CLASS]            lists of words; every combination of them, joined in the order of the keys, is a prompt
    [templates]              `present` and `absent`, lists with {} where the name of a class goes; for any class
    [pool]                   likewise, what draws of prompts are taken from; without it, the prompts that are scored

The first kind is for classes that exclude each other, the second for those that are there or not. Prompts are written
as the sentences of a cleaned report are: lower case, words and single blanks, no punctuation.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from typing import Any, Literal

from medbench.errors import UsageError

Ensemble = Literal["max", "mean"]

_KEYS = {"source", "ensemble", "words", "templates", "pool"}


@dataclass(frozen=True)
class Prompts:
    """What is said of one class: that it is there, and, where it can be denied, that it is not. No prompt is twice."""

    present: tuple[str, ...]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """A file.

    Attributes:
        source: where its words come from.
        ensemble: how the similarities to several prompts become one.
        exclusive: whether its classes exclude each other; then nothing is denied.
        sha256: of the file.
    """

    source: str
    ensemble: Ensemble
    exclusive: bool
    sha256: str
    _words: Mapping[str, Prompts]
    _templates: Prompts
    _pool: Prompts

    def scored(self, name: str) -> Prompts:
        """The prompts of a class.

        Raises:
            UsageError: the file does not know the class.
        """
        return self._of(name, self._templates)

    def pool(self, name: str) -> Prompts:
        """What draws of prompts of a class are taken from; those of `scored` may be others."""
        return self._of(name, self._pool)

    def _of(self, name: str, templates: Prompts) -> Prompts:
        if not self.exclusive:
            called = name.replace("_", " ")
            return Prompts(
                *(
                    tuple(sentence(t.format(called)) for t in part)
                    for part in (templates.present, templates.absent)
                )
            )
        if name not in self._words:
            raise UsageError(
                f"no prompts for the class {name!r}; this set has them for {', '.join(self._words)} (source:"
                f" {self.source})."
            )
        return self._words[name]


def read_prompts(where: str) -> PromptSet:
    """Read a prompt set.

    Args:
        where: "package:path below it", as "medbench_tasks:prompts/pairs.toml".

    Raises:
        UsageError: there is no such file, or it is not as described above.
    """
    package, _, path = where.partition(":")
    try:
        data = (files(package) / path).read_bytes()
        return _parsed(tomllib.loads(data.decode()), hashlib.sha256(data).hexdigest())
    except (ModuleNotFoundError, OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        raise UsageError(f"prompts {where} can not be read: {error}") from error


def sentence(text: str) -> str:
    """A prompt as the sentences of a cleaned report are; see `medbench.data.reports.sentences`."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _parsed(found: Mapping[str, Any], sha256: str) -> PromptSet:
    if unknown := sorted(found.keys() - _KEYS):
        raise ValueError(f"unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    if ("words" in found) == ("templates" in found):
        raise ValueError("expected either [words.CLASS] or [templates]")
    if found.get("ensemble") not in ("max", "mean"):
        raise ValueError(f"ensemble is {found.get('ensemble')!r}; expected max or mean")
    if not found.get("source"):
        raise ValueError("expected a source")
    words = {
        name: Prompts(_different(_combined(lists), name)) for name, lists in found.get("words", {}).items()
    }
    templates = _templates(found.get("templates", {}))
    pool = _templates(found["pool"]) if "pool" in found else templates
    return PromptSet(found["source"], found["ensemble"], bool(words), sha256, words, templates, pool)


def _combined(lists: Mapping[str, Sequence[str]]) -> list[str]:
    return [sentence(" ".join(parts)) for parts in product(*lists.values())]


def _templates(found: Mapping[str, Sequence[str]]) -> Prompts:
    if not found:
        return Prompts(())
    if set(found) != {"present", "absent"}:
        raise ValueError(f"templates are present and absent, found {', '.join(found)}")
    wrong = [t for part in found.values() for t in part if t.count("{}") != 1]
    if wrong:
        raise ValueError(f"a template has one {{}} for the name of the class, found {wrong[0]!r}")
    return Prompts(_different(found["present"], "present"), _different(found["absent"], "absent"))


def _different(prompts: Sequence[str], name: str) -> tuple[str, ...]:
    if not prompts or not all(prompts):
        raise ValueError(f"{name} has no prompt, or an empty one")
    twice = sorted({prompt for prompt in prompts if prompts.count(prompt) > 1})
    if twice:
        raise ValueError(f"{name} has {twice[0]!r} more than once")
    return tuple(prompts)
