"""A person who has signed in by a provider, with a role in each project that the groups lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.settings import Grant, Role

RANK: Final[dict[str, int]] = {"reader": 0, "writer": 1, "admin": 2}
#: The browser's choice among the projects of its person. It opens nothing: a project without a role is not taken.
PROJECT_COOKIE: Final = "permafrost_project"


@dataclass(frozen=True, slots=True)
class Person:
    """What a provider says of a person: `subject` stays the same for ever, `name` is for showing."""

    subject: str
    name: str
    groups: tuple[str, ...]

    @property
    def label(self) -> str:
        """How logs and pages name the person: names can be chosen, so the subject is beside it."""
        return f"{self.name} ({self.subject})"[:128]


@dataclass(frozen=True, slots=True)
class Checks:
    """When the provider is asked again about a person, and until when its last word counts where it does not answer."""

    next: datetime
    counts_until: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person's session that is not over. `roles` has at least one project, in the order of the settings."""

    label: str
    roles: dict[str, Role]
    expires_at: datetime
    #: None where the provider cannot be asked again: such a session is short.
    checks: Checks | None = None

    def valid(self, at: datetime) -> bool:
        """Whether it opens something at this moment, without a question to anybody."""
        return at < self.expires_at and not self.due(at)

    def due(self, at: datetime) -> bool:
        return self.checks is not None and (self.checks.next <= at or self.overdue(at))

    def overdue(self, at: datetime) -> bool:
        return self.checks is not None and self.checks.counts_until <= at

    def project(self, chosen: str | None) -> str:
        """The project that the browser chose, if the person has a role there; else the first."""
        return chosen if chosen in self.roles else next(iter(self.roles))


def roles(groups: Sequence[str], grants: Sequence[Grant]) -> dict[str, Role]:
    """The highest role in each project that a member of these groups has."""
    found: dict[str, Role] = {}
    for group, project, role in grants:
        if group in groups and (project not in found or RANK[role] > RANK[found[project]]):
            found[project] = role
    return found
