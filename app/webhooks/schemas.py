"""Payloads of webhook endpoints, as OpenAI's SDK has them plus `enabled`, and of the log of deliveries."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.http.request_body import RequestBody
from app.paging.keyset import Page
from app.webhooks.events import EventType
from app.webhooks.tables import Delivery, Endpoint

_ID = "we-5f0c1d2e3a4b5c6d7e8f9a0b"

EventTypes = Annotated[
    list[EventType],
    Field(min_length=1, max_length=32, description="Types of the events to send; repeated types count once."),
    AfterValidator(lambda types: list(dict.fromkeys(types))),
]
Name = Annotated[str, Field(min_length=1, max_length=256, description="Name of the endpoint, for people.")]
Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="URL that receives the POSTs: https, or http inside a network that the operator allows.",
    ),
]


class EndpointCreate(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "results",
                    "url": "https://hooks.example.org/permafrost",
                    "event_types": ["fine_tuning.job.succeeded", "fine_tuning.job.failed"],
                }
            ]
        },
    )

    name: Name
    url: Url
    event_types: EventTypes


class EndpointUpdate(RequestBody):
    """Fields that are left out keep their values."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"event_types": ["fine_tuning.job.failed"]}]})

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None
    enabled: bool | None = Field(default=None, description="Switches deliveries off, or on again after a 410.")


class RotateSecret(RequestBody):
    keep_old_secret_active_for_24_hours: bool = Field(
        default=False, description="Sign with both secrets for a day, so that receivers have time to change theirs."
    )


class TestEvent(RequestBody):
    __test__ = False  # pytest would take it for a test case by its name

    model_config = ConfigDict(json_schema_extra={"examples": [{"event_type": "fine_tuning.job.succeeded"}]})

    event_type: EventType


class EndpointObject(BaseModel):
    """Where this project's events are sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _ID,
                    "object": "webhook_endpoint",
                    "created_at": 1760000000,
                    "updated_at": 1760000000,
                    "name": "results",
                    "url": "https://hooks.example.org/permafrost",
                    "event_types": ["fine_tuning.job.succeeded"],
                    "signing_secret_hint": "whsec_…bGQh",
                    "enabled": True,
                    "disabled_reason": None,
                }
            ]
        }
    )

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int = Field(description="Unix time in seconds.")
    updated_at: int = Field(description="Unix time of the last change of the endpoint or of its secret.")
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str = Field(description="The end of the signing secret.")
    enabled: bool = Field(description="false: nothing is sent.")
    disabled_reason: str | None = None

    @classmethod
    def of(cls, row: Endpoint, **more: Any) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            updated_at=int(row.updated_at.timestamp()),
            name=row.name,
            url=row.url,
            event_types=row.event_types,
            signing_secret_hint=row.secret_hint,
            enabled=row.disabled_at is None,
            disabled_reason=row.disabled_reason,
            **more,
        )


class EndpointWithSecret(EndpointObject):
    """An endpoint with its secret, which is shown only when it is created or rotated."""

    signing_secret: str = Field(description="For `client.webhooks.unwrap`, or any Standard Webhooks library.")


class EndpointList(Page):
    data: list[EndpointObject]


class EndpointDeleted(BaseModel):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class TestResult(BaseModel):
    """The receiver's answer to a test event."""

    __test__ = False

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int = Field(description="The receiver's status code; 2xx counts as delivered.")
    success: Literal[True] = Field(default=True, description="The test was sent and answered; see `status_code`.")


class EventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]
    descriptions: dict[str, str] = Field(description="What each type means, by type.")


class AttemptObject(BaseModel):
    attempt: int
    created_at: int
    status_code: int | None
    error: str | None = Field(description="Why there is no status code, or null.")
    seconds: float


class DeliveryObject(BaseModel):
    """One event on its way to this endpoint."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    created_at: int
    webhook_endpoint_id: str
    event_id: str = Field(description="The header `webhook-id`: the same in every attempt and replay.")
    event_type: str
    object_id: str = Field(description="The job that the event is about.")
    status: Literal["pending", "delivered", "failed"]
    next_attempt_at: int | None
    finished_at: int | None
    replay_of: str | None
    attempts: list[AttemptObject]

    @classmethod
    def of(cls, row: Delivery) -> "DeliveryObject":
        return cls.model_validate(
            {
                "id": row.id,
                "created_at": int(row.created_at.timestamp()),
                "webhook_endpoint_id": row.endpoint_id,
                "event_id": row.event_id,
                "event_type": row.event_type,
                "object_id": row.object_id,
                "status": row.status,
                "next_attempt_at": int(row.due_at.timestamp()) if row.status == "pending" else None,
                "finished_at": int(row.finished_at.timestamp()) if row.finished_at else None,
                "replay_of": row.replay_of,
                "attempts": row.log,
            }
        )


class DeliveryList(Page):
    data: list[DeliveryObject]
