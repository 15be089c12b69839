"""Four readings of every tensor become rows and a verdict; no combination of them may be called verified by mistake."""

import re
from typing import Any

import pytest

from app.freeze.policy import Policy
from tests.app.evidence.attest.readings import (
    HEAD,
    HONEST,
    NEW,
    OLD,
    OTHER,
    RESULT,
    ROWS,
    TIED,
    embedding,
    judged,
    reading,
    seen,
    sliced,
    tie,
)


def test_honest_run_is_verified() -> None:
    """All four readings of the frozen tensor agree, and what trains may differ."""
    found = judged()
    assert (found.verdict, found.reason, found.violations) == ("verified", None, ())
    assert [(row.name, row.role, row.changed) for row in found.rows] == [
        ("enc.w", "frozen", False),
        ("head.w", "trainable", True),
    ]


@pytest.mark.parametrize(
    ("file", "loaded", "trained", "verdict"),
    [
        (OLD, OLD, OLD, "verified"),
        (NEW, OLD, NEW, "violated"),
        (NEW, OLD, OLD, "violated"),  # only the file was changed
        (OLD, OLD, NEW, "violated"),  # moved in memory, and the file has the base's bytes all the same
        (OLD, NEW, OLD, "violated"),  # the trainer lied about one of its two digests
        (OLD, NEW, NEW, "incomplete"),  # trained from something else than the base
        (OLD, None, OLD, "incomplete"),
        (OLD, OLD, None, "incomplete"),
        (OLD, None, None, "incomplete"),
        (NEW, None, None, "violated"),  # the files are enough
        (NEW, NEW, NEW, "violated"),
    ],
)
def test_every_disagreement_is_seen(file: str, loaded: str | None, trained: str | None, verdict: str) -> None:
    """Of all combinations only the one where base, loaded, trained and result agree is a proof."""
    found = judged(seen("enc.w", loaded, trained), HONEST[1], result=RESULT | {"enc.w": file})
    assert found.verdict == verdict
    assert (found.reason is None) == (verdict == "verified")
    assert [each["name"] for each in found.violations] == (["enc.w"] if verdict == "violated" else [])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "BF16", "nbytes": 16}, "dtype F32 became BF16"),
        ({"shape": (2, 4)}, r"shape \[4, 2\] became \[2, 4\]"),
    ],
)
def test_cast_or_reshaped_tensor_is_not_identical(changes: dict[str, Any], says: str) -> None:
    """Equal bytes under another dtype or shape are another tensor."""
    found = judged(result=RESULT | {"enc.w": reading("enc.w", OLD, **changes)})
    assert found.verdict == "violated"
    assert found.reason is not None
    assert re.search(says, found.reason)


@pytest.mark.parametrize(
    ("loaded", "trained", "made", "verdict"),
    [
        (NEW, NEW, {"enc.weight": NEW}, "verified"),
        (OTHER, OTHER, {"enc.weight": NEW}, "violated"),
        (NEW, OTHER, {"enc.weight": NEW}, "violated"),
        (NEW, NEW, {}, "incomplete"),
        (NEW, NEW, {"head.w": NEW}, "incomplete"),
        (None, None, {"enc.weight": NEW}, "incomplete"),
    ],
)
@pytest.mark.parametrize(("dtype", "field"), [("F32", "quantised"), ("F8_E4M3", "decoded")])
def test_what_loading_made_is_compared_with_what_it_should_make(
    loaded: str | None, trained: str | None, made: dict[str, str], verdict: str, dtype: str, field: str
) -> None:
    """A base below an adapter that is quantised or decoded for training: in memory it is what was made of it again."""
    base = {"enc.weight": reading("enc.weight", OLD, dtype=dtype)}
    tensor = seen("enc.weight", loaded, trained, result=None)
    adapter = seen("lora.w", OTHER, NEW, base=[])
    found = judged(tensor, adapter, base=base, result={"lora.w": NEW}, kind="adapter", made=made)
    assert found.verdict == verdict, found.reason
    assert getattr(found.rows[0], field) == made.get("enc.weight")
    if verdict == "violated" and loaded == trained:
        assert found.reason is not None and {"quantised": "quantising", "decoded": "decoding"}[field] in found.reason


def test_result_file_must_be_what_was_trained() -> None:
    """Also for a tensor that may change: another tensor in the file makes the run unclear, not violated."""
    found = judged(result=RESULT | {"head.w": OTHER})
    assert found.verdict == "incomplete"
    assert found.reason == "head.w has other bytes in the result file than at the end of training"


def test_frozen_tensor_must_be_in_the_result() -> None:
    """A full result without it has lost it; an adapter leaves it in the base."""
    tensors = (seen("enc.w", result=None), HONEST[1])
    assert judged(*tensors, result={"head.w": NEW}).verdict == "violated"
    assert judged(*tensors, result={"head.w": NEW}, kind="adapter").verdict == "verified"


def test_frozen_new_tensor_must_stay_as_it_began() -> None:
    """A frozen head is not claimed to be the base's, yet it must not move."""
    everything = Policy.from_json({"freeze": ["enc.**", "head.b"]})
    head = seen("head.b", OLD, NEW, base=[])
    base, result = {"enc.w": OLD, "head.w": OLD}, RESULT | {"head.b": NEW}
    assert judged(*HONEST, head, policy=everything, base=base, result=result).verdict == "violated"
    still = seen("head.b", NEW, NEW, base=[])
    assert judged(*HONEST, still, policy=everything, base=base, result=result).verdict == "verified"


