"""Turns records of training files into examples of a task, as the trainer reads them, and checks every field."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.files.chat_forms import ChatForms
from app.files.conversations import OPTIONS
from app.files.fields import FieldChecks, are_finite, is_plain, without_nulls
from app.files.picture_chats import PictureChatReader
from app.files.pictures import Picture
from app.files.problems import kind_of, nearest

MAX_LABELS = 10_000

#: Fields of a record by task: alternatives, each with its required and its optional fields.
SHAPES: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "causal-lm": (
        (("messages",), OPTIONS),
        (("prompt", "completion"), OPTIONS),
        (("conversations",), ("system", *OPTIONS)),
        (("instruction", "output"), ("input", "system")),
        (("text",), ()),
    ),
    "text-classification": ((("text", "label"), ("text_pair",)),),
    "text-regression": ((("text", "label"), ("text_pair",)),),
    "text-ranking": ((("query", "document", "score"), ()),),
    "token-classification": ((("tokens", "labels"), ()),),
    "pairs": ((("anchor", "positive"), ()),),
    "preference": (
        (("prompt", "chosen", "rejected"), OPTIONS),
        (("chosen", "rejected"), OPTIONS),
        (("input", "preferred_output", "non_preferred_output"), ()),
    ),
    "image-classification": ((("image", "label"), ()),),
    "image-text": ((("messages",), (*OPTIONS, "images")),),
    "contrastive-image-text": ((("text", "image"), ()),),
    "tabular-regression": ((("x", "y"), ()),),
    "tabular-classification": ((("x", "y"), ()),),
}


@dataclass
class ExampleReader(FieldChecks):
    """Turns the records of one file into examples, and checks what all of them must have in common."""

    task: str
    labels: Sequence[str] | None = None  # the label map, where given: labels become indices into it
    features: tuple[str, ...] = ()  # columns of a table; empty when records have `x` and `y`
    target: tuple[str, ...] = ()
    seen: Counter[str] = field(default_factory=Counter)
    first_line: dict[str, int] = field(default_factory=dict)
    whole_labels: bool | None = None  # every label so far is an integer (True) or a string (False)
    shape: tuple[str, ...] | None = None
    of_messages: bool | None = None  # whether prompts and answers so far are lists of messages, or texts
    _complete: set[tuple[str, ...]] = field(default_factory=set)  # keys of records that were found complete
    notes: list[str] = field(default_factory=list)  # what of the file is not read
    width: int | None = None
    targets: int | None = None
    _index: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            self._index = {label: number for number, label in enumerate(self.labels)}
        self._conversations = ChatForms(self)
        self._picture_chats = PictureChatReader(self)

    def read(self, line: int, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The example, or None after at least one problem was added to `problems`."""
        self.line = line
        before = len(self.problems)
        if self.features:
            example = self._table(record)
        else:
            record = without_nulls(record)
            example = _TASKS[self.task](self, record) if self._shape(record) else {}
        return example if len(self.problems) == before else None

    def _shape(self, record: Mapping[str, Any]) -> bool:
        """Whether the record has the fields of its task. Notes missing and unknown ones, by the closest alternative."""
        keys = tuple(record)
        if keys in self._complete:
            return True

        given = list(record)
        alternatives = SHAPES[self.task]
        required, optional = max(
            alternatives,
            key=lambda shape: (*_overlap(shape[0], record), shape[0] == self.shape),
        )
        known = (*required, *optional)
        for name in required:
            if name not in given:
                present = ", ".join(f"'{key}'" for key in given[:10]) or "no field"
                message = f"'{name}' is missing; the example has {present}; {_fields_of(self.task)}"
                self.note(name, "missing_field", message)
        for name in record:
            if name not in known:
                message = f"'{name}' is not a field{nearest(name, known)}; {_fields_of(self.task)}"
                self.note(name, "unknown_field", message)
        complete = all(name in given for name in required) and all(name in known for name in record)
        if complete and self.shape is None:
            self.shape = required
        if complete and self.shape != required:
            fields, earlier = " and ".join(required), " and ".join(self.shape or ())
            message = f"has {fields}, but earlier lines have {earlier}; use the same fields in the whole file"
            self.note(required[0], "mixed_shapes", message)
            return False
        if complete:
            self._complete.add(keys)
        return complete

    # ---- tasks -------------------------------------------------------------------------------------------------

    def _causal(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if "messages" in record:
            return self._conversations.example(record)
        if "conversations" in record:
            return self._conversations.shared(record)
        if "instruction" in record:
            return self._conversations.instructed(record)
        if "text" in record:
            return {"text": self.text("text", record["text"])}
        if self._of_messages(record, ("prompt", "completion")):
            return self._conversations.completed(record)
        prompt = self.text("prompt", record["prompt"], empty=True)
        return {"prompt": prompt, "completion": self.text("completion", record["completion"])}

    def _text_label(self, record: Mapping[str, Any]) -> dict[str, Any]:
        example: dict[str, Any] = {"text": self.text("text", record["text"])}
        if "text_pair" in record:
            example["text_pair"] = self.text("text_pair", record["text_pair"])
        regression = self.task == "text-regression"
        example["label"] = (self.number if regression else self._label)("label", record["label"])
        return example

    def _ranked(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A query, a document, and how relevant the one is to the other, from 0 to 1."""
        example: dict[str, Any] = {name: self.text(name, record[name]) for name in ("query", "document")}
        score = example["score"] = self.number("score", record["score"])
        if not 0 <= score <= 1:
            message = f"'score' is {score:g}; it must be from 0 (not relevant) to 1: divide grades by the highest one"
            self.note("score", "out_of_range", message)
        return example

    def _tokens(self, record: Mapping[str, Any]) -> dict[str, Any]:
        tokens, labels = record["tokens"], record["labels"]
        for name, value in (("tokens", tokens), ("labels", labels)):
            if not isinstance(value, list) or not value:
                what = "an empty array" if value == [] else kind_of(value)
                self.note(name, "wrong_type", f"'{name}' is {what}; it must be a list with one entry per token")
                return {}
        if len(tokens) != len(labels):
            message = f"there are {len(tokens)} tokens and {len(labels)} labels; each token needs one label"
            self.note("labels", "inconsistent_width", message)
        if not all(map(is_plain, tokens)):
            tokens = [self.text(f"tokens[{i}]", token) for i, token in enumerate(tokens)]
        if self._index is None and self.whole_labels is False and all(map(self._is_known, labels)):
            self.seen.update(labels)
            return {"tokens": tokens, "labels": labels}
        return {"tokens": tokens, "labels": [self._label(f"labels[{i}]", label) for i, label in enumerate(labels)]}

    def _is_known(self, label: Any) -> bool:
        return type(label) is str and label in self.seen

    def _texts(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.text(name, record[name]) for name in SHAPES[self.task][0][0]}

    def _preference(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if "input" in record:
            return self._conversations.preference(record)
        if self._of_messages(record, ("chosen", "rejected")):
            return self._conversations.compared(record)
        if "prompt" not in record:
            message = "'prompt' is missing; without it, 'chosen' and 'rejected' are lists of messages that begin alike"
            self.note("prompt", "missing_field", message)
            return {}
        example = self._texts(record)
        if example["chosen"] and example["chosen"] == example["rejected"]:
            self.note("rejected", "no_preference", "'chosen' and 'rejected' are the same text")
        return example

    def _of_messages(self, record: Mapping[str, Any], names: Sequence[str]) -> bool:
        """Whether any of the fields is a list, so that all are messages. Notes lines of two forms in one file."""
        found = any(isinstance(record[name], list) for name in names)
        if self.of_messages is None:
            self.of_messages = found
        elif self.of_messages != found:
            forms = ("lists of messages", "texts") if found else ("texts", "lists of messages")
            message = f"{' and '.join(names)} are {forms[0]}, but {forms[1]} in earlier lines; use one form"
            self.note(names[0], "mixed_shapes", message)
        for name in OPTIONS if not found else ():
            if name in record:
                message = f"'{name}' belongs to conversations; write {' and '.join(names)} as lists of messages"
                self.note(name, "unknown_field", message)
        return found

    def _image(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": Picture(self, "image", record["image"]).data(), "label": self._label("label", record["label"])}

    def _captioned(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A picture and the text that belongs to it."""
        return {"text": self.text("text", record["text"]), "image": Picture(self, "image", record["image"]).data()}

    def _image_text(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return self._picture_chats.example(record)

    def _tabular(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"x": self._vector("x", record["x"]), "y": self._y("y", record["y"])}

    def _vector(self, name: str, value: Any) -> list[float]:
        if not isinstance(value, list) or not value:
            what = "an empty array" if value == [] else kind_of(value)
            self.note(name, "wrong_type", f"'{name}' is {what}; it must be a list of numbers")
            return []
        if self.width is None:
            self.width = len(value)
        elif len(value) != self.width:
            message = f"'{name}' has {len(value)} numbers; in earlier lines it has {self.width}"
            self.note(name, "inconsistent_width", message)
        if are_finite(value):
            return list(map(float, value))
        return [self.number(f"{name}[{i}]", item) for i, item in enumerate(value)]

    def _y(self, name: str, value: Any) -> Any:
        if self.task == "tabular-classification":
            return self._label(name, value)
        values = value if isinstance(value, list) else [value]
        if not values:
            self.note(name, "wrong_type", f"'{name}' is an empty array; it must be a number or a list of numbers")
        if self.targets is None:
            self.targets = len(values)
        elif len(values) != self.targets:
            message = f"'{name}' has {len(values)} numbers; in earlier lines it has {self.targets}"
            self.note(name, "inconsistent_width", message)
        return [self.number(f"{name}[{i}]" if isinstance(value, list) else name, v) for i, v in enumerate(values)]

    def _table(self, record: Mapping[str, Any]) -> dict[str, Any]:
        x = [record[name] for name in self.features]
        if are_finite(x):
            x = list(map(float, x))
        else:
            x = [self.number(name, value) for name, value in zip(self.features, x, strict=True)]
        if self.task == "tabular-classification":
            return {"x": x, "y": self._label(self.target[0], record[self.target[0]])}
        return {"x": x, "y": [self.number(name, record[name]) for name in self.target]}

    # ---- labels ------------------------------------------------------------------------------------------------

    def _label(self, name: str, value: Any) -> str | int:
        """The label's name, or its index where a label map is given."""
        if self._index is None and self.whole_labels is False and self._is_known(value):
            self.seen[value] += 1
            return str(value)
        if isinstance(value, bool) or not isinstance(value, int | str):
            if isinstance(value, list):
                several = "several labels for one example are not supported"
                message = f"'{name}' is an array; a label is one string or one whole number ({several})"
                self.note(name, "wrong_type", message)
                return ""
            regression = self.task.replace("classification", "regression")
            hint = (
                f"; for numbers, name the task: '{regression}'" if regression in SHAPES and type(value) is float else ""
            )
            self.note(name, "wrong_type", f"'{name}' is {kind_of(value)}; a label is a string or a whole number{hint}")
            return ""
        whole = isinstance(value, int)
        if self.whole_labels is None:
            self.whole_labels = whole
        elif self.whole_labels != whole:
            other = "a string" if whole else "a number"
            message = f"'{name}' is {kind_of(value)}, but {other} in earlier lines; use one type in the whole file"
            self.note(name, "mixed_labels", message)
            return ""
        label = str(value)
        self.refuse_no_text(name, label)
        if not label.strip():
            self.note(name, "empty_value", f"'{name}' is empty")
            return ""
        if self._index is not None:
            return self._mapped(name, value, label)
        return self._counted(name, label)

    def labels_of(self, first: int, values: Sequence[Any]) -> list[str | int] | None:
        """The labels of the table's rows from `first` on; None where one is wrong: read the rows one by one then."""
        before = Counter(self.seen), dict(self.first_line), self.whole_labels
        where = {value: first + at for at, value in reversed(list(enumerate(values)))}
        found: dict[Any, str | int] = {}
        for value, count in Counter(values).items():
            self.line = where[value]
            label = found[value] = self._label(self.target[0], value)
            if self.problems:
                self.problems.clear()
                self.seen, self.first_line, self.whole_labels = before
                return None
            self.seen[self.labels[label] if self.labels is not None and isinstance(label, int) else str(label)] += (
                count - 1
            )
        return [found[value] for value in values]

    def _counted(self, name: str, label: str) -> str:
        if label not in self.seen and len(self.seen) >= MAX_LABELS:
            self.note(
                name, "too_many_labels", f"there are more than {MAX_LABELS:,} different labels; is '{name}' a class?"
            )
            return ""
        self.seen[label] += 1
        self.first_line.setdefault(label, self.line)
        return label

    def _mapped(self, name: str, value: int | str, label: str) -> int:
        """The index of a label in the map: by name, or else a whole number (in CSV, its text) as the index itself."""
        assert self.labels is not None
        assert self._index is not None
        number = self._index.get(label)
        if number is None and label.isascii() and label.isdecimal() and len(label) < 10:
            number = int(label) if int(label) < len(self.labels) else None
        if number is None:
            near = nearest(label, self._index)
            known = ", ".join(list(self._index)[:10])
            message = f"'{label:.60}' is not one of the {len(self._index)} labels: {known}{near}"
            self.note(name, "unknown_label", message)
            return -1
        self._counted(name, self.labels[number])
        return number


_TASKS: dict[str, Callable[[ExampleReader, Mapping[str, Any]], dict[str, Any]]] = {
    "causal-lm": ExampleReader._causal,
    "text-classification": ExampleReader._text_label,
    "text-regression": ExampleReader._text_label,
    "text-ranking": ExampleReader._ranked,
    "token-classification": ExampleReader._tokens,
    "pairs": ExampleReader._texts,
    "preference": ExampleReader._preference,
    "image-classification": ExampleReader._image,
    "image-text": ExampleReader._image_text,
    "contrastive-image-text": ExampleReader._captioned,
    "tabular-regression": ExampleReader._tabular,
    "tabular-classification": ExampleReader._tabular,
}


def _overlap(required: Sequence[str], record: Mapping[str, Any]) -> tuple[float, int]:
    """Which share of the required fields a record has, and how many."""
    present = len(set(record) & set(required))
    return present / len(required), present


def _fields_of(task: str) -> str:
    """The fields of a task's examples, for messages."""
    shapes = [
        "{" + ", ".join([*required, *(f"{name}?" for name in optional)]) + "}" for required, optional in SHAPES[task]
    ]
    return f"an example of {task} is {' or '.join(shapes)}"
