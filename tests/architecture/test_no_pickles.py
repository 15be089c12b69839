"""Nothing here opens what can run code: no pickle, no eval, no YAML loader, no remote code."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Names that load or run what somebody else wrote, by their last two parts.
FORBIDDEN_CALLS = {
    "torch.load", "pickle.load", "pickle.loads", "joblib.load", "yaml.load", "marshal.loads", "shelve.open",
    "dill.load", "dill.loads", "cloudpickle.loads", "eval", "exec", "os.system", "jit.load", "hub.load",
    "subprocess.getoutput",
}  # fmt: skip
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
#: Names of YAML that construct nothing but mappings, lists and scalars.
SAFE_OF_YAML = {"YAMLError", "safe_load", "SafeLoader", "compose", "MappingNode", "ScalarNode", "SequenceNode"}
FORBIDDEN_ARGUMENTS = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False, "shell": True}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("app", "worker", "migrations"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path, ast.parse(path.read_text("utf-8"))


def test_no_loader_that_runs_code() -> None:
    """Neither by import, nor by call, nor by an argument that would allow it."""
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            what = _offence(node)
            if what:
                found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {what}")
    assert found == []


def test_the_search_finds_what_it_looks_for() -> None:
    """Each kind of offence, so that an empty list means something."""
    bad = (
        "import pickle\nimport yaml\nfrom yaml import load\nfrom yaml import safe_load\n"
        "from dill import loads\ntorch.load(x)\neval('1')\nnp.load(x, allow_pickle=True)\nf(shell=True)"
    )
    assert len([node for node in ast.walk(ast.parse(bad)) if _offence(node)]) == 8


def _offence(node: ast.AST) -> str | None:
    if isinstance(node, ast.Import):
        return next((each.name for each in node.names if each.name.split(".")[0] in FORBIDDEN_MODULES), None)
    if isinstance(node, ast.ImportFrom) and node.module == "yaml":
        return next((f"yaml.{each.name}" for each in node.names if each.name not in SAFE_OF_YAML), None)
    if isinstance(node, ast.ImportFrom):
        return node.module if (node.module or "").split(".")[0] in FORBIDDEN_MODULES else None
    if isinstance(node, ast.Call):
        name = ".".join(ast.unparse(node.func).split(".")[-2:])
        if name in FORBIDDEN_CALLS:
            return name
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
        wanted = FORBIDDEN_ARGUMENTS.get(node.arg or "")
        return node.arg if wanted is not None and node.value.value is wanted else None
    return None
