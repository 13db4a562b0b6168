"""What of a record may leave the machine that it was made on. Lists of what may, never of what may not.

Two things are kept back: of everybody, paths and the names of users and hosts; of films that may not be passed on,
every target, every attribute of a patient and every id.
"""

import getpass
import hashlib
import hmac
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd

from medbench.plugins import Catalogue
from medbench.provenance import PACKAGES
from medbench.records import Identity
from medbench.specs import TABLE

LOCAL: Final = "(local)"
"""Stands where an identity named a file or a folder."""

WITHHELD: Final = "(withheld)"
"""Stands for a word of free text that may be a path or a name, and for the reason why a sample was left out."""

KEY: Final = "key"
"""Column of keyed predictions that names the row."""

_COLUMNS = ("classes", "direction", "gallery", "height", "width")
PREFIXES = ("score_", "threshold_", "present_", "absent_", "pred_")
"""Columns of predictions that say what a model says, and nothing of the patient."""

_ENVIRONMENT = ("device", "git", "nondeterministic", "plugins", "rescored", "versions")
_DEVICE = (
    *("type", "name", "threads", "torch", "keeps_freed_memory", "deterministic_algorithms"),
    *("capability", "memory_bytes", "cuda", "cudnn"),
)
_WEIGHTS = (
    *(
        "accumulate",
        "batch_size",
        "best_epoch",
        "chosen_by",
        "config",
        "corpus",
        "device",
        "engine",
        "epochs",
    ),
    *("fidelity", "format", "git", "history", "medbench", "method", "nondeterministic", "optimiser_steps"),
    *("owner", "part", "precision", "pretrain", "provides", "recipe", "released", "seed", "sha256"),
    "stopped_early",
)
_RELEASED = ("sha256", "bytes", "kind", "layout", "where", "coverage")  # not the name of the file

_WORD = re.compile(r"[^\s\"'`,;:=()\[\]{}<>|]+")
_PART = r"[A-Za-z0-9][\w+%-]*(?:\.[\w+%-]+)*"
_RUN = re.compile(rf"{_WORD.pattern}(?:\s+{_WORD.pattern})*")
_HUBS = r"(?:hf-hub:)?(?:bionlp|emilyalsentzer|facebook|google|microsoft|openai|timm|StanfordAIMI)"
_PAIR = re.compile(rf"(?:{_HUBS}/{_PART}|medbench\.\w+/\d|10\.\d{{4,}}/{_PART}|[\d.]+/[\d.]+|and/or)\.?")
"""With a slash, and no path: names of models of known owners, of schemas, a DOI, "1/10", "and/or"."""
_HASHED = re.compile(r"@([0-9.]+|[0-9a-f]{4,})$")
_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|file:")


def is_private(identity: Identity, catalogue: Catalogue) -> bool:
    """Whether what is known of the test films may not be passed on.

    Real films of a dataset behind an agreement or a training course, of a table of somebody's own, and of a dataset
    that is not installed, of which nothing is known. Phantoms are nobody's.
    """
    if identity.source == "phantom":
        return False
    spec = catalogue.datasets.get(identity.dataset)
    return spec is None or spec.credentialed or spec.name == TABLE


def plain(text: str) -> bool:
    """Whether no word of a text can be a path or an address."""
    return not any(_is_path(word) or _is_address(word) for word in _WORD.findall(text))


def named(text: str) -> bool:
    """Whether a word of a text is the name of this user or host."""
    return any(map(_is_own, _WORD.findall(text)))


def scrub(text: str) -> str:
    """A text with `WITHHELD` for every word that may be an address, or is the name of this user or host.

    It stands for a path, too, and for the words after it up to a comma or the like, as a folder may have blanks in its
    name.
    """

    def said(found: re.Match[str]) -> str:
        parts = re.split(r"(\s+)", found[0])  # words and what is between them
        for number, word in enumerate(parts):
            if _is_path(word):
                return "".join([*parts[:number], WITHHELD])
            if _is_address(word) or _is_own(word):
                parts[number] = WITHHELD
        return "".join(parts)

    return _RUN.sub(said, text)


def _is_path(word: str) -> bool:
    if "\\" in word or re.match(r"~([A-Za-z/.]|$)", word):
        return True
    return "/" in word and (_PAIR.fullmatch(word) is None or _FILE.search(word) is not None)


def _is_address(word: str) -> bool:
    """`somebody@somewhere`; not "P@5", nor a list of films with its hash."""
    return "@" in word and _HASHED.search(word) is None and word != "@"


def _is_own(word: str) -> bool:
    word, names = word.lower().rstrip("."), _own_names()
    parts = re.split(r"[^a-z0-9]+", word)
    return word in names or any(len(part) > 3 and part in names for part in parts)


