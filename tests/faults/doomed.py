"""A process that has imported everything once, and forks a child for each command that can be told what happens to it.

Reads an order a line from standard input, as JSON, and answers each with a line:

    {"arguments": ["run", ...], "environment": {...}, "log": FILE, "watch": DIR, "fault": null}
    {"exit": 0, "seconds": 1.5, "calls": 120}

`exit` is negative where a signal ended the child. `calls` counts what it did to files below `watch`: opened one for
writing, renamed, linked, cut or removed one, made or removed a folder. Faults:

    ["call", n]        killed before the n-th such call
    ["bytes", n]       killed as soon as a file grows beyond n bytes: what is being written is cut there
    ["seconds", s]     killed after so long
    ["refuse", n, e]   the n-th such call and all that follow fail with error number e
    ["limit", n]       no file can grow beyond n bytes
    ["clock", s]       each time that is asked for lies up to s seconds before or behind the right one
"""

import importlib
import json
import math
import os
import random
import resource
import signal
import sys
import time
from typing import Any

PRELOADED = (
    "medbench.cells",
    "medbench.pretrain",
    "medbench.protocols.fine_tune",
    "medbench.runner",
    "medbench_leaderboards.assemble",
    "medbench_methods.clip",
    "medbench_methods.random",
    "medbench_tasks.classification",
)

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime"}


class Watch:
    """Counts the calls that change files below a folder; at one of them kills the process, or refuses from there on."""

    def __init__(self, folder: str, at: float, error: int) -> None:
        self.folder, self.at, self.error, self.calls = folder, at, error, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            path, changes = arguments[0] if arguments else None, event in CHANGES
        if changes and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
            if self.calls >= self.at:
                if self.error == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(self.error, os.strerror(self.error), os.fspath(path))
            self.calls += 1


def child(order: dict[str, Any], answer: int) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order["environment"])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # films are then decoded in this process
    kind, n, error = (*(order["fault"] or ("", 0)), 0)[:3]
    watch = Watch(order["watch"], n if kind in ("call", "refuse") else math.inf, error)
    sys.addaudithook(watch)
    if kind in ("bytes", "limit"):
        if kind == "bytes":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
    if kind == "clock":
        right, jump = time.time, random.Random(n)
        time.time = lambda: right() + jump.uniform(-n, n)
    sys.argv = ["medbench", *order["arguments"]]
    from medbench.cli import main

    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answer, str(watch.calls).encode())
    os._exit(code or 0)


def do(order: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            child(order, writing)
        finally:  # an error of ours: never go on as a second server
            import traceback

            traceback.print_exc()
            os._exit(99)
    os.close(writing)
    if order["fault"] and order["fault"][0] == "seconds":
        time.sleep(order["fault"][1])
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - start
    with os.fdopen(reading) as counted:
        calls = int(counted.read() or 0)
    return {"exit": status, "seconds": seconds, "calls": calls}


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(do(json.loads(line))), flush=True)