def test_stray_result_tensor_is_not_passed_over() -> None:
    """A tensor in the result that nobody observed could hold anything."""
    found = judged(result=RESULT | {"shadow.w": OTHER})
    assert (found.verdict, found.reason) == (
        "incomplete",
        "shadow.w is in the result, but the trainer did not observe it",
    )


def test_either_copy_of_a_tie_may_break_the_promise() -> None:
    """The file's second copy counts as much as its first, and the step is that of the tensor."""
    both = {"emb.w": OLD, "dec.w": OLD}
    tensor, result = tie() | {"first_changed_step": 3}, {"emb.w": OLD, "dec.w": OTHER}
    found = judged(tensor, HONEST[1], policy=TIED, base=both | HEAD[0], result=result | HEAD[1])
    assert found.verdict == "violated"
    assert [(each["name"], each["first_bad_step"]) for each in found.violations] == [("dec.w", 3)]


def test_reported_violation_counts_even_if_the_files_agree() -> None:
    """A tensor that moved and came back was not frozen."""
    violation = {"name": "enc.w", "last_good_step": 4, "first_bad_step": 5, "operation": "aten::add_"}
    found = judged(reported=[violation])
    assert (found.verdict, found.violations) == ("violated", (violation,))


def test_violation_keeps_why_no_operation_is_named() -> None:
    """What a replay could not show is said in the evidence itself, and not in an event alone."""
    violation = {"name": "enc.w", "last_good_step": 4, "first_bad_step": 5, "operation": None}
    told = violation | {"explanation": "written from outside torch's dispatcher", "secret": "not a field"}
    assert judged(reported=[told]).violations == (violation | {"explanation": told["explanation"]},)


def test_violation_has_the_step_where_it_is_known() -> None:
    """From the witness where it saw it, else from the first step at which the tensor differed."""
    tensor = seen("enc.w", OLD, NEW, first_changed_step=3)
    found = judged(tensor, HONEST[1], result=RESULT | {"enc.w": NEW})
    assert found.violations[0]["first_bad_step"] == 3
    assert found.violations[0]["last_good_step"] == 2


def test_nothing_frozen_is_nothing_proved() -> None:
    """An empty claim is not a verified one."""
    found = judged(policy=Policy.from_json({"default": "train", "rules": []}))
    assert (found.verdict, found.reason) == ("incomplete", "nothing is frozen, so there is nothing to prove")


def test_policy_is_resolved_again() -> None:
    """A trainer that observes only some tensors does not get away with a policy that fits them."""
    found = judged(HONEST[1], base={"head.w": OLD}, result={"head.w": NEW})
    assert found.verdict == "incomplete"
    assert found.reason is not None
    assert "does not fit" in found.reason


def test_frozen_rows_are_compared_by_themselves() -> None:
    """Some rows train: the tensor changed, its frozen rows did not."""
    found = judged(
        embedding(), policy=ROWS, base={"emb.w": sliced(OLD, OLD, OLD)}, result={"emb.w": sliced(OLD, NEW, NEW)}
    )
    assert (found.verdict, found.rows[0].role, found.rows[0].changed) == ("verified", "split", True)
    assert [(part.rows, part.action) for part in found.rows[0].slices] == [((0, 2), "freeze"), ((2, 4), "train")]


def test_moved_frozen_rows_are_a_violation() -> None:
    """One frozen row that moved is enough."""
    found = judged(
        embedding(), policy=ROWS, base={"emb.w": sliced(OLD, OLD, OLD)}, result={"emb.w": sliced(OTHER, NEW, NEW)}
    )
    assert found.verdict == "violated"
    assert found.reason == "emb.w rows 0 to 2 differ between base and result, though frozen"


def test_rows_that_were_not_read_prove_nothing() -> None:
    """Without digests of the frozen rows nobody can tell."""
    found = judged(
        embedding(), policy=ROWS, base={"emb.w": sliced(None, OLD, OLD)}, result={"emb.w": sliced(None, NEW, NEW)}
    )
    assert found.verdict == "incomplete"


def test_scheduled_freeze_is_judged_by_its_intervals() -> None:
    """Frozen for some steps: the digests around them must agree, and those steps alone."""
    policy = Policy.from_json(
        {
            "rules": [
                {
                    "id": "late",
                    "action": "freeze",
                    "select": {"name": "enc.w"},
                    "when": [{"from_step": 0, "to_step": 5}],
                }
            ]
        }
    )
    span = {"from_step": 0, "to_step": 5, "before": OLD, "after": OLD}
    kept = seen("enc.w", OLD, NEW, intervals=[span])
    result = RESULT | {"enc.w": NEW}
    assert judged(kept, HONEST[1], policy=policy, result=result).verdict == "verified"
    broken = seen("enc.w", OLD, NEW, intervals=[span | {"after": NEW}])
    assert judged(broken, HONEST[1], policy=policy, result=result).verdict == "violated"
    unseen = seen("enc.w", OLD, NEW, intervals=[])
    assert judged(unseen, HONEST[1], policy=policy, result=result).verdict == "incomplete"


def test_pinned_buffer_that_no_file_holds() -> None:
    """A frozen buffer that is not saved is compared in memory, before and after."""
    policy = Policy.from_json({"freeze": ["enc.**"], "buffers": "pin"})
    buffer = seen("enc.ids", OLD, OLD, kind="buffer", persistent=False, base=[], result=None)
    assert judged(*HONEST, buffer, policy=policy).verdict == "verified"
