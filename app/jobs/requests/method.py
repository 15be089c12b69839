"""OpenAI's `method` of a request, refused for a task that it does not train."""

from app.errors import InvalidRequest
from app.jobs.requests.schemas import JobCreate


def refuse_other_method(method: str | None, task: str) -> None:
    """DPO trains preferences and nothing else; `supervised` trains every other task. Raises InvalidRequest."""
    if method is None or (method == "dpo") == (task == "preference"):
        return

    if task == "preference":
        message = (
            "the method is supervised and the task preference, which is trained by DPO; "
            'give {"type": "dpo"}, or leave the method out'
        )
    else:
        message = f"dpo learns from preferences, and the task is {task}; give a file of {{prompt, chosen, rejected}}"
    raise InvalidRequest(message, param="method.type", code="method_does_not_fit")


def method_type(request: JobCreate) -> str | None:
    """The `type` of OpenAI's `method`, where the request has one."""
    return request.method.type if request.method else None
