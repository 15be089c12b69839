"""Groups become roles: the highest in each project, in the order of the settings."""

from datetime import UTC, datetime, timedelta

from app.auth.person import Person, SignedIn, roles
from app.settings import read_grants

GRANTS = read_grants("research=search:writer, auditors=search:reader, auditors=ads:reader, chiefs=search:admin")


def test_the_highest_role_counts():
    """Whichever order the groups come in."""
    assert roles(["auditors", "research"], GRANTS) == {"search": "writer", "ads": "reader"}
    assert roles(["chiefs", "auditors", "research"], GRANTS) == {"search": "admin", "ads": "reader"}


def test_unknown_groups_have_no_role():
    """Names are compared whole, with case."""
    assert roles([], GRANTS) == roles(["Research", "research ", "resea"], GRANTS) == {}


def test_a_project_without_a_role_is_not_taken():
    """The browser's choice counts among the person's projects alone."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    person = SignedIn("ann (1)", roles(["auditors"], GRANTS), at)
    assert person.project(None) == person.project("secret") == "search"
    assert person.project("ads") == "ads"
    assert person.valid(at - timedelta(seconds=1)) and not person.valid(at)


def test_a_name_cannot_stand_for_the_subject():
    """Both are shown, as far as the audit log has room."""
    assert Person("7", "ann@example.org", ()).label == "ann@example.org (7)"
    assert len(Person("7" * 255, "a", ()).label) == 128
