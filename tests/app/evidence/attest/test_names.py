"""Names that a verifier would not follow are known before there is a result."""

from app.evidence.attest.names import unfollowed
from app.evidence.attest.observations import read_observations
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from tests.app.evidence.attest.readings import OLD, reading, seen

POLICY = Policy.from_json({"freeze": ["enc.**"]})


def problems(*stored: str) -> list[str]:
    """Of tensors that are `enc.w` and `head.w` live, and have these names in base and result."""
    rows = [
        seen(live, base=[{"name": name, "rows": None}], result=name)
        for live, name in zip(("enc.w", "head.w"), stored, strict=True)
    ]
    tensors = read_observations({"tensors": rows})
    plan = resolve(POLICY, [each.info for each in tensors])
    files = {name: reading(name, OLD) for name in stored}
    return list(unfollowed(plan, tensors, base=files, result=files, kind="full"))


def test_names_that_agree_have_no_problem() -> None:
    """Also where files leave out one common prefix."""
    assert problems("enc.w", "head.w") == []


def test_a_name_of_another_tensor_is_a_problem() -> None:
    """The tensor is named, and what it is stored as."""
    assert problems("other.name", "head.w") == ["enc.w: stored as 'other.name', which is not its live name"]
