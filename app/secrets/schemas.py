"""Payloads of secrets. No answer has a value in it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.http.request_body import RequestBody
from app.paging.keyset import Page
from app.secrets.kinds import SecretKind
from app.secrets.tables import Secret

NAME: str = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class SecretSet(RequestBody):
    """A new secret, or a new value for the one that has this name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "hub", "kind": "hub", "value": "hf_0000000000000000000000000000000000"},
                {
                    "name": "data-bucket",
                    "kind": "s3",
                    "scope": "acme-data",
                    "value": {"access_key_id": "AKIA0000000000000000", "secret_access_key": "0000000000000000"},
                },
            ]
        }
    )

    name: Annotated[str, Field(pattern=NAME, description="Its name in this project.")]
    kind: Annotated[
        SecretKind, Field(description="What it opens: models and data of a hub, an object store, a tracking server.")
    ]
    scope: str = Field(
        default="",
        max_length=256,
        pattern=r"^[A-Za-z0-9._/:-]*$",
        description="What it is used for alone: of a hub an owner or `owner/name`, of a store a bucket, of a "
        "tracking server its host. Empty: everything of its kind. The narrowest scope that fits decides.",
    )
    # Checked by app.secrets.kinds: the schema's own errors would repeat what was sent.
    value: str | dict[str, str] = Field(
        repr=False,
        description="A hub's or tracking server's token as text; of `s3` an object with `access_key_id` and "
        "`secret_access_key`, and if needed `session_token`, `endpoint_url` and `region`. No answer ever has it.",
    )


class SecretObject(BaseModel):
    """A secret without its value."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "secret-5f0c1d2e3a4b5c6d7e8f9a0b",
                    "object": "secret",
                    "created_at": 1760000000,
                    "updated_at": 1760000000,
                    "name": "hub",
                    "kind": "hub",
                    "scope": "",
                }
            ]
        }
    )

    id: str
    object: Literal["secret"] = "secret"
    created_at: int = Field(description="Unix time in seconds.")
    updated_at: int = Field(description="Unix time when its value was set.")
    name: str
    kind: SecretKind
    scope: str

    @classmethod
    def of(cls, row: Secret) -> "SecretObject":
        return cls.model_validate(
            {
                "id": row.id,
                "created_at": int(row.created_at.timestamp()),
                "updated_at": int(row.updated_at.timestamp()),
                "name": row.name,
                "kind": row.kind,
                "scope": row.scope,
            }
        )


class SecretList(Page):
    data: list[SecretObject]


class SecretDeleted(BaseModel):
    id: str
    object: Literal["secret"] = "secret"
    deleted: Literal[True] = True
