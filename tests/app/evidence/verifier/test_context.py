"""Problems are one readable line, with the two digests below where they were compared."""

from app.evidence.verifier.context import Problem, Rejected, printable


def test_a_problem_shows_both_digests() -> None:
    problem = Problem("check", "other bytes", "w", "ab", "cd")
    assert str(problem) == "w: other bytes\n    expected ab\n    found    cd"


def test_a_problem_without_digests_is_one_line() -> None:
    assert str(Problem("check", "missing", "a\nb")) == "a\\nb: missing"


def test_control_characters_are_escaped() -> None:
    assert printable("x\x1b[2J\u202e") == "x\\x1b[2J\\u202e"


def test_a_rejection_reads_as_its_first_problem() -> None:
    assert str(Rejected([Problem("a", "first"), Problem("b", "second")])) == "first"
