"""What is written about a method, a task or a dataset."""

import sys
from importlib import metadata

from medbench.conformance.check import Failed
from medbench.plugins import Catalogue, Kind
from medbench.specs import Spec

LONGEST = 120
"""Characters of a summary, which stands on one line of `medbench list`."""


def documented(catalogue: Catalogue, kind: Kind, spec: Spec, target: object) -> str:
    """Where it is written about.

    Raises:
        Failed: nowhere, or too little.
    """
    if not spec.summary.strip() or "\n" in spec.summary or len(spec.summary) > LONGEST:
        raise Failed(
            f"the summary {spec.summary!r}", f"one line of 1 to {LONGEST} characters", "Say what it is."
        )
    if not spec.reference.strip():
        raise Failed("no reference", "the paper, code or page that it follows", "Name it in the spec.")
    own = vars(target).get("__doc__") if isinstance(target, type) else getattr(target, "__doc__", None)
    if not (own or "").strip():
        raise Failed(f"no docstring of {spec.target}", "a sentence that says what it does", "Write one.")
    owner = catalogue.owner(kind, spec.name).name
    try:
        about = metadata.metadata(owner).json
    except metadata.PackageNotFoundError:  # a file, or a module that is not installed
        plugin = next(plugin for plugin in catalogue.plugins if plugin.owner.name == owner)
        module = sys.modules.get(plugin.source) or sys.modules[spec.target.partition(":")[0]]
        if not (module.__doc__ or "").strip():
            raise Failed(
                f"no docstring of {plugin.source}, which is no installed package with a README",
                "a page, or a sentence at the head of the file, that says what it brings",
                "Write one.",
            ) from None
        return "summary, reference, docstrings of class and module"
    pages = [url for url in about.get("project_url", []) if "doc" in url.lower()]
    if not (about.get("description") or pages):
        raise Failed(
            f"no README in the metadata of {owner}, and no page of documentation",
            "one of them",
            'Add `readme = "README.md"` to pyproject.toml, or `documentation` to [project.urls].',
        )
    return f"summary, reference, docstring; {'README' if not pages else pages[0]} of {owner}"
