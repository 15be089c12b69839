#!/usr/bin/env bash
# fastapi 0.165.0: a body that is not JSON is answered before any dependency runs; a body of a wrong type after them.
#
# Most would expect: dependencies (who is the caller, how often, what to log) run before the body is looked at, so that every request
# without a key gets the same 401, and every request is counted.
# Behaviour: the body is parsed first. JSON that does not parse is a 422 at once, and no dependency of the route, the router
# or the application sees the request. JSON that parses and has the wrong shape is validated after the dependencies.
#
# Output seen (fastapi 0.165.0):
#   right body: 401, dependency ran 1 time
#   wrong shape: 401, dependency ran 1 time
#   not JSON: 422, dependency ran 0 times
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check fastapi==0.165.0 httpx2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

ran = []

def caller():
    ran.append(1)
    raise HTTPException(401, "no key")

app = FastAPI(dependencies=[Depends(caller)])

@app.post("/things")
def create(thing: dict[str, int]):
    return thing

client = TestClient(app)

def ask(name, content):
    ran.clear()
    status = client.post("/things", content=content, headers={"content-type": "application/json"}).status_code
    print(f"{name}: {status}, dependency ran {len(ran)} time{'s' * (len(ran) != 1)}")
    return status, len(ran)

assert ask("right body", b'{"a": 1}') == (401, 1)
assert ask("wrong shape", b'["a"]') == (401, 1)
assert ask("not JSON", b'{"a": 1') == (422, 0)
PY
