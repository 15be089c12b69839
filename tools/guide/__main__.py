"""`python -m tools.guide` writes the site to `app/guide/built/`, where the API finds it; `make guide` calls it."""

import tempfile
from pathlib import Path

from tools.guide import site, sources

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "app" / "guide" / "built"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        sources.write(ROOT, project)
        site.build(project)
        site.publish(project, BUILT)
    print(f"the guide is built: {BUILT.relative_to(ROOT)}; permafrost serve shows it at /guide")


if __name__ == "__main__":
    main()
