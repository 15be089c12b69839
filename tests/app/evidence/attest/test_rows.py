"""The rows of a statement: new heads, dropped tensors, other names, ties and slices."""

from tests.app.evidence.attest.readings import BASE, HEAD, HONEST, NEW, OLD, OTHER, TIED, judged, seen, tie


def test_new_head_is_never_identical_to_the_base() -> None:
    """What the base does not hold has an initial reading instead, and no claim against the base."""
    head = seen("head.w", OLD, NEW, base=[])
    row = judged(HONEST[0], head, base={"enc.w": OLD}).rows[1]
    assert (row.role, row.base, row.changed) == ("new", None, True)
    assert row.initial is not None
    assert (row.initial.name, row.initial.sha256) == ("head.w", OLD)


def test_dropped_base_tensor_is_a_row() -> None:
    """A pooler that the task does not use is in the base alone; its row keeps the base's root whole."""
    found = judged(base=BASE | {"pooler.w": OTHER})
    assert found.verdict == "verified"
    assert [(row.name, row.role, row.result) for row in found.rows if row.role == "dropped"] == [
        ("pooler.w", "dropped", None)
    ]


def test_names_may_differ_between_files() -> None:
    """A classifier stores the base's `w` as `enc.w`: the row has both names, and the pair is what is claimed."""
    tensor = seen("enc.w", base=[{"name": "w", "rows": None}])
    found = judged(tensor, HONEST[1], base={"w": OLD, "head.w": OLD})
    assert found.verdict == "verified"
    row = found.rows[0]
    assert row.base is not None
    assert row.result is not None
    assert (row.base.name, row.result.name) == ("w", "enc.w")


def test_tie_that_is_stored_twice_is_two_rows_of_one_tensor() -> None:
    """The further copy says whose it is, and the claim covers both."""
    both = {"emb.w": OLD, "dec.w": OLD}
    found = judged(tie(), HONEST[1], policy=TIED, base=both | HEAD[0], result=both | HEAD[1])
    assert (found.verdict, found.reason) == ("verified", None)
    assert [(row.name, row.alias_of, row.role, row.changed) for row in found.rows] == [
        ("dec.w", "emb.w", "frozen", False),
        ("emb.w", None, "frozen", False),
        ("head.w", None, "trainable", True),
    ]


def test_tie_that_only_the_base_stores_twice_leaves_a_copy_out() -> None:
    """The base's second copy is named as not in the result."""
    base, result = {"emb.w": OLD, "dec.w": OLD} | HEAD[0], {"emb.w": OLD} | HEAD[1]
    found = judged(tie(copies=("emb.w",)), HONEST[1], policy=TIED, base=base, result=result)
    assert found.verdict == "verified"
    assert [(row.name, row.role) for row in found.rows][:2] == [("dec.w", "dropped"), ("emb.w", "frozen")]
