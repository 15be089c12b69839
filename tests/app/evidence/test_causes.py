"""Violations by cause."""

from app.evidence.causes import Cause, by_cause


def test_one_write_to_many_tensors_is_one_cause() -> None:
    """The cause with the most tensors comes first; what is known of an operation keeps causes apart."""
    encoder = [{"name": f"e.{at}", "first_bad_step": 1, "operation": "aten::add_"} for at in range(3)]
    other = [{"name": "head", "first_bad_step": 1, "operation": "aten::mul_"}]
    assert by_cause(other + encoder) == [
        Cause(("e.0", "e.1", "e.2"), 1, "aten::add_", None),
        Cause(("head",), 1, "aten::mul_", None),
    ]


def test_what_only_the_files_show_is_grouped_without_its_figures() -> None:
    """A reason names the bytes of one tensor, which are no part of the cause."""
    found = [{"name": name, "reason": f"differs between base and result: {name} bytes"} for name in ("1", "2")]
    assert by_cause(found) == [Cause(("1", "2"), None, None, "differs between base and result")]
    assert by_cause([{"name": "a"}]) == [Cause(("a",), None, None, None)]
    assert by_cause([]) == []
