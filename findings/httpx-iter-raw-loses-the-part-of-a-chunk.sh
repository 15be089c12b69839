#!/usr/bin/env bash
# httpx 0.28.1: Response.iter_raw(chunk_size) gives up to a chunk less than has come when a connection is cut off.
#
# Most would expect: what has come before a cut is given out before the error, so that a download that is resumed by a
# Range goes on behind it; chunk_size only bounds the pieces, as in requests' iter_content.
# Behaviour: bytes are collected until there are chunk_size of them, and what is collected at the cut is dropped with the
# error. With chunks of 1 MiB a connection that is cut each 900 kB never gets on, however often it is resumed. Without
# chunk_size (the default) every byte that has come is given out.
#
# Output seen (httpx 0.28.1):
#   iter_raw(1048576): 0 of 900000 bytes that came, then RemoteProtocolError
#   iter_raw():        900000 of 900000 bytes that came, then RemoteProtocolError
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check httpx==0.28.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

CUT = 900_000

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2000000")
        self.end_headers()
        self.wfile.write(bytes(CUT))  # and the connection ends

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

def got(chunk_size):
    count = 0
    with httpx.Client(trust_env=False) as client, client.stream("GET", f"http://127.0.0.1:{server.server_port}/") as answer:
        try:
            for data in answer.iter_raw(chunk_size):
                count += len(data)
        except httpx.RemoteProtocolError as error:
            return count, type(error).__name__
    raise AssertionError("the cut was not noticed")

chunked, plain = got(1 << 20), got(None)
print("httpx", httpx.__version__)
print(f"iter_raw(1048576): {chunked[0]} of {CUT} bytes that came, then {chunked[1]}")
print(f"iter_raw():        {plain[0]} of {CUT} bytes that came, then {plain[1]}")
assert chunked[0] == 0 and plain[0] == CUT
PY
