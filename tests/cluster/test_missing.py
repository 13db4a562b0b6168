"""What an executor needs and does not find, it names."""

import sys

import pytest

from medbench.errors import PluginError, UsageError
from medbench.executors import make


@pytest.mark.parametrize(("name", "library"), [("slurm", "submitit.core.core"), ("ray", "ray")])
def test_a_library_that_is_not_installed(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"medbench.executors.{name}", raising=False)
    with pytest.raises(PluginError, match=rf"pip install 'medbench\[{name}\]'"):
        make(name)


def test_a_machine_that_is_no_login_node(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="no sbatch on the path"):
        make("slurm")
