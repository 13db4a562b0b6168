"""The leaderboards are declared lightly and are functions of records."""

import subprocess
import sys
from collections.abc import Callable

from medbench.results import Results
from medbench_leaderboards import medbench_leaderboards

FORMATS = {
    "markdown": {"leaderboard.md"},
    "csv": {"cells.csv", "comparisons.csv", "published.csv"},
    "csv-wide": set(),
    "json": {"leaderboard.json"},
    "latex": set(),
}


def test_declarations_load_and_take_results(given: Callable[..., Results]) -> None:
    specs = {spec.format: spec for spec in medbench_leaderboards()}
    assert set(specs) == {*FORMATS, "plots", "html"}
    for name, files in FORMATS.items():
        assert set(specs[name].load()(given([]))) == files


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, medbench_leaderboards as m; list(m.medbench_leaderboards()); "
        "print(sorted({'torch', 'pandas', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
