"""Every architecture of transformers is verified or refused by name, as the documentation says."""

import pytest

from tests.depth import EVERY
from tests.zoo.bases import Entry
from tests.zoo.runs import Outcome
from tests.zoo.table import PATH, everything, render, run, score


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_architecture_is_verified_or_refused_by_name() -> None:
    """After a change of transformers or of the trainer: `python -m tests.zoo`.

    PERMAFROST_TEST_ZOO_EVERY=4 tries every fourth architecture, and holds no page against them.
    """
    page = PATH.read_text("utf-8")
    tried = {entry: policies for at, (entry, policies) in enumerate(everything().items()) if at % EVERY == 0}
    results = dict(run(tried, jobs=2))
    print(score(results))
    assert score(results).endswith(", 0 anything else"), [
        (entry, policy, outcome.reason)
        for entry, each in results.items()
        for policy, outcome in each.items()
        if outcome.status == "other"
    ]
    if EVERY == 1:
        assert page == render(results)


def test_a_page_has_marks_and_reasons() -> None:
    """Reasons that are alike apart from names and numbers are one."""
    refused = [Outcome("refused", f"unsupported_model: the names of '{name}' (3) cannot") for name in "ab"]
    page = render(
        {
            Entry("causal-lm", "llama"): {"head": Outcome("verified"), "half": Outcome("verified")},
            Entry("causal-lm", "odd"): {"half": refused[0]},
            Entry("causal-lm", "odder"): {"half": refused[1]},
        }
    )
    assert "| llama | ✓ | ✓ |  |" in page
    assert "| odd |  | 1 |  |\n| odder |  | 1 |  |" in page
    assert "1. `unsupported_model`: the names of '…'" in page
    assert "Score: 2 verified, 2 refused by name, 0 anything else." in page