@cache
def _own_names() -> frozenset[str]:
    """Of this user and this host; `root` and the like are words like any other."""
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with suppress(OSError, KeyError):  # a user without a name
        names.add(getpass.getuser())
    return frozenset(name.lower() for name in names if len(name) > 1) - {"root", "localhost", "medbench"}


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value, keys too, with the place where it stands ("search.notes.0")."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield where, str(name)
            yield from texts(inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from texts(inner, f"{where}.{number}".lstrip("."))


def without_files(value: Any, known: frozenset[str], where: str, found: list[str]) -> Any:
    """A JSON value of an identity with `LOCAL` for every string that is not plain, or names this user or host.

    Args:
        value: to be copied.
        known: strings that are as the installed code has them, and stay.
        where: name of its place.
        found: gets the places that were replaced.
    """
    if isinstance(value, dict):
        return {name: without_files(v, known, f"{where}.{name}", found) for name, v in value.items()}
    if isinstance(value, list):
        return [without_files(v, known, f"{where}.{k}", found) for k, v in enumerate(value)]
    if isinstance(value, str) and value not in known and (not plain(value) or named(value)):
        found.append(where)
        return LOCAL
    return value


def scrubbed(value: Any) -> Any:
    """A JSON value of free form with all its texts scrubbed; what has a key that is not plain is left out."""
    if isinstance(value, dict):
        return {name: scrubbed(v) for name, v in value.items() if plain(str(name)) and not named(str(name))}
    if isinstance(value, list):
        return [scrubbed(v) for v in value]
    return scrub(value) if isinstance(value, str) else value


def environment(block: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record's `environment`: packages that can change a number, commit, device; not the system's name."""
    kept = _only(block, _ENVIRONMENT)
    for name, parts in (
        ("versions", ("python", *PACKAGES)),
        ("git", ("commit", "dirty")),
        ("device", _DEVICE),
    ):
        if isinstance(kept.get(name), dict):
            kept[name] = _only(kept[name], parts)
    made: dict[str, Any] = scrubbed(kept)
    return made


def weights_info(info: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Of `weights.info`: how the weights were made; configs as in the identity, other texts scrubbed."""
    kept = _only(info, _WEIGHTS)
    if isinstance(kept.get("released"), dict):
        kept["released"] = _only(kept["released"], _RELEASED)
    if isinstance(kept.get("device"), dict):
        kept["device"] = _only(kept["device"], _DEVICE)
    configs = {name: kept.pop(name) for name in ("config", "pretrain") if name in kept}
    return {**scrubbed(kept), **without_files(configs, known, "", [])}


def _only(block: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: block[name] for name in names if name in block}


# Films that may not be passed on.


def row_key(key: bytes, sample: str) -> str:
    """HMAC-SHA256 of a sample's id, in hex: the same for everybody who has the key, and nothing to anybody else."""
    return hmac.digest(key, sample.encode(), "sha256").hex()


def key_id(key: bytes) -> str:
    """Tells keys apart without giving one away; 16 hex digits."""
    return hashlib.sha256(b"medbench submission key\0" + key).hexdigest()[:16]


def is_score(column: str) -> bool:
    """Whether a column of predictions says what a model says, and nothing of the patient."""
    return column in _COLUMNS or column.startswith(PREFIXES)


def keyed(predictions: pd.DataFrame, key: bytes) -> pd.DataFrame:
    """Predictions by keyed rows, in the order of these keys, so that the order of the films is gone as well."""
    scores = predictions[[name for name in predictions.columns if is_score(str(name))]]
    keys = [row_key(key, sample) for sample in predictions["sample"].astype(str)]
    named = scores.reset_index(drop=True).assign(**{KEY: keys})
    return named.sort_values(KEY, kind="stable", ignore_index=True)[[KEY, *scores.columns]]


def keyed_lists(parts: Mapping[str, Iterable[str]], key: bytes) -> dict[str, list[str]]:
    """Lists of ids, keyed and sorted."""
    return {name: sorted(row_key(key, sample) for sample in ids) for name, ids in parts.items()}


def named_elsewhere(value: Any, ids: Iterable[str]) -> str:
    """A text of a JSON value that holds one of these ids, with its place; "" if none does.

    A part of an id that is a path counts as one if it has four digits: that of the patient. Ids of few digits alone are
    not looked for: they are numbers like any other.
    """
    wanted = {name for name in ids if len(name) > 5 or not name.isdigit()}
    wanted |= {part for name in wanted for part in name.split("/") if re.search(r"\d{4}", part)}
    for where, text in texts(value):
        if not wanted.isdisjoint((text, *_WORD.findall(text))):
            return f"{where}: {text}"
    return ""


def absolute(table: pd.DataFrame) -> str:
    """A column of texts, or of lists of them, in which there is an absolute path; "" if there is none."""
    for name in table.columns:
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) or not len(column):
            continue
        first = column.iloc[0]
        values = column.explode() if isinstance(first, list | np.ndarray) else column
        if any(isinstance(value, str) and _ABSOLUTE.match(value) for value in values.drop_duplicates()):
            return str(name)
    return ""
