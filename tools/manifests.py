"""`python -m tools.manifests`: reads the Dockerfile and the files of deploy/ as those who use them would.

hadolint reads the Dockerfile; kubernetes-validate holds every resource against the schemas of Kubernetes, strictly.
Kinds that are not Kubernetes' own (Kustomization, KEDA's ScaledJob) have no schema there and are only parsed.
"""

import subprocess
import sys
from pathlib import Path

from tools.peers import PeerError, command

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
#: Kinds of other makers.
FOREIGN = {"kustomization.yaml", "scaled-job.yaml"}


def main() -> int:
    resources = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name not in FOREIGN)
    try:
        lines = [
            [str(command("hadolint")), "--config", str(ROOT / ".hadolint.yaml"), str(ROOT / "Dockerfile")],
            [str(command("kubernetes")), "--strict", "--quiet", *map(str, resources)],
        ]
    except PeerError as error:
        print(error, file=sys.stderr)
        return 1
    return max(subprocess.run(line, check=False).returncode for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
