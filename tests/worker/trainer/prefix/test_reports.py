"""What a job says of the results that are kept."""

import pytest

from worker.trainer.prefix.reports import condensed, in_words


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["bert"], "bert"),
        (
            ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"],
            "bert.embeddings, bert.encoder.layer.0-1",
        ),
        (["layers.0", "layers.2", "layers.3"], "layers.0, layers.2-3"),
        (["0", "1", "a.2"], "0-1, a.2"),
        (["a.1", "a.1", "b.2"], "a.1, b.2"),
        (["3", "head"], "3, head"),
    ],
)
def test_numbered_modules_in_short(paths: list[str], text: str) -> None:
    """Runs of one list of layers become a range; order is kept."""
    assert condensed(paths) == text


@pytest.mark.parametrize(
    ("gain", "text"),
    [(0.9, "no faster in this run"), (1.84, "about 1.8 times as fast"), (9.6, "about 10 times as fast")],
)
def test_the_gain_in_words(gain: float, text: str) -> None:
    assert in_words(gain) == text
