"""How fast, and in how much memory, tasks are measured: each part prints its goal and whether it is met.

    python benchmarks/tasks.py                             # every part, at full size
    python benchmarks/tasks.py retrieval --pairs 5000      # smaller

The parts are the files of `task_parts/`, which say what they measure. Other work on the machine spoils the times.
"""

import argparse
from importlib import import_module

PARTS = ("retrieval", "lp", "lp_mgca", "map", "features")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=20_000, help="of retrieval (default: 20,000)")
    parser.add_argument("--films", type=int, default=50_000, help="of lp (default: 50,000)")
    parser.add_argument("--features", type=int, default=2_048, help="of lp (default: 2,048)")
    parser.add_argument("--labels", type=int, default=14, help="of lp (default: 14)")
    parser.add_argument("--fits", type=int, default=22, help="of scikit-learn in lp (default: 22)")
    parser.add_argument(
        "--frozen", type=int, default=1_500, help="films of lp_mgca, features (default: 1,500)"
    )
    parser.add_argument("--recipe", default="paper", help="of the encoder of features (default: paper)")
    parser.add_argument("--images", type=int, default=5_000, help="of map (default: 5,000)")
    options = parser.parse_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        for result in getattr(import_module(f"task_parts.{name}"), name)(options):
            print(result, flush=True)


if __name__ == "__main__":
    main()
