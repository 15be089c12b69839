"""The library's face: what `import permafrost` offers, and what it needs to be installed."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import permafrost

ROOT = Path(__file__).parents[2]
#: Everything that the service needs and that a training loop of one's own need not have.
SERVICE = ("pydantic", "sqlalchemy", "fastapi", "celery", "structlog", "transformers", "peft", "safetensors")
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""
WATCH = """
import torch
from permafrost import Witness
model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
frozen, trained = model[0].parameters(), model[1].parameters()
optimizer = torch.optim.SGD([{"params": frozen, "requires_grad": False}, {"params": trained}], lr=0.1)
with Witness(model, freeze=["0.**"]) as witness:
    for _ in range(3):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        witness.step()
print(witness.report().verdict)
"""


def run(code: str, *, blocked: tuple[str, ...]) -> str:
    command = [sys.executable, "-c", BLOCKED.format(blocked=set(blocked)) + code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_witness_needs_torch_and_xxhash_alone() -> None:
    """It finds the parameter group whose `requires_grad` key every optimizer ignores, with nothing else installed."""
    assert run(WATCH, blocked=(*SERVICE, "cryptography")) == "violated"


def test_the_verifier_needs_no_torch() -> None:
    """An auditor imports `verify` without torch, numpy or anything of the service."""
    assert run("from permafrost import verify; print(verify.__name__)", blocked=(*SERVICE, "torch", "xxhash", "numpy"))


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Names are loaded when they are first used."""
    code = "import permafrost, sys; print({'torch', 'numpy', 'cryptography'} & set(sys.modules))"
    assert run(code, blocked=()) == "set()"


def test_there_is_one_version() -> None:
    """Of the package, of the installed distribution, and of the command."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"permafrost {permafrost.__version__}\n"
    assert version("permafrost") == permafrost.__version__


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    """As an attribute and as an import, and `dir` lists what there is."""
    with pytest.raises(AttributeError, match="Witness, __version__, diff, verify"):
        _ = permafrost.witness
    assert dir(permafrost) == ["Witness", "__version__", "diff", "verify"]
