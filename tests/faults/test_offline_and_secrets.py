"""With --offline no connection is tried, and secrets of the environment are in nothing that a run leaves or prints."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medbench.redaction import without_secrets

CANARY = "canary5b1d0f6e"
SECRETS = {
    **dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), f"hf_{CANARY}1234567890"),
    **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "PASSWORD"), f"{CANARY}abcdef"),
    "GITHUB_TOKEN": f"ghp_{CANARY}1234567890",
    "HTTPS_PROXY": f"http://user:{CANARY}@127.0.0.1:9",
}

GUARD = '''
"""Every try to reach a network is written down, and ends the program."""
import os, sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):
            return  # a socket of this machine's own file system
    elif event not in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request"):
        return
    with open(os.environ["GUARD_LOG"], "a") as log:
        print(event, arguments[1:], file=log)
    os._exit(99)

sys.addaudithook(guard)
'''

Medbench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run leaves all its files."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    return folder


@pytest.fixture(scope="module")
def medbench(place: Path) -> Medbench:
    """Runs medbench offline in a process that may reach no network, with secrets in its environment."""
    path = os.pathsep.join([str(place / "guard"), os.environ.get("PYTHONPATH", "")])
    settings = {
        **{"MEDBENCH_HOME": "home", "MEDBENCH_CACHE": "cache", "MEDBENCH_RESULTS": "results", "HOME": "."},
        **{"HF_HOME": "hub", "PYTHONPATH": path, "GUARD_LOG": "guard/log", "MEDBENCH_OFFLINE": "1"},
    }
    kept = {
        name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG", "OMP_NUM_THREADS") if name in os.environ
    }

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from medbench.cli import main; main()", *arguments],
            cwd=place,
            env={**kept, **settings, **SECRETS},
            capture_output=True,
            text=True,
            timeout=1200,
        )

    return call


def test_the_guard_guards(medbench: Medbench, place: Path) -> None:
    """Else the tests below would find nothing, whatever was tried."""
    reach = "import medbench.cli, socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run(
        [sys.executable, "-c", reach],
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": f"{place / 'guard'}:{os.environ.get('PYTHONPATH', '')}",
            "GUARD_LOG": "guard/log",
        },
        timeout=60,
    )
    assert done.returncode == 99
    assert "socket.getaddrinfo" in (place / "guard" / "log").read_text()
    (place / "guard" / "log").unlink()


@pytest.mark.slow
def test_a_run_and_what_follows_reach_no_network(medbench: Medbench, place: Path) -> None:
    verbs = [
        ("run", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", "--fraction", "1", "--offline", "-v"),
        ("plan", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", "--offline"),
        ("results", "list"),
        ("results", "verify"),
        ("results", "export", "--out", "sent"),
        ("leaderboard", "build", "--format", "markdown,csv,html", "--out", "board"),
        ("doctor", "-v"),
    ]
    said = []
    for verb in verbs:
        done = medbench(*verb)
        assert done.returncode == 0, (verb, done.stdout, done.stderr)
        said.append(done.stdout + done.stderr)
    assert not (place / "guard" / "log").exists(), (place / "guard" / "log").read_text()
    assert CANARY not in "".join(said)


@pytest.mark.slow
def test_what_a_recipe_would_fetch_is_refused_without_asking(medbench: Medbench, place: Path) -> None:
    done = medbench("run", "-m", "imagenet", "-t", "rsna_lp", "--recipe", "paper", "--offline")
    assert done.returncode in (1, 3, 4), (done.returncode, done.stdout, done.stderr)
    assert not (place / "guard" / "log").exists(), (place / "guard" / "log").read_text()
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.slow
def test_no_file_that_was_left_holds_a_secret(medbench: Medbench, place: Path) -> None:
    files = [path for path in place.rglob("*") if path.is_file() and "guard" not in path.parts]
    kinds = {path.suffix for path in files}
    assert {".json", ".parquet", ".safetensors", ".html", ".csv", ".sqlite"} <= kinds  # a run was there
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_an_address_with_a_password_is_not_printed(medbench: Medbench) -> None:
    done = medbench(
        *("run", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", "-v"),
        *("--corpus", f"table:https://me:{CANARY}@example.org/pairs.csv?token={CANARY}"),
    )
    assert done.returncode in (2, 3)
    assert CANARY not in done.stdout + done.stderr
    assert "https://me:***@" in done.stderr or "https:/me:***@" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@example.org/x", "https://me:***@example.org/x"),
        ("GET /x?token=abc&size=2 failed", "GET /x?token=***&size=2 failed"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer ***"),
        ("invalid token hf_abcdefghijkl.", "invalid token ***."),
        ("clone https://ghp_abcdefghijkl@github.com", "clone https://***@github.com"),
        ("key AKIAABCDEFGHIJKLMNOP", "key ***"),
        ("mask-rcnn of sk-learn at 10:30 in /data/hf_cache, mail a@b.org", None),
        ("expected token=3 of 7", None),
    ],
)
def test_secrets_in_texts_become_stars(text: str, shown: str | None) -> None:
    assert without_secrets(text) == (text if shown is None else shown)
