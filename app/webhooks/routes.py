"""/v1/webhook_endpoints: endpoints of webhooks, their secrets, and the log of their deliveries."""

from typing import Annotated, get_args

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from sqlalchemy import select

from app.auth.caller import AsAdmin, AsReader
from app.db import new_id, now
from app.errors import Conflict, InvalidRequest
from app.http.dependencies import Config, Db
from app.http.headers import is_retry
from app.http.json_body import JsonRoute
from app.openapi.prose import CONFLICT, ERRORS
from app.paging.keyset import AfterQuery, OrderQuery, keyset
from app.paging.tombstones import remove
from app.vault import Vault
from app.webhooks import deliveries, endpoints, signing
from app.webhooks.addresses import Reach
from app.webhooks.events import EVENT_TYPES, EventType, payload
from app.webhooks.schemas import (
    DeliveryList,
    DeliveryObject,
    EndpointCreate,
    EndpointDeleted,
    EndpointList,
    EndpointObject,
    EndpointUpdate,
    EndpointWithSecret,
    EventTypeList,
    RotateSecret,
    TestEvent,
    TestResult,
)
from app.webhooks.sender import Sender
from app.webhooks.tables import Delivery, Endpoint

router = APIRouter(tags=["Webhooks"], responses=ERRORS, route_class=JsonRoute)

EndpointId = Annotated[str, Path(description="`we-…`", examples=["we-5f0c1d2e3a4b5c6d7e8f9a0b"])]
DeliveryId = Annotated[str, Path(description="`whdel-…`", examples=["whdel-5f0c1d2e3a4b5c6d7e8f9a0b"])]
_ONE = "/webhook_endpoints/{webhook_endpoint_id}"


async def _vault(settings: Config) -> Vault:
    return Vault(settings.webhook_key_path)


async def _reach(settings: Config) -> Reach:
    return Reach.parse(settings.webhook_allow)


Secrets = Annotated[Vault, Depends(_vault)]
Allowed = Annotated[Reach, Depends(_reach)]


@router.get("/webhook_event_types", operation_id="listWebhookEventTypes", summary="List event types")
def list_event_types(caller: AsReader) -> EventTypeList:
    """The first three are OpenAI's; the others are Permafrost's own. Endpoints get the types that they list."""
    return EventTypeList(data=list(get_args(EventType)), descriptions={str(k): v for k, v in EVENT_TYPES.items()})


@router.post("/webhook_endpoints", operation_id="createWebhookEndpoint", summary="Create a webhook endpoint")
def create_endpoint(
    endpoint: Annotated[EndpointCreate, Body()],
    request: Request,
    caller: AsAdmin,
    db: Db,
    vault: Secrets,
    reach: Allowed,
) -> EndpointWithSecret:
    """The answer holds the signing secret; no other answer does.

    Deliveries are signed as Standard Webhooks specifies, so `client.webhooks.unwrap(body, headers, secret=...)` of the
    `openai` SDK checks them. A delivery is tried up to ten times within three days. These routes need the
    role admin: a URL may contain a secret, and each event sends a request from inside this network.
    """
    endpoints.check_url(endpoint.url, reach)
    with db.write() as session:
        row, secret = endpoints.create(session, vault, caller.project, endpoint, retried=is_retry(request))
    return EndpointWithSecret.of(row, signing_secret=secret)


@router.get("/webhook_endpoints", operation_id="listWebhookEndpoints", summary="List webhook endpoints")
def list_endpoints(
    caller: AsAdmin,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: OrderQuery = "desc",
) -> EndpointList:
    """Newest first."""
    statement = select(Endpoint).where(Endpoint.project == caller.project)
    with db.read() as session:
        rows, more = keyset(
            session, statement, Endpoint, tombstones_of=caller.project, after=after, limit=limit, order=order
        )
    return EndpointList.page([EndpointObject.of(row) for row in rows], more=more)


@router.get(_ONE, operation_id="retrieveWebhookEndpoint", summary="Read a webhook endpoint")
def retrieve_endpoint(webhook_endpoint_id: EndpointId, caller: AsAdmin, db: Db) -> EndpointObject:
    """Its URL, event types and state; of its secret, only a hint."""
    with db.read() as session:
        return EndpointObject.of(endpoints.find(session, caller.project, webhook_endpoint_id))


@router.post(_ONE, operation_id="updateWebhookEndpoint", summary="Change a webhook endpoint")
def update_endpoint(
    webhook_endpoint_id: EndpointId, changes: Annotated[EndpointUpdate, Body()], caller: AsAdmin, db: Db, reach: Allowed
) -> EndpointObject:
    """Fields that are left out keep their values. `enabled: true` also enables an endpoint again after a 410."""
    if changes.url is not None:
        endpoints.check_url(changes.url, reach)
    with db.write() as session:
        row = endpoints.find(session, caller.project, webhook_endpoint_id)
        endpoints.change(session, row, changes)
    return EndpointObject.of(row)


