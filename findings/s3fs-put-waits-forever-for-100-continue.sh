#!/usr/bin/env bash
# s3fs 2026.9.0 (aiobotocore 3.10.0, aiohttp 3.14.5): a put waits for ever for a store that hangs, whatever `read_timeout` says.
#
# Most would expect: `read_timeout` bounds the wait for any answer. A read of the same store is given up after it, and boto3 goes on to send
# the body when no "100 Continue" has come within a second.
# Behaviour: botocore adds `Expect: 100-continue` to what has a body that can be read, bytes that s3fs pipes included; aiohttp then waits
# for that word before it sends the body, and this wait has no limit. One connection is made, no retry, no error.
#
# Output seen (aiobotocore 3.10.0, aiohttp 3.14.5, s3fs 2026.9.0; read_timeout 1 s, one attempt):
#   get: ReadTimeoutError
#   put of bytes: still waiting after 30 s
#   put of a file: still waiting after 30 s
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check s3fs==2026.9.0 aiobotocore==3.10.0 aiohttp==3.14.5
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import os
import socket
import threading
from pathlib import Path

from s3fs import S3FileSystem

server = socket.create_server(("127.0.0.1", 0))
taken = []


def take():
    while True:
        taken.append(server.accept()[0])


threading.Thread(target=take, daemon=True).start()
waits = {"read_timeout": 1, "connect_timeout": 1, "retries": {"total_max_attempts": 1}}
url = f"http://127.0.0.1:{server.getsockname()[1]}"
files = S3FileSystem(key="a", secret="b", endpoint_url=url, client_kwargs={"region_name": "us-east-1"}, config_kwargs=waits)
files.retries = 1
Path("file").write_text("x")
seen = {}


def ask(name, work):
    def run():
        try:
            work()
        except Exception as error:
            seen[name] = type(error).__name__

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    print(f"{name}: {seen.get(name, 'still waiting after 30 s')}", flush=True)


ask("get", lambda: files.cat_file("bucket/file"))
ask("put of bytes", lambda: files.pipe_file("bucket/file", b"x"))
ask("put of a file", lambda: files.put_file("file", "bucket/file"))
same = set(seen) == {"get"}
os._exit(0 if same else 1)  # the thread that waits would keep this process
PY
