"""The Celery object, and the messages that wake workers ("look at this row"). Losing or repeating one is harmless."""

from pathlib import Path

from celery import Celery

from app.broker import folder_transport
from app.settings import Settings

RUN_JOB = "permafrost.run_job"
DESCRIBE_MODEL = "permafrost.describe_model"


def make_celery(settings: Settings) -> Celery:
    """A Celery object with the same configuration for sending (API) and for serving (worker)."""
    celery = Celery("permafrost")
    celery.conf.update(
        # The folder transport has no host, but kombu warns about a URL without one.
        broker_url=folder_transport.URL if settings.embedded else settings.broker,
        broker_transport_options=_folder_options(settings) if settings.embedded else _redis_options(),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=5,
        result_backend=None,
        task_ignore_result=True,
        task_track_started=False,
        # Early acknowledgement: maintenance finds lost jobs by their rows; the broker never redelivers.
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


def wake(celery: Celery, job_id: str) -> None:
    """Tells any worker to look at a job. Call it after the commit, and not while a request waits."""
    celery.send_task(RUN_JOB, args=[job_id], kwargs={"v": 1}, retry=False)


def wake_model(celery: Celery, model_id: str) -> None:
    """Tells any worker to read the files of a new base model."""
    celery.send_task(DESCRIBE_MODEL, args=[model_id], kwargs={"v": 1}, retry=False)


def _folder_options(settings: Settings) -> dict[str, object]:
    folder = Path(settings.broker.removeprefix("filesystem://"))
    for name in ("messages", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Both sides use one folder. The default polling interval of 1 s would be most of the waiting time of a small job.
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.02,
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
