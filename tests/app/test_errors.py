"""Domain errors say what an HTTP response needs."""

from app.errors import Conflict, HttpError, InUse, InvalidRequest


def test_the_envelope_holds_what_was_wrong() -> None:
    """`errors` is left out when it is empty, and `code` is the class's own unless another one is given."""
    error = InvalidRequest("x: too small", param="x", code="too_small")
    assert error.to_json() == {
        "message": "x: too small",
        "type": "invalid_request_error",
        "param": "x",
        "code": "too_small",
    }
    assert InvalidRequest("wrong").code == "invalid_request"


def test_a_status_without_a_class() -> None:
    """Errors of the service are server errors; the others are the request's."""
    assert (HttpError(405, "no", code="method_not_allowed").type, HttpError(504, "no", code="late").type) == (
        "invalid_request_error",
        "server_error",
    )


def test_a_conflict_is_not_repeated_unless_it_says_so() -> None:
    """The SDK repeats a 409 by itself; users of an object that is in use are listed one by one."""
    assert Conflict("no").headers == {"x-should-retry": "false"}
    assert Conflict("soon", headers={"x-should-retry": "true"}).headers == {"x-should-retry": "true"}
    assert [user["message"] for user in InUse("no", ["a", "b"]).to_json()["errors"]] == ["a", "b"]
