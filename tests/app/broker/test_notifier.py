"""The notifier sends messages from a thread of its own: no caller waits for the broker or sees its errors."""

import threading
from typing import Any

import structlog
from kombu.exceptions import OperationalError

from app.broker.celery import DESCRIBE_MODEL, RUN_JOB, make_celery
from app.broker.notifier import Notifier
from app.settings import Settings
from tests.conftest import Deployment
from tests.patience import PATIENCE


def received(settings: Settings, count: int) -> list[tuple[str, tuple[Any, ...]]]:
    """The next messages of the queue: name of the task and its arguments."""
    messages: list[tuple[str, tuple[Any, ...]]] = []
    with make_celery(settings).connection_for_read() as connection, connection.SimpleQueue("permafrost") as queue:
        for _ in range(count):
            message = queue.get(timeout=PATIENCE)
            messages.append((message.headers["task"], tuple(message.payload[0])))
            message.ack()
    return messages


def test_messages_reach_the_broker(deployment: Deployment) -> None:
    """One for each call; `close` sends what is still queued. A folder has no order within a millisecond."""
    notifier = Notifier(make_celery(deployment.settings))
    notifier.wake("ftjob-1")
    notifier.wake_model("base")
    notifier.close(seconds=PATIENCE)
    assert sorted(received(deployment.settings, 2)) == sorted([(RUN_JOB, ("ftjob-1",)), (DESCRIBE_MODEL, ("base",))])


class BrokenCelery:
    """The client of a broker that is away, then silent."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def send_task(self, _: str, *, args: list[str], **__: object) -> None:
        if args == ["silent"]:
            self.answers.wait()
        raise OperationalError("connection refused")


def test_a_broken_broker_is_logged_and_keeps_nobody_waiting() -> None:
    """The next message is still tried; closing does not wait for a broker that is silent."""
    celery = BrokenCelery()
    notifier = Notifier(celery)
    with structlog.testing.capture_logs() as logs:
        for object_id in ("ftjob-1", "ftjob-2", "silent"):
            notifier.wake(object_id)
        notifier.close(seconds=0.2)
        celery.answers.set()
        notifier.close(seconds=PATIENCE)
    assert [line["object_id"] for line in logs] == ["ftjob-1", "ftjob-2", "silent"]
    assert "connection refused" in logs[0]["error"]
