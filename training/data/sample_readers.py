"""What each task reads of a record: one reader a task, the same for tables and streams."""

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from .bad_samples import BadSampleError, SchemaError
from .json_records import Record, shorten
from .sample_pictures import find_picture

logger = logging.getLogger(__name__)

UNKNOWN = ("skip", "keep")


class SampleReader:
    """
    Reads a picture, a text and a label.

    Args:
        names: Columns of the table.
        table: What messages call it.
        columns: Role -> column, where it is not called as usual.
        image_folder: What paths of pictures are relative to.
        class_names: Column -> names of the numbers in it, of `datasets.ClassLabel` columns.
        known: The labels that there are; `None`: any.
        unknown: What to do with a sample of another label: "skip" it, as there is nothing to learn from it, or "keep"
            it, to count as wrong in an evaluation.

    Raises:
        SchemaError: for a column that is not there.
    """

    # role -> names that its column may have
    roles: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("image",), "text": ("text",), "label": ("label",)}
    target: ClassVar[str] = "label"  # the role whose values are known or unknown

    def __init__(
        self,
        names: Collection[str],
        table: str,
        columns: Mapping[str, str] | None = None,
        image_folder: Path | None = None,
        class_names: Mapping[str, Sequence[str]] | None = None,
        known: Collection[str] | None = None,
        unknown: str = "skip",
    ):
        if unknown not in UNKNOWN:
            raise ValueError(f"`unknown` is {unknown!r}: expected one of {', '.join(map(repr, UNKNOWN))}.")
        self.columns = find_columns(self.roles, names, table, columns)
        self.image_folder = image_folder
        self.class_names = (class_names or {}).get(self.columns.get(self.target))
        self.known = None if known is None else frozenset(known)
        self.unknown = unknown

    def __call__(self, record: Record) -> dict:
        """
        A sample whose picture is found but not opened.

        Raises:
            BadSampleError: for one to leave out.
        """
        missing = [column for column in self.columns.values() if column not in record.values]
        if missing:
            raise BadSampleError(f"no {' and no '.join(map(repr, missing))} in {shorten(dict(record.values))}")
        values = {role: record.values[column] for role, column in self.columns.items()}
        return {"image": find_picture(values.pop("image"), self.image_folder), **self.read(**values)}

    def read(self, text, label) -> dict:
        """The words of a record."""
        several = isinstance(label, (list, tuple))
        labels = [self.read_class(one) for one in label] if several else [self.read_class(label)]
        self.check_known(labels, every=True)
        return {"text": read_words(text, "text"), "label": labels if several else labels[0]}

    def read_class(self, value) -> str:
        """A class as its name; numbers are those of a `datasets.ClassLabel`, or names themselves."""
        if isinstance(value, int) and self.class_names is not None:
            if not 0 <= value < len(self.class_names):
                raise BadSampleError(f"unknown {self.target} {value}: expected 0 to {len(self.class_names) - 1}")
            return self.class_names[value]
        return str(value) if isinstance(value, int) else read_words(value, self.target)

    def check_known(self, values, every: bool):
        """Refuse a sample with an unknown value, or, unless `every` counts, with unknown ones alone."""
        if self.known is None or self.unknown == "keep":
            return
        strangers = [value for value in values if value not in self.known]
        if strangers and (every or len(strangers) == len(values)):
            raise BadSampleError(f"unknown {self.target} {strangers[0]!r}: it is none of the {len(self.known)} known")


class CaptionReader(SampleReader):
    """Reads a picture and its caption, or several of them."""

    roles: ClassVar = {"image": ("image",), "caption": ("caption", "captions", "text")}
    target: ClassVar = "caption"

    def read(self, caption) -> dict:
        captions = caption if isinstance(caption, (list, tuple)) else [caption]
        if not captions:
            raise BadSampleError("there is no caption")
        return {"captions": [read_words(one, "caption") for one in captions]}


class QuestionReader(SampleReader):
    """Reads a picture, a question, and its answer, or those of several people."""

    roles: ClassVar = {"image": ("image",), "question": ("question",), "answer": ("answer", "answers")}
    target: ClassVar = "answer"

    def read(self, question, answer) -> dict:
        answers = answer if isinstance(answer, (list, tuple)) else [answer]
        answers = [
            self.read_class(one["answer"] if isinstance(one, Mapping) and "answer" in one else one) for one in answers
        ]
        if not answers:
            raise BadSampleError("there is no answer")
        self.check_known(answers, every=False)
        return {"question": read_words(question, "question"), "answers": answers}


def read_words(value, what: str) -> str:
    """
    Text without white space around it.

    Raises:
        BadSampleError: for none.
    """
    if not isinstance(value, str):
        raise BadSampleError(f"the {what} is no text: {shorten(repr(value))}")
    if not value.strip():
        raise BadSampleError(f"the {what} is empty: {value!r}")
    return value.strip()


def find_columns(
    roles: Mapping[str, Sequence[str]], names: Collection[str], table: str, columns: Mapping[str, str] | None
) -> dict[str, str]:
    """
    Role -> column. One that is not called after its role is named in the log.

    Raises:
        SchemaError: for a role that there is not, or a column that is not there.
    """
    columns = dict(columns or {})
    for role in columns:
        if role not in roles:
            raise SchemaError(f"Nothing reads a column for {role!r}: expected {', '.join(map(repr, roles))}.")
    found = {}
    for role, usual in roles.items():
        choices = (columns[role],) if role in columns else usual
        name = next((name for name in choices if name in names), None)
        if name is None:
            raise SchemaError(
                f"{table} has no column {' or '.join(map(repr, choices))}: it has "
                f"{', '.join(map(repr, sorted(names)))}. Name it by columns={{{role!r}: ...}}, or --columns {role}=..."
            )
        if role not in columns and not name.startswith(role):
            _tell_column(table, role, name)
        found[role] = name
    return found


@functools.cache  # a table may be opened several times
def _tell_column(table: str, role: str, name: str) -> None:
    logger.warning(
        "%s has no column %r: %r is read in its place. Name another by columns={%r: ...}.", table, role, name, role
    )
