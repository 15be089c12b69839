"""The one type of what crosses a boundary as JSON: a column, a file, a request, an answer."""

from typing import Any

#: Keys to whatever JSON has. Inside, what has fields of its own is a dataclass.
JsonDict = dict[str, Any]
