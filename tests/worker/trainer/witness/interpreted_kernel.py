"""The kernel in triton's interpreter: reads cases from standard input, writes their hashes. A process of its own, since
the interpreter is chosen by TRITON_INTERPRET before the kernel is imported.
"""

import json
import sys

import torch

from worker.trainer.witness import kernel, multilinear


def main() -> None:
    answers = []
    for case in json.load(sys.stdin):
        data = torch.frombuffer(bytearray.fromhex(case["data"]), dtype=torch.uint8)[case["skip"] :]
        secret = bytes.fromhex(case["secret"])
        sums = multilinear.level_one(data, secret, offset=case["offset"], total=case["total"])
        answers.append({"sums": sums.tolist(), "hash": multilinear.finish(sums, secret)})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    multilinear._kernel = lambda device: kernel.row_sums  # type: ignore[assignment]
    main()
