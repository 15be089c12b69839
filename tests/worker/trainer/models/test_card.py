"""What a model card says about tensors that moved although they were frozen."""

from app.specs.adapters import LoraSpec
from app.specs.models import TransformersSpec
from worker.trainer.models import card
from worker.trainer.witness.report import Violation, WitnessReport

PLAIN = TransformersSpec(path="tiny")


def _card(moved: int, spec: TransformersSpec = PLAIN, *, scheduled: int = 0) -> str:
    violations = tuple(Violation(f"layer.{number}", 0, 1, None) for number in range(moved))
    report = WitnessReport("violated", violations, 1, 2, 0, 1, watched=103, scheme="x", seconds=0.0)
    counts = {side: {"tensors": 1, "elements": 1, "bytes": 4} for side in ("frozen", "trainable")}
    counts["scheduled"] = {"tensors": scheduled}
    return card.text(
        job_id="ftjob-x",
        task="causal-lm",
        spec=spec,
        data_sha256="0",
        policy={},
        counts=counts,
        report=report,
        settings={},
        metrics={},
        steps=1,
        labels=None,
    )


def test_a_long_list_of_moved_tensors_says_that_it_goes_on() -> None:
    """The first twenty by name, the number of the others, and where they are."""
    text = _card(103)
    assert "layer.19 and 83 more, all of which the evidence lists" in text and "layer.20" not in text


def test_a_short_list_is_whole() -> None:
    """Every name, and nothing more."""
    text = _card(20)
    assert "layer.19" in text and "more, all of which" not in text


def test_a_merged_adapter_explains_why_fewer_are_frozen_than_were_watched() -> None:
    """The base was watched as a whole during training; the evidence is about the sums, and counts fewer as frozen."""
    of = {merge: _card(0, TransformersSpec(path="tiny", adapter=LoraSpec(merge=merge))) for merge in (True, False)}
    assert "fewer are frozen in the result than were watched" in of[True] and "fewer" not in of[False]


def test_tensors_of_a_schedule_are_named_beside_those_that_are_frozen() -> None:
    """A schedule over the whole run freezes no tensor for good, and what it froze is proved all the same."""
    assert "- frozen by a schedule: 39 tensors, counted as trained" in _card(0, scheduled=39)
    assert "- frozen by a schedule: 1 tensor," in _card(0, scheduled=1)
    assert "by a schedule" not in _card(0)
