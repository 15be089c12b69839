"""A signing key whose private half is not a file: a command of the operator's signs with it (PERMAFROST_SIGNER).

The command gets the bytes to sign on standard input and answers with the signature, raw or in base64, on standard
output. It may ask an HSM through PKCS#11, a cloud's key service or a person. Its public half is a PEM file.
"""

import base64
import binascii
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.errors import SignerUnavailable
from app.evidence.format.algorithms import KeyFileError, PublicKey, read_public, verifies

#: Seconds that a command has for a signature.
SIGN_SECONDS: Final = 30.0
_SHOWN: Final = 300  # characters of what a command printed


@dataclass(frozen=True, slots=True)
class CommandKey:
    """The private half of `public`, which the command alone can use."""

    command: tuple[str, ...]
    public: PublicKey
    seconds: float = SIGN_SECONDS

    def public_key(self) -> PublicKey:
        return self.public

    def sign(self, message: bytes) -> bytes:
        """The command's signature, which is checked before it is used. Raises SignerUnavailable."""
        answer = self._run(message)
        for signature in _readings(answer):
            if verifies(self.public, signature, message):
                return signature
        raise self._unavailable(
            f"answered {len(answer)} bytes, which are no signature of the message under the public key"
        )

    def _run(self, message: bytes) -> bytes:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        except OSError as error:
            raise self._unavailable(f"does not start: {error.strerror}") from None
        with process:
            try:
                answer, said = process.communicate(message, timeout=self.seconds)
            except subprocess.TimeoutExpired:
                raise self._unavailable(f"did not answer within {self.seconds:g} seconds") from None
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)  # and whatever it has started
        if process.returncode:
            raise self._unavailable(f"ended with code {process.returncode}: {_line(said)}")
        return answer

    def _unavailable(self, what: str) -> SignerUnavailable:
        return SignerUnavailable(f"the command of PERMAFROST_SIGNER ({self.command[0]}) {what}")


def command_key(command: str, public: Path) -> CommandKey:
    """The key that a command line signs with. Raises KeyFileError where its public half or the line is not usable."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise KeyFileError(f"PERMAFROST_SIGNER is not a command line: {error}") from None
    if not words:
        raise KeyFileError("PERMAFROST_SIGNER is empty")
    try:
        pem = public.read_bytes()
    except OSError as error:
        raise KeyFileError(
            f"PERMAFROST_SIGNER needs the public half of its key (PEM) at {public}: {error.strerror}"
        ) from None
    try:
        return CommandKey(words, read_public(pem))
    except KeyFileError as error:
        raise KeyFileError(f"{public}: {error}") from None


def _readings(answer: bytes) -> Iterator[bytes]:
    yield answer
    with suppress(binascii.Error, ValueError):
        yield base64.b64decode(b"".join(answer.split()), validate=True)


def _line(said: bytes) -> str:
    """The last lines that a command wrote to standard error: `pkcs11-tool` ends with "Aborting." after the reason."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-2:])[-_SHOWN:] if lines else "it printed nothing to standard error"
