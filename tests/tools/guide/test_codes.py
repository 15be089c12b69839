"""Every error code that can be answered is found in the sources."""

from pathlib import Path

from tools.guide.codes import codes_in, error_codes
from tools.guide.error_pages import error_words

ROOT = Path(__file__).parents[3]

SOURCE = """
_FRAMEWORK_ERRORS: Final = {404: ("unknown_url", "text of_it")}
CODE = "tokenizer_does_not_fit"
class A(Error):
    code = "in_class"
raise B("a_message", code="by_keyword" if x else "other_choice")
yield LineProblem(1, "a_field", "of_line", "text")
self.note("some_name", "noted_code", "text")
error = {"code": "in_dict", "message": "not_this"}
raise C(code=str(report.get("code") or "by_default"))
write_answer(path, work, later="tried_again")
print(code=200, other="not_that")
"""


def test_every_way_to_give_a_code_is_seen() -> None:
    """By class, keyword, position, dict, table, constant and default; other strings are none."""
    wanted = {"unknown_url", "tokenizer_does_not_fit", "in_class", "by_keyword", "other_choice", "of_line"}
    assert codes_in(SOURCE) == wanted | {"noted_code", "in_dict", "by_default", "tried_again"}


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    """A new code comes with its words in tools/guide/errors.toml; a code that is gone takes its page along."""
    written = {each.code for each in error_words()}
    assert sorted(error_codes(ROOT) - written) == []
    assert sorted(written - error_codes(ROOT) - {"http_error"}) == []
