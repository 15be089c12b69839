"""What a loader takes from a folder: SHA-256 of every tensor of its model. Needs torch and transformers alone.

As a program it answers requests on its input, one JSON object a line, so that a release of transformers in an
environment of its own can be asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import warnings
from typing import Any


def taken(request: dict[str, Any]) -> dict[str, str]:
    """Digests by name. `class` is a class of transformers, `folder` the model's; `base` is the model below an adapter.

    `parts` lists row ranges by tensor, with all dimensions but the last taken as one; their digests are under
    `name@start-stop`. Whatever the loader raises is raised.
    """
    import transformers

    auto = getattr(transformers, request["class"])
    dtype = "dtype" if int(transformers.__version__.partition(".")[0]) > 4 else "torch_dtype"
    model = auto.from_pretrained(request.get("base") or request["folder"], **{dtype: "auto"})
    if request.get("base"):
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, request["folder"])
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    digests = {name: digest(tensor) for name, tensor in tensors.items()}
    for name, ranges in request.get("parts", {}).items():
        if name in tensors:
            rows = tensors[name].flatten(0, -2)
            digests |= {f"{name}@{start}-{stop}": digest(rows[start:stop]) for start, stop in ranges}
    return digests


def digest(tensor: Any) -> str:
    import torch

    if tensor.is_meta:
        return "meta"
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"").hexdigest()


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what loaders print is no answer
    for line in sys.stdin:
        answer: dict[str, Any]
        with contextlib.redirect_stdout(sys.stderr):
            try:
                answer = {"digests": taken(json.loads(line))}
            except Exception as error:  # noqa: BLE001 - a loader may refuse a folder in any way
                answer = {"refused": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
