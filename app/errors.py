"""Domain errors. Each carries what an HTTP response needs (status, code, param), and knows no HTTP framework."""

from collections.abc import Sequence
from typing import Any

from app.jsontypes import JsonDict


class PermafrostError(Exception):
    """An error to report to the caller: what was wrong, where (`param`, `errors`), and what would work.

    `errors` holds one dict per problem in a data file: `line` (1-based or None), `field`, `code`, `message`.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        errors: Sequence[JsonDict] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.errors = list(errors)
        self.headers = headers or {}

    def to_json(self) -> JsonDict:
        """The `error` object of OpenAI's envelope; `errors` is ours and absent when empty."""
        body: JsonDict = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return body | ({"errors": self.errors} if self.errors else {})


class InvalidRequest(PermafrostError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class HttpError(PermafrostError):
    """An error of the HTTP layer whose status has no class of its own, such as 405."""

    def __init__(self, status: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, code=code, headers=headers)
        self.status = status
        self.type = "server_error" if status >= 500 else "invalid_request_error"


class PolicyError(InvalidRequest):
    """A freeze policy that does not mean what it says."""

    code = "invalid_freeze_policy"


class DataError(InvalidRequest):
    """A training file that cannot be trained on; `errors` names lines and fields."""

    code = "invalid_training_data"


class ModelError(InvalidRequest):
    """A model spec or model files that cannot be used."""

    code = "invalid_model"


class Unauthenticated(PermafrostError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(PermafrostError):
    status = 403
    type = "permission_error"
    code = "insufficient_permissions"


class NotFound(PermafrostError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(PermafrostError):
    """The object's state does not allow this, and repeating the request will not help."""

    status = 409
    type = "invalid_request_error"
    code = "invalid_state"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.headers.setdefault("x-should-retry", "false")


class Gone(PermafrostError):
    """The object existed; the message says why it does not any more."""

    status = 410
    type = "invalid_request_error"
    code = "gone"


class InUse(Conflict):
    """Other objects depend on this one; `errors` lists them."""

    def __init__(self, message: str, users: Sequence[str], **details: Any) -> None:
        errors = [{"line": None, "field": None, "code": "in_use", "message": user} for user in users]
        super().__init__(message, errors=errors, **details)


class TooLarge(PermafrostError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class OutOfSpace(PermafrostError):
    """A disk or a quota of the file system is full. Nothing was stored; the same request works once space is free."""

    status = 507
    code = "out_of_space"

    def __init__(self, what: str) -> None:
        message = f"there is no room left for {what}; nothing was kept. Free space, then send the request again"
        # The SDK would repeat a server error within seconds, which frees no space.
        super().__init__(message, headers={"x-should-retry": "false"})


class DatabaseUnavailable(PermafrostError):
    """The database does not answer, or is busy for longer than a request may wait."""

    status = 503
    code = "database_unavailable"

    def __init__(self) -> None:
        message = "the database is away or busy; nothing was changed. Send the request again after a few seconds"
        super().__init__(message, headers={"retry-after": "5"})


class SourceUnavailable(PermafrostError):
    """A hub, a store or a server that a job needs something from does not answer; later it may."""

    status = 503
    code = "source_unavailable"


class SignerUnavailable(PermafrostError):
    """The operator's signing command did not sign."""

    status = 503
    code = "signer_unavailable"


class StorageUnavailable(PermafrostError):
    """The blob storage does not answer, or refuses our credentials."""

    status = 503
    code = "storage_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"retry-after": "10"})
