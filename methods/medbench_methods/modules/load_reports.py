"""Libraries that list what was left out on purpose, kept quiet."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_load_report(logger: str) -> Iterator[None]:
    """Keep a library's logger of this name from telling less than errors while weights are loaded."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
