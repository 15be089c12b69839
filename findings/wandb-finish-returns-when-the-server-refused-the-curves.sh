#!/usr/bin/env bash
# wandb 0.31.0: `run.finish()` returns as if all was well when the server refused every point of the run.
#
# Most would expect: a run in online mode whose data the server answers with 403 raises at `finish()`, at the latest with
# `stop_on_fatal_error=True` and `finish_timeout_raises=True`; a program that saw no exception can say that its curves are there.
# Behaviour: a refused `init` raises. A refused stream of points is one warning on the terminal ("Some run data will not be synced");
# `finish()` returns and the exit status is 0. Only a server that hangs raises, by `finish_timeout_raises`.
#
# Output seen (wandb 0.31.0):
#   every request with points was refused: True
#   finish() returned
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check wandb==0.31.0
cd "$folder"
HOME=$folder WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567 WANDB_ERROR_REPORTING=false "$folder/venv/bin/python" - <<'PY'
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

refused = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        points = self.path.endswith("file_stream")
        if points:
            refused.append(self.path)
        answer = {}
        if self.path == "/graphql":
            given = json.loads(body)
            held = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
            bucket = {"id": "b", "name": "run", "displayName": "run", "config": "{}", "project": held}
            bucket |= {"description": None, "sweepName": None, "historyLineCount": 0}
            made = {"upsertBucket": {"bucket": bucket, "inserted": True}}
            files = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
            answer = {"data": made if "upsertBucket" in given["query"] else files if "createRunFiles" in given["query"] else {}}
        data = json.dumps(answer).encode()
        self.send_response(403 if points else 200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"

import wandb

quiet = {"console": "off", "silent": True, "x_disable_stats": True, "x_disable_meta": True, "disable_git": True}
strict = {"stop_on_fatal_error": True, "finish_timeout": 30, "finish_timeout_raises": True, "x_file_stream_retry_max": 1}
run = wandb.init(entity="e", project="p", id="run", mode="online", settings=wandb.Settings(**quiet, **strict))
for step in range(5):
    run.log({"loss": 1.0 / (step + 1)}, step=step)
run.finish()
print(f"every request with points was refused: {bool(refused)}")
print("finish() returned")
assert refused
PY
