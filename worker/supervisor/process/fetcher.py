"""Runs a process that fetches or sends something: without the worker's secrets, and with one that is its own.

The secret goes through a pipe that this process alone inherits: command lines and environments can be read by others.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.errors import InvalidRequest, SourceUnavailable
from app.jsontypes import JsonDict
from worker.supervisor.process.environment import cleaned
from worker.supervisor.process.tied import start_tied

#: Variables of the worker that say how to reach the network; they pass to such a process.
REACH: Final = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
_LOOK_SECONDS: Final = 0.1
_LAST_CHARACTERS: Final = 500
NO_SECRET: Final = -1


@dataclass(frozen=True, slots=True)
class Fetcher:
    """`python -m module`, which writes its answer to a file: what it has done, or `error`, `param` and `code`."""

    module: str
    home: Path
    #: The class of its refusals; what may succeed later is a SourceUnavailable.
    refusal: type[InvalidRequest] = InvalidRequest
    param: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, arguments: Sequence[str], *, answer: Path, secret: Mapping[str, str] | None, stop: Callable[[], bool]
    ) -> JsonDict | None:
        """The process's answer; None if `stop` became true first. `answer` and the secret's pipe go before the rest."""
        answer.unlink(missing_ok=True)
        environment = cleaned(home=self.home) | {name: os.environ[name] for name in REACH if name in os.environ}
        with handed(secret) as pipe:
            process, lifeline = start_tied(
                self.module,
                [str(answer), str(pipe), *arguments],
                home=self.home,
                environment=environment | dict(self.environment),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(pipe,) if pipe != NO_SECRET else (),
            )
        try:
            return self._answer(process, answer, secret or {}, stop)
        finally:
            os.close(lifeline)

    def _answer(
        self, process: "subprocess.Popen[bytes]", answer: Path, secret: Mapping[str, str], stop: Callable[[], bool]
    ) -> JsonDict | None:
        with process:
            try:
                while process.poll() is None:
                    if stop():
                        return None
                    time.sleep(_LOOK_SECONDS)
            finally:
                process.kill()
            assert process.stderr is not None
            last = process.stderr.read()[-_LAST_CHARACTERS:].decode("utf-8", "replace").strip()
        if not answer.is_file():
            raise SourceUnavailable(
                _without(f"the process that fetches ended with code {process.returncode}: {last}", secret)
            )
        result: JsonDict = json.loads(answer.read_text())
        if "error" in result:
            kind = SourceUnavailable if result.get("again") else self.refusal
            raise kind(_without(result["error"], secret), param=result.get("param") or self.param, code=result["code"])
        return result


@contextmanager
def handed(secret: Mapping[str, str] | None) -> Iterator[int]:
    """A file descriptor from which a process that inherits it reads the secret; NO_SECRET without one."""
    if secret is None:
        yield NO_SECRET
        return
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        with os.fdopen(write_end, "w") as pipe:
            json.dump(dict(secret), pipe)
        yield read_end
    finally:
        os.close(read_end)


def take(pipe: str) -> dict[str, str] | None:
    """In such a process: the secret that it was handed."""
    if int(pipe) == NO_SECRET:
        return None
    with os.fdopen(int(pipe)) as file:
        secret: dict[str, str] = json.load(file)
    return secret


def _without(text: str, secret: Mapping[str, str]) -> str:
    """The text with stars in the place of a secret's values, whatever a library wrote into its errors."""
    for value in secret.values():
        text = text.replace(value, "***")
    return text
