"""Which tokens of a text carry loss."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from worker.trainer.data.batch import IGNORED
from worker.trainer.data.language import encode
from worker.trainer.data.language_example import learned_tokens


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Joins a space with the word behind it, as those of Qwen, Llama 3 and Gemma do."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["Capital of France? Answer: Paris"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("Capital of France? Answer: ", "Paris"), ("Capital of France? Answer:", " Paris")],
    ids=["space in the prompt", "space in the completion"],
)
def test_first_word_behind_a_space(tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str) -> None:
    """It is learned, whichever of the two the space before it belongs to."""
    rows = [{"prompt": prompt, "completion": completion}]
    example = encode(rows, tokenizer, limit=64).examples.sequences[0]
    words = [int(each) for each in example.targets if each != IGNORED]
    assert tokenizer.convert_ids_to_tokens(words) == ["ĠParis", "<end>"]


def test_word_behind_the_end_of_a_span() -> None:
    """The space before it may belong to the answer; the word does not."""
    text = "User: hi Bot: yes User: bye"
    offsets = [(0, 5), (5, 8), (8, 13), (13, 17), (17, 23), (23, 27)]
    assert learned_tokens(text, offsets, [(14, 18)]) == [False, False, False, True, False, False]


def test_spaces_alone() -> None:
    """They are learned where they begin within a span; what is of no character never is."""
    assert learned_tokens("a\n\nb", [(0, 1), (1, 3), (3, 4), (4, 4)], [(0, 2)]) == [True, True, False, False]