@router.delete(_ONE, operation_id="deleteWebhookEndpoint", summary="Delete a webhook endpoint")
def delete_endpoint(webhook_endpoint_id: EndpointId, caller: AsAdmin, db: Db) -> EndpointDeleted:
    """Deletes the endpoint and its deliveries; nothing more is sent."""
    with db.write() as session:
        remove(session, endpoints.find(session, caller.project, webhook_endpoint_id))
    return EndpointDeleted(id=webhook_endpoint_id)


@router.post(f"{_ONE}/rotate_secret", operation_id="rotateWebhookEndpointSecret", summary="Make a new signing secret")
def rotate_secret(
    webhook_endpoint_id: EndpointId,
    request: Request,
    caller: AsAdmin,
    db: Db,
    vault: Secrets,
    rotation: Annotated[RotateSecret | None, Body()] = None,
) -> EndpointWithSecret:
    """The old secret stops signing now, or signs together with the new one for 24 hours."""
    keep = rotation is not None and rotation.keep_old_secret_active_for_24_hours
    with db.write() as session:
        row = endpoints.find(session, caller.project, webhook_endpoint_id)
        secret = endpoints.rotate(session, vault, row, keep=keep, retried=is_retry(request))
    return EndpointWithSecret.of(row, signing_secret=secret)


@router.post(f"{_ONE}/test", operation_id="testWebhookEndpoint", summary="Send a test event")
def test_endpoint(
    webhook_endpoint_id: EndpointId,
    test: Annotated[TestEvent, Body()],
    caller: AsAdmin,
    db: Db,
    vault: Secrets,
    reach: Allowed,
) -> TestResult:
    """Sends a sample event once and reports the receiver's answer. It is about no job and is not in the log."""
    with db.read() as session:
        row = endpoints.find(session, caller.project, webhook_endpoint_id)
        at = now(session)
    event_id, timestamp = new_id("evt"), int(at.timestamp())
    body = payload(test.event_type, event_id=event_id, object_id="ftjob-test", created_at=timestamp)
    keys = list(signing.secrets_of(vault, row, at))
    headers = signing.headers(body, event_id=event_id, timestamp=timestamp, with_secrets=keys)
    answer = Sender(reach).post(row.url, headers=headers, body=body.encode())
    if answer.status_code is None:
        raise InvalidRequest(f"the test event was not delivered: {answer.error}", code="webhook_unreachable")
    return TestResult(webhook_endpoint_id=row.id, event_type=test.event_type, status_code=answer.status_code)


@router.get(f"{_ONE}/deliveries", operation_id="listWebhookDeliveries", summary="List deliveries")
def list_deliveries(
    webhook_endpoint_id: EndpointId,
    caller: AsAdmin,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: OrderQuery = "desc",
) -> DeliveryList:
    """Events sent to an endpoint, with the receiver's answer to every attempt. Finished ones are kept for 30 days."""
    with db.read() as session:
        row = endpoints.find(session, caller.project, webhook_endpoint_id)
        statement = select(Delivery).where(Delivery.endpoint_id == row.id)
        rows, more = keyset(session, statement, Delivery, after=after, limit=limit, order=order)
    return DeliveryList.page([DeliveryObject.of(each) for each in rows], more=more)


@router.get(
    f"{_ONE}/deliveries/{{webhook_delivery_id}}", operation_id="retrieveWebhookDelivery", summary="Read a delivery"
)
def retrieve_delivery(
    webhook_endpoint_id: EndpointId, webhook_delivery_id: DeliveryId, caller: AsAdmin, db: Db
) -> DeliveryObject:
    """The event, and the receiver's answer to every attempt."""
    with db.read() as session:
        row = endpoints.find(session, caller.project, webhook_endpoint_id)
        return DeliveryObject.of(deliveries.find(session, row, webhook_delivery_id))


@router.post(
    f"{_ONE}/deliveries/{{webhook_delivery_id}}/replay",
    operation_id="replayWebhookDelivery",
    summary="Send an event again",
    responses=CONFLICT,
)
def replay_delivery(
    webhook_endpoint_id: EndpointId, webhook_delivery_id: DeliveryId, caller: AsAdmin, db: Db
) -> DeliveryObject:
    """Creates a new delivery with the event's id and body, so that a receiver recognises the same event."""
    with db.write() as session:
        row = endpoints.find(session, caller.project, webhook_endpoint_id)
        if row.disabled_at is not None:
            raise Conflict(f"{row.id} is switched off ({row.disabled_reason}); enable it first")
        replayed = deliveries.replay(session, deliveries.find(session, row, webhook_delivery_id))
    return DeliveryObject.of(replayed)
