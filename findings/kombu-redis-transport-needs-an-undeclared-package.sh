#!/usr/bin/env bash
# kombu 5.7.0: `pip install celery redis` gives a Celery that cannot send a message over Redis.
#
# Most would expect: celery and the redis client are all that a Redis broker takes, as it was for years; or that a package which is
# missing shows when Celery is imported or configured.
# Behaviour: the Redis transport imports `packaging`, which only the extra `kombu[redis]` (or `celery[redis]`) installs. Import and
# configuration succeed; the first message that is sent raises ModuleNotFoundError. With the extra, the same program gets as far as the
# server. Where something else brings `packaging` along, as development tools do, nobody notices.
#
# Output seen (celery 5.7.0, kombu 5.7.0, redis 8.1.0):
#   celery and redis: configured; the first message: ModuleNotFoundError: No module named 'packaging'
#   with kombu[redis]: configured; the first message: OperationalError
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"; }
pip celery==5.7.0 kombu==5.7.0 redis==8.1.0
cat > "$folder/send.py" <<'PY'
import socket

from celery import Celery

with socket.socket() as unused:  # a port of this machine on which nobody listens
    unused.bind(("127.0.0.1", 0))
    app = Celery(broker=f"redis://127.0.0.1:{unused.getsockname()[1]}/0")
    app.conf.update(broker_connection_retry=False, task_publish_retry=False)
    try:
        app.send_task("add", (1, 2))
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if isinstance(error, ImportError) else type(error).__name__
        print(f"configured; the first message: {text}")
PY
without=$("$folder/venv/bin/python" "$folder/send.py"); echo "celery and redis: $without"
pip "kombu[redis]==5.7.0"
with=$("$folder/venv/bin/python" "$folder/send.py"); echo "with kombu[redis]: $with"
[[ $without == *"No module named 'packaging'" && $with == *OperationalError ]]
