"""Waits for a message in the folder are short, whatever Celery asks for."""

import pytest

from app.broker.celery import make_celery
from app.settings import Settings


@pytest.mark.timeout(60)
def test_a_wait_of_an_hour_ends_soon(tmp_path) -> None:
    """A worker notices a shutdown between two waits: one of an hour would delay it by an hour."""
    celery = make_celery(Settings(data_dir=tmp_path))
    with (
        celery.connection_for_read() as connection,
        celery.amqp.TaskConsumer(connection.default_channel),
        pytest.raises(TimeoutError),
    ):
        connection.drain_events(timeout=3600)
