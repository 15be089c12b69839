"""A time-stamping authority of the tests' own: `openssl ts` behind HTTP on this machine, under a CA made here."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.listening import QuietHandler, listening

CONFIG = """
[tsa]
default_tsa = ours
[ours]
serial = {root}/serial
signer_cert = {root}/tsa.pem
certs = {root}/ca.pem
signer_key = {root}/tsa.key
default_policy = 1.2.3.4
digests = sha256, sha512
signer_digest = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass(frozen=True)
class Authority:
    """Its files; `roots` is what a reader trusts."""

    root: Path

    @property
    def roots(self) -> Path:
        return self.root / "ca.pem"

    def answer(self, query: bytes) -> bytes:
        """The answer to a query, by openssl."""
        asked, answered = self.root / f"{threading.get_ident()}.tsq", self.root / f"{threading.get_ident()}.tsr"
        asked.write_bytes(query)
        openssl(
            "ts", "-reply", "-config", self.root / "tsa.cnf", "-section", "ours", "-queryfile", asked, "-out", answered
        )
        return answered.read_bytes()

    def stamp(self, data: bytes, *, digest: str = "sha256") -> bytes:
        """An answer about these bytes, as anybody gets one with the command line alone."""
        file = self.root / "data"
        file.write_bytes(data)
        openssl("ts", "-query", "-data", file, f"-{digest}", "-cert", "-out", self.root / "data.tsq")
        return self.answer((self.root / "data.tsq").read_bytes())


def make(root: Path, *, usage: str = "critical,timeStamping", days: str = "30", name: str = "TSA") -> Authority:
    """A new CA and an authority under it, whose certificate has this extended key usage."""
    root.mkdir(parents=True)
    (root / "serial").write_text("01")
    (root / "tsa.cnf").write_text(CONFIG.format(root=root))
    (root / "extensions").write_text(f"keyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n")
    ca = ["-keyout", root / "ca.key", "-out", root / "ca.pem", "-subj", f"/CN={name} root"]
    openssl("req", "-x509", *CURVE, *ca, "-days", "3650")
    openssl("req", *CURVE, "-keyout", root / "tsa.key", "-out", root / "tsa.csr", "-subj", f"/CN={name}")
    signed = ["-CA", root / "ca.pem", "-CAkey", root / "ca.key", "-CAcreateserial", "-extfile", root / "extensions"]
    openssl("x509", "-req", "-in", root / "tsa.csr", *signed, "-days", days, "-out", root / "tsa.pem")
    return Authority(root)


def expired(authority: Authority) -> None:
    """Put a certificate in place whose days were over yesterday; openssl stamps with it all the same."""
    ca = x509.load_pem_x509_certificate(authority.roots.read_bytes())
    key = serialization.load_pem_private_key((authority.root / "ca.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate((authority.root / "tsa.pem").read_bytes())
    made = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number)
    day = timedelta(days=1)
    made = made.not_valid_before(old.not_valid_before_utc - 30 * day).not_valid_after(old.not_valid_before_utc - day)
    for extension in old.extensions:
        made = made.add_extension(extension.value, extension.critical)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and ca.subject == old.issuer
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (authority.root / "tsa.pem").write_bytes(pem)


@contextmanager
def serving(authority: Authority, *, status: int = 200, answer: bytes | None = None) -> Iterator[str]:
    """The URL of the authority while it serves; `answer` is what it says in the place of a timestamp."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["content-length"]))
            body = answer if answer is not None else authority.answer(query)
            self.send_response(status)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as url:
        yield f"{url}/"


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
