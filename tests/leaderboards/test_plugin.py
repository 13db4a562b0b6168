"""The leaderboards are declared lightly and are functions of records."""

import subprocess
import sys

from medbench_leaderboards import medbench_leaderboards


def test_declarations_load_and_take_records() -> None:
    specs = {spec.format: spec for spec in medbench_leaderboards()}
    assert set(specs) == {"markdown", "csv"}
    for spec in specs.values():
        assert isinstance(spec.load()([]), str)


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, medbench_leaderboards as m; list(m.medbench_leaderboards()); "
        "print(sorted({'torch', 'pandas', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
