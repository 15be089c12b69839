"""The service lives for the whole session, beside tests that start workers of their own."""

from tests.end_to_end.conftest import Service


def test_no_other_test_rings_its_workers(service: Service, empty_redis: str) -> None:
    """Once they shared a Redis database, and a message went to whichever worker was the quicker."""
    assert service.environment.get("PERMAFROST_BROKER_URL") != empty_redis
