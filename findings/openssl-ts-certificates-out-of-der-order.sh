#!/usr/bin/env bash
# openssl 3.0.19, rfc3161-client 1.0.9: an answer of `openssl ts -reply` is not DER, and a strict parser refuses it.
#
# Most would expect: an RFC 3161 answer that `openssl ts -verify` accepts can be read by any library for such answers.
# Behaviour: the certificates in it are a SET, and DER wants the elements of a SET in the order of their bytes. OpenSSL
# writes the signer's first, then those of `certs`. Where the signer's is the longer one, that is the wrong order, and the
# Python package rfc3161-client, which takes DER alone, does not decode the answer. With a longer certificate of the CA
# the same steps give an answer that it decodes: which authority works depends on the lengths of names.
#
# Output seen (openssl 3.0.19, rfc3161-client 1.0.9):
#   signer's certificate the longer one: openssl verifies it: True; rfc3161-client: ValueError
#   CA's certificate the longer one:     openssl verifies it: True; rfc3161-client: decoded
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check rfc3161-client==1.0.9
cd "$folder"
openssl version
"$folder/venv/bin/python" - <<'PY'
import subprocess
from pathlib import Path

from rfc3161_client import decode_timestamp_response

LONG = "".join(f"/{field}={'a long name ' * 5}" for field in ("O", "OU", "L"))
CONFIG = """
[tsa]
default_tsa = ours
[ours]
serial = serial
signer_cert = tsa.pem
certs = ca.pem
signer_key = tsa.key
default_policy = 1.2.3.4
digests = sha256
signer_digest = sha256
"""

def openssl(*arguments):
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True)

def tried(ca, tsa):
    Path("serial").write_text("01")
    Path("tsa.cnf").write_text(CONFIG)
    Path("extensions").write_text("keyUsage=critical,digitalSignature\nextendedKeyUsage=critical,timeStamping\n")
    Path("data").write_text("data")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for step in (
        ("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"{ca}/CN=CA"),
        ("req", *new, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", f"{tsa}/CN=TSA"),
        ("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile",
         "extensions", "-out", "tsa.pem"),
        ("ts", "-query", "-data", "data", "-sha256", "-cert", "-out", "query"),
        ("ts", "-reply", "-config", "tsa.cnf", "-section", "ours", "-queryfile", "query", "-out", "answer"),
    ):
        done = openssl(*step)
        assert done.returncode == 0, done.stderr
    verified = openssl("ts", "-verify", "-data", "data", "-in", "answer", "-CAfile", "ca.pem").returncode == 0
    try:
        decode_timestamp_response(Path("answer").read_bytes())
    except ValueError as error:
        return verified, type(error).__name__
    return verified, "decoded"

signer = tried(ca="", tsa=LONG)
ca = tried(ca=LONG, tsa="")
print(f"signer's certificate the longer one: openssl verifies it: {signer[0]}; rfc3161-client: {signer[1]}")
print(f"CA's certificate the longer one:     openssl verifies it: {ca[0]}; rfc3161-client: {ca[1]}")
assert signer == (True, "ValueError") and ca == (True, "decoded")
PY
