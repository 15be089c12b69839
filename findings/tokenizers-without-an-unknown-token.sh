#!/usr/bin/env bash
# tokenizers 0.23.3: a word that a vocabulary without an unknown token lacks is an error of no class, or is left out in silence.
#
# Most would expect: one behaviour for all models, an error that can be caught by its class (ValueError, KeyError).
# Behaviour: WordLevel and Unigram raise Exception itself, so only `except Exception` catches it; BPE leaves the characters out
# and returns the ids of what remains, without a word.
#
# Output seen (tokenizers 0.23.3):
#   WordLevel, "the dog": Exception: WordLevel error: Missing [UNK] token from the vocabulary
#   Unigram, "axb": Exception: Encountered an unknown token but `unk_id` is missing
#   BPE, "axb": ['a', 'b']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers

def encoded(model, text):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    try:
        result = tokenizer.encode(text).tokens
    except Exception as error:
        print(f'{type(model).__name__}, "{text}": {type(error).__name__}: {error}')
        return type(error)
    print(f'{type(model).__name__}, "{text}": {result}')
    return result

assert encoded(models.WordLevel({"the": 0, "cat": 1}), "the dog") is Exception
assert encoded(models.Unigram([("a", 0.0), ("b", 0.0)]), "axb") is Exception
assert encoded(models.BPE({"a": 0, "b": 1}, []), "axb") == ["a", "b"]
PY
