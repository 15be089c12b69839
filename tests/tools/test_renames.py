"""The verifier's tables of renamed tensors are those of the installed transformers."""

import pytest

from app.evidence.verifier.renames import tables


def test_every_table_of_the_installed_version_is_there() -> None:
    """After a change of transformers: `python -m tools.renames`."""
    pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    from tools.renames import installed

    assert set(installed()) <= set(tables())
