"""Who calls: an API key becomes a Caller (project, role). With PERMAFROST_AUTH=off, on loopback only, everyone is the admin."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import Forbidden
from app.settings import Settings

Role = Literal["admin", "writer", "reader"]

_REACH: Final = {"reader": 0, "writer": 1, "admin": 2}

#: Documents the scheme in OpenAPI; the header is judged by `authenticate`.
bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key, as `Authorization: Bearer <key>`.")


@dataclass(frozen=True, slots=True)
class Caller:
    project: str
    role: Role

    def must(self, role: Role) -> None:
        """Raises unless the caller's role reaches as far as `role`."""
        if _REACH[self.role] < _REACH[role]:
            raise Forbidden(f"this needs a key with the role {role}; this one has the role {self.role}")


ANYONE = Caller(project="default", role="admin")


async def caller(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Caller:
    return ANYONE


Who = Annotated[Caller, Depends(caller)]


def refuse_open_doors(settings: Settings) -> None:
    """Raises SystemExit with the reason when the service would be open to more than this machine."""
    if settings.auth == "off" and not settings.on_loopback:
        raise SystemExit(
            f"PERMAFROST_AUTH=off is for loopback addresses only, and PERMAFROST_HOST is {settings.host}: "
            "a job API without keys lets anyone run training here"
        )
    if settings.auth_required:
        raise SystemExit("PERMAFROST_AUTH=required needs API keys, which this version does not have yet; bind to 127.0.0.1")
