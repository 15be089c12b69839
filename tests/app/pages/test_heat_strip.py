"""The heat strip: which layer moved when."""

from xml.etree import ElementTree

from app.pages.heat_strip import MOST_LAYERS, MOST_STEPS, Move, draw


def test_a_layer_is_darker_when_it_has_moved_further() -> None:
    """By the tensor that moved most; layers in the order of their numbers, each with its values in words."""
    svg = draw(
        [Move("m.10", 5, 0.5), Move("m.2", 5, 1e-5), Move("m.2", 9, 0.02), Move("m.2", 9, 0.001), Move("m.10", 9, 0.5)]
    )
    assert svg is not None
    rows = list(ElementTree.fromstring(svg).iter("g"))
    titles = [row.findtext("title") for row in rows]
    assert titles == ["m.2: step 5: 1e-05, step 9: 0.02", "m.10: step 5: 0.5, step 9: 0.5"]
    assert [[path.attrib["class"] for path in row.iter("path")] for row in rows] == [["t1", "t4"], ["t5"]]
    assert "m.10 moved most" in svg


def test_a_long_run_of_a_deep_model_fits_a_page() -> None:
    """The layers that moved most, and checkpoints from the first to the last; names are text."""
    svg = draw([Move(f"a<b>.{layer}", step, layer / 1000) for layer in range(200) for step in range(100)])
    assert svg is not None and "<b>" not in svg
    rows = list(ElementTree.fromstring(svg).iter("g"))
    assert len(rows) == MOST_LAYERS
    assert (rows[-1].findtext("title") or "").count("step") == MOST_STEPS
    assert "step 0:" in svg and "step 99:" in svg and ".199:" in svg
    assert len(svg) < 60_000


def test_one_checkpoint_is_no_course() -> None:
    """Then there is no picture."""
    assert draw([Move("a", 1, 0.5), Move("b", 1, 0.5)]) is None
    assert draw([]) is None
