"""The tables of renames: what a stored name becomes in the live model."""

import pytest

from app.evidence.verifier.renames import parse_tables, renamed, render_tables, tables


def test_no_table_exchanges_names() -> None:
    """What one table makes of a name it never makes of that name's own new one: no two tensors can change places."""
    for table in tables():
        for pattern, _, target in table:
            if "\\" not in pattern + target and "(" not in pattern.replace("(?!\\w)", ""):
                assert renamed(target, table, joined=True) != pattern.replace("(?!\\w)", ""), (pattern, target)


@pytest.mark.parametrize(
    ("stored", "live"),
    [
        (
            "swin.encoder.layers.0.blocks.0.attention.self.key.bias",
            "swin.encoder.layers.0.blocks.0.attention.k_proj.bias",
        ),
        ("vit.encoder.layer.10.intermediate.dense.weight", "vit.layers.10.mlp.fc1.weight"),
        ("embed_out.weight", "lm_head.weight"),
    ],
)
def test_stored_names_become_live_ones(stored: str, live: str) -> None:
    assert live in {renamed(stored, table, joined=False) for table in tables()}


def test_parts_of_one_tensor_keep_their_names_unless_joined() -> None:
    """Experts are one live tensor, and as stored tensors still three."""
    names = [f"model.layers.0.mlp.experts.1.{each}.weight" for each in ("gate_proj", "up_proj")]
    table = next(each for each in tables() if renamed(names[0], each, joined=True).endswith("gate_up_proj"))
    assert {renamed(each, table, joined=True) for each in names} == {"model.layers.0.mlp.experts.gate_up_proj"}
    assert [renamed(each, table, joined=False) for each in names] == names


def test_tables_survive_their_file() -> None:
    assert parse_tables(render_tables(tables())) == tables()
