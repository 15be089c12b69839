"""JSON contents of specs, as hypothesis draws them."""

import json
from typing import Any

from hypothesis import strategies as st

NAMES = st.text(min_size=1, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | NAMES
LISTS = st.lists(NAMES, max_size=3)


def objects(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects with any of these fields."""
    return st.fixed_dictionaries({}, optional=values)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON text: 1 is not 1.0, and true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
