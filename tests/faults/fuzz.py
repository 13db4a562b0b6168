"""Fuzz a parser by coverage, for as long as one likes. Needs `pip install atheris`.

    python tests/faults/fuzz.py record -max_total_time=300
    python tests/faults/fuzz.py table CORPUS_DIR -max_len=4096

The names are those of `parsers.py`; all else goes to libFuzzer, which writes the input that failed beside it.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["medbench", "medbench_tasks"]):
    from parsers import PARSERS

if __name__ == "__main__":
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in PARSERS:
        raise SystemExit(f"expected one of {', '.join(PARSERS)}, found {name!r}")
    atheris.Setup(sys.argv, PARSERS[name])
    atheris.Fuzz()
