"""`python -m tools.manifests`: reads Dockerfile, compose files, workflows and deploy/ as those who use them would.

hadolint reads the Dockerfile; kubernetes-validate holds every resource against the schemas of Kubernetes, strictly.
Kinds that are not Kubernetes' own (Kustomization, KEDA's ScaledJob) have no schema there and are only parsed.
check-jsonschema has the compose specification and GitHub's schema of workflows.
"""

import subprocess
import sys
from pathlib import Path

from tools.peers import PeerError, command

ROOT = Path(__file__).parents[1]
KUBERNETES = Path("deploy", "kubernetes")
#: Kinds of other makers.
FOREIGN = {"kustomization.yaml", "scaled-job.yaml"}


def main() -> int:
    try:
        lines = checks(ROOT)
    except PeerError as error:
        print(error, file=sys.stderr)
        return 1
    return max(subprocess.run(line, check=False).returncode for line in lines)


def checks(root: Path) -> list[list[str]]:
    """The commands that read the files below `root`. Raises PeerError where a tool is not there."""
    resources = sorted(path for path in (root / KUBERNETES).rglob("*.yaml") if path.name not in FOREIGN)
    compose, workflows = sorted(root.glob("docker-compose*.yml")), sorted(root.glob(".github/workflows/*.yml"))
    schema = [str(command("schemas")), "--quiet", "--builtin-schema"]
    return [
        [str(command("hadolint")), "--config", str(root / ".hadolint.yaml"), str(root / "Dockerfile")],
        [str(command("kubernetes")), "--strict", "--quiet", *map(str, resources)],
        [*schema, "vendor.compose-spec", *map(str, compose)],
        [*schema, "vendor.github-workflows", *map(str, workflows)],
    ]


if __name__ == "__main__":
    raise SystemExit(main())
