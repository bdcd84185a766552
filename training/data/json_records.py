"""Records of JSON files, a list or one object a line, each with the place where it begins."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .bad_samples import BadSample, SchemaError

_WHITE = " \t\r\n"


class Record(NamedTuple):
    """What a table says of one sample, and where."""

    file: str
    line: int | str  # from 1 in JSON lines; "line 5, entry 0" in a list, "row 3" in a table
    values: Mapping


def read_json_records(path: str | os.PathLike) -> tuple[list[Record], list[BadSample]]:
    """
    Read a list of objects, or objects one a line (JSON lines).

    A broken line of JSON lines, and an entry that is no object, is left out; empty lines are passed over.

    Raises:
        FileNotFoundError: without such a file.
        SchemaError: for a list that is broken in the middle, as nothing tells where its next entry begins, for JSON
            that is neither a list nor lines, or for a file without a record.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path} is no UTF-8 text: {error}") from None
    entries = _list_entries(path, text) if text.lstrip(_WHITE).startswith("[") else _line_entries(path, text)
    records, bad = [], []
    for line, value in entries:
        if isinstance(value, BadSample):
            bad.append(value)
        elif isinstance(value, dict):
            records.append(Record(str(path), line, value))
        else:
            bad.append(BadSample(str(path), line, f"expected an object, got {shorten(json.dumps(value))}"))
    if not records:
        told = "".join(f"\n  {one}" for one in bad[:5])
        raise SchemaError(f"{path} has no record: expected a list of objects, or an object a line.{told}")
    return records, bad


def shorten(value, most: int = 80) -> str:
    """A value as it is shown in a message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _line_entries(path, text) -> Iterator[tuple[int, object]]:
    # not `splitlines`, which also breaks at characters that stand inside of JSON strings
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            yield line, json.loads(content)
        except ValueError as error:
            yield line, BadSample(str(path), line, f"no JSON ({error}): {shorten(content.strip())}")


def _list_entries(path, text) -> Iterator[tuple[str, object]]:
    decoder = json.JSONDecoder()
    place = _skip_white(text, text.index("[") + 1)
    line, counted, entry = 1, 0, 0
    closed = text[place : place + 1] == "]"
    place += closed
    while not closed:
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = decoder.raw_decode(text, place)
        except ValueError as error:
            at = getattr(error, "pos", place)
            raise SchemaError(
                f"{path}, line {text.count(chr(10), 0, at) + 1}: the list is broken ({error}): "
                f"{shorten(text[max(place, at - 20) :].split(chr(10))[0])}"
            ) from None
        yield f"line {line}, entry {entry}", value  # a list may be all in one line
        entry += 1
        place = _skip_white(text, end)
        mark = text[place : place + 1]
        if mark not in (",", "]"):
            where = text.count("\n", 0, place) + 1
            raise SchemaError(f"{path}, line {where}: the list is broken, expected ',' or ']', got {mark!r}.")
        closed = mark == "]"
        place = _skip_white(text, place + 1)
    place = _skip_white(text, place)
    if place < len(text):
        where = text.count("\n", 0, place) + 1
        raise SchemaError(f"{path}, line {where}: text after the end of the list: {shorten(text[place:])}")


def _skip_white(text, place):
    while place < len(text) and text[place] in _WHITE:
        place += 1
    return place
