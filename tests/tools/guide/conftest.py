"""The guide of this checkout, built once."""

from pathlib import Path

import pytest

from tools.guide import site, sources

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the API would serve it from."""
    project = tmp_path_factory.mktemp("guide")
    sources.write(ROOT, project)
    site.build(project, strict=True)
    site.publish(project, project / "built")
    return project / "built"
