from hypothesis import given
from hypothesis import strategies as st

from app.evidence.diff.pairing import notes, pair
from tests.app.evidence import strategies


@given(st.sets(strategies.names, min_size=1, max_size=6), st.sampled_from(["", "bert.", "model.language."]))
def test_pairs_names_up_to_a_common_prefix(names: set[str], prefix: str) -> None:
    """The same names, one side under a prefix: each is compared with its own."""
    names = {name for name in names if "." not in name} or {"w"}
    longer = [prefix + name for name in names]
    assert pair(names, longer) == {prefix + name: name for name in names}
    assert pair(longer, names) == {name: prefix + name for name in names}


def test_an_equal_name_is_the_partner() -> None:
    """Also where a prefix would lead elsewhere; what has no partner is new."""
    assert pair(["w", "b.w", "v"], ["b.w", "b.v", "c.w"]) == {"b.w": "b.w", "b.v": "v", "c.w": None}


def test_the_parts_of_wrappers_do_not_count() -> None:
    """At the start or inside, on either side, and together with the prefix of a model's body."""
    plain = ["emb.weight", "enc.0.weight"]
    assert pair(plain, [f"module.{name}" for name in plain]) == {f"module.{name}": name for name in plain}
    assert pair(["bert._orig_mod.emb.weight"], ["emb.weight"]) == {"emb.weight": "bert._orig_mod.emb.weight"}


def test_names_that_would_collide_are_left_as_they_are() -> None:
    """A model with a module of its own that is called so has both names, and they are two tensors."""
    names = ["module.w", "w"]
    assert pair(names, names) == {name: name for name in names}
    assert list(notes(names, names)) == []


def test_notes_say_which_wrapper_and_where() -> None:
    """One sentence for each wrapper and model."""
    (note,) = notes(["w", "v"], ["module.w", "module.v"])
    assert note.startswith("2 names in B have 'module.', a part that DistributedDataParallel puts into them")
