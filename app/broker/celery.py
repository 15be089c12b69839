"""The broker carries doorbells: "look at this row". A lost, doubled or late one changes nothing."""

from pathlib import Path

from celery import Celery

from app.broker import folder as folder_transport
from app.settings import Settings

RUN_JOB = "permafrost.run_job"
DESCRIBE_MODEL = "permafrost.describe_model"


def make_celery(settings: Settings) -> Celery:
    """A Celery object for sending (API) and serving (worker), with the same settings on both sides."""
    celery = Celery("permafrost")
    celery.conf.update(
        # The folder has no host, but kombu warns of a URL without one.
        broker_url=folder_transport.URL if settings.embedded else settings.broker,
        broker_transport_options=_folder_options(settings) if settings.embedded else _redis_options(),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=5,
        result_backend=None,
        task_ignore_result=True,
        task_track_started=False,
        # Early acknowledgement: redelivery is the sweep's work, by the row and not by the broker.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_default_queue="permafrost",
        task_time_limit=None,
        task_soft_time_limit=None,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="threads",
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=not settings.embedded,
        worker_soft_shutdown_timeout=0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
    )
    return celery


def ring(celery: Celery, job_id: str) -> None:
    """Asks any worker to look at a job. Call it after the commit, and outside of a request's path."""
    celery.send_task(RUN_JOB, args=[job_id], kwargs={"v": 1}, retry=False)


def ring_model(celery: Celery, model_id: str) -> None:
    celery.send_task(DESCRIBE_MODEL, args=[model_id], kwargs={"v": 1}, retry=False)


def _folder_options(settings: Settings) -> dict[str, object]:
    folder = Path(settings.broker.removeprefix("filesystem://"))
    for name in ("messages", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Both sides use one folder; the default polling interval of 1 s would be most of a small job's waiting time.
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.1,
    }


def _redis_options() -> dict[str, object]:
    return {
        "visibility_timeout": 300,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
