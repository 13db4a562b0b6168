"""How fast phantom films are made, on one core: `python benchmarks/phantom_rate.py [FILMS]`.

Prints films a second for each part, in processor time (so that a busy machine does not spoil the figure),
the best of three rounds.
"""

import os

# One core is what is measured; set before numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from medbench.phantom import mimic_cxr, rsna
from medbench.phantom.grammar import write_report
from medbench.phantom.render import render
from medbench.phantom.study import stream


def rate(films: int, work: Callable[[], None]) -> float:
    """Films a second of processor time, the best of three rounds."""
    rounds = []
    for _ in range(3):
        start = time.process_time()
        work()
        rounds.append(films / (time.process_time() - start))
    return max(rounds)


def main() -> None:
    """Measure and print."""
    films = int(sys.argv[1]) if len(sys.argv) > 1 else 200

    def draw_and_word() -> None:
        for number in range(films):
            patient = mimic_cxr.patient(number)
            study = patient.studies[0]
            render(patient.anatomy, study.films[0], study.findings, masks=())
            write_report(patient, study, stream("rate", 0, number))

    def draw_with_masks() -> None:
        for number in range(films):
            patient = rsna.patient(number)
            render(patient.anatomy, patient.studies[0].films[0], patient.studies[0].findings)

    def write_rsna() -> None:
        with tempfile.TemporaryDirectory() as folder:
            rsna.write(Path(folder) / "rsna", patients=films)

    def write_mimic() -> None:
        with tempfile.TemporaryDirectory() as folder:
            mimic_cxr.write(Path(folder) / "mimic", patients=films)

    draw_and_word()  # fills the shared pictures (vessels, bones, noise), which a process makes once
    print("256 x 256 films a second of one core")
    print(f"  drawn, with report                   {rate(films, draw_and_word):7.0f}")
    print(f"  drawn, with masks and boxes          {rate(films, draw_with_masks):7.0f}")
    print(f"  written as RSNA (DICOM, boxes)       {rate(films, write_rsna):7.0f}")
    print(f"  written as MIMIC-CXR (JPEG, report)  {rate(mimic_cxr.total(films), write_mimic):7.0f}")


if __name__ == "__main__":
    main()
