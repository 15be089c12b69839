"""CSV files with a header as records: one dict of texts per row, or the row's problem."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from app.files.lines import Record, text_lines
from app.files.problems import LineProblem, count_of

#: What may separate values, the first that a header has, and how it is called.
_MARKS: Final = {",": "a comma", "\t": "a tab", ";": "a semicolon"}
_QUOTED: Final = re.compile(r'"[^"]*"?')
#: The first line of a file that says to Excel what separates its values.
_EXCEL: Final = re.compile(r'"?sep=([,;\t])"?')


class CsvFile:
    """A CSV file with a header: `columns` and `header_problems` first, then `records`."""

    def __init__(self, path: Path) -> None:
        self._problems: list[LineProblem] = []
        self._line = 0  # the last line that was read
        self._start: int | None = None  # the first line of the current row
        texts = self._texts(path)
        self._mark, first = _separator(texts)
        self._rows = csv.reader(chain(first, texts), strict=True, delimiter=self._mark)
        self.columns: list[str] = []
        self.notes: list[str] = []
        self.empty_columns: list[str] = []  # of nulls alone, which CSV cannot express
        self.header_problems: list[LineProblem] = []
        self._read_header()

    def records(self) -> Iterator[Record | LineProblem]:
        if not self.columns:
            return
        while True:
            self._start = None
            try:
                row = next(self._rows, None)
            except csv.Error as error:
                yield from self._take_problems()
                yield LineProblem(self._start or self._line, None, "not_csv", self._message(error))
                return
            yield from self._take_problems()
            if row is None:
                return
            line = self._start or self._line
            if len(row) == len(self.columns):
                yield line, dict(zip(self.columns, row, strict=True))
            elif row:
                yield self._ragged(line, len(row))

    def _ragged(self, line: int, values: int) -> LineProblem:
        counts = f"has {count_of(values, 'value')}; the header names {count_of(len(self.columns), 'column')}"
        return LineProblem(line, None, "ragged_row", f"{counts} (a value with {_MARKS[self._mark]} needs quotes)")

    def _texts(self, path: Path) -> Iterator[str]:
        for line in text_lines(path):
            if isinstance(line, LineProblem):
                self._problems.append(line)
            else:
                self._line = line[0]
                self._start = self._start or self._line
                yield line[1] + "\n"

    def _message(self, error: csv.Error) -> str:
        if "field limit" in str(error):
            limit = f"a value has more than {csv.field_size_limit():,} characters"
            return f"{limit}, or its quote is never closed (JSONL has room for longer text)"
        return f"is not CSV: {error}; a quote inside quotes is doubled"

    def _take_problems(self) -> list[LineProblem]:
        problems, self._problems = self._problems, []
        return problems

    def _read_header(self) -> None:
        try:
            header = next((row for row in self._rows if row), [])
        except csv.Error as error:
            header = []
            self._problems.append(LineProblem(self._line, None, "not_csv", self._message(error)))
        self.header_problems = self._take_problems()

        columns = [name.strip() for name in header]
        for name, count in Counter(columns).items():
            if not name:
                message = _unnamed([at for at, each in enumerate(columns, 1) if not each], len(columns))
                self.header_problems.append(LineProblem(self._line, None, "empty_column", message))
            elif count > 1:
                message = f"the header names the column '{name}' {count} times; each needs its own name"
                self.header_problems.append(LineProblem(self._line, name, "duplicate_column", message))
        if not self.header_problems:
            self.columns = columns


def _separator(texts: Iterator[str]) -> tuple[str, list[str]]:
    """What separates the values, and the lines that were read to see it: the header, without `sep=;` before it.

    A semicolon or a tab, as spreadsheets write them, where the header has no comma outside of quotes.
    """
    first = next((text for text in texts if text.strip()), "")
    if named := _EXCEL.fullmatch(first.strip()):
        return named.group(1), []
    plain = _QUOTED.sub("", first)
    mark = next((mark for mark in _MARKS if mark in plain), ",")
    return mark, [first] if first else []


def _unnamed(places: list[int], columns: int) -> str:
    """What to do about columns of a header that have no name."""
    if places == [1] and columns > 1:
        cure = "if it is a table's index, leave it out (pandas: index=False); else name it"
        return f"the header has an empty column name: column 1 has no name; {cure}"
    listed = ", ".join(map(str, places[:10]))
    cure = "remove those that are empty" if len(places) > 1 else "remove it if it is empty"
    return f"the header has an empty column name (column {listed} of {columns}); name every column, or {cure}"
