"""Raw text in, one clean line per record out.

A corpus is full of characters that some later program takes for a line end or a column separator: U+2028 inside a JSON
string, a form feed between pages, a lone carriage return. fairseq's files hold one record per line, and a record that
becomes two shifts every line behind it against its partner. So text is cut at ``\\n`` and ``\\r\\n`` only (never with
``str.splitlines``), and whatever else could break a line is replaced by a space and counted.
"""

import contextlib
import gzip
import io
import itertools
import json
import os
import re
import sys
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Optional

from .errors import PMLMError, describe

# Control characters (tab, line breaks, NUL, C1 with U+0085), the two separators of Unicode, and half surrogates, which
# JSON can spell but UTF-8 cannot hold. \r\n is one break.
UNSAFE = re.compile("\r\n|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LONGEST_LINE = 1 << 30  # bytes; a small .gz can hold a line that fills any memory
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NAMES = {"\t": "tab", "\n": "line feed", "\r": "carriage return", "\r\n": "line break", "\x00": "NUL"}


def clean_line(text: str, replaced: Optional[Counter] = None) -> str:
    """*text* as one line: line breaks, tabs and control characters become single spaces, half surrogates U+FFFD.

    Args:
        text: any string.
        replaced: counts each replacement under the character's name, if given.
    """

    def replace(match: re.Match) -> str:
        found = match.group()
        surrogate = "\ud800" <= found <= "\udfff"
        if replaced is not None:
            replaced["half surrogate" if surrogate else NAMES.get(found, f"U+{ord(found[0]):04X}")] += 1
        return "\ufffd" if surrogate else " "

    return UNSAFE.sub(replace, text)


@dataclass
class Counts:
    """What was read: the numbers that the prepare commands report."""

    files: int = 0
    empty_files: int = 0
    bytes: int = 0  # of text, after decompression
    documents: int = 0
    lines: int = 0
    blank_lines: int = 0
    malformed: int = 0  # left out, as they have another number of columns than the others
    replaced: Counter = field(default_factory=Counter)

    def add(self, other: "Counts") -> None:
        """Add the numbers of *other*."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def as_json(self) -> dict[str, Any]:
        """The numbers, for a JSON file."""
        return vars(self) | {"replaced": dict(sorted(self.replaced.items()))}

    def describe_replaced(self) -> str:
        """For example ``3 (tab 2, U+2028 1)``."""
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.replaced.items()))
        return f"{sum(self.replaced.values())}" + (f" ({kinds})" if kinds else "")


def read_bytes(path: str | os.PathLike) -> bytes:
    """All of a file.

    Raises:
        PMLMError: it cannot be read.
    """
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as error:
        raise PMLMError(f"cannot read {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def reading(path: str, content: Optional[bytes] = None) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, plain or ``.gz``; *content*: what :func:`read_bytes` has read of it already.

    Raises:
        PMLMError: it cannot be read, or is not a gzip file although its name says so.
    """
    try:
        with open(path, "rb") if content is None else io.BytesIO(content) as raw:
            if path.endswith(".gz"):
                with gzip.open(raw, "rb") as stream:
                    yield stream
            else:
                yield raw
    except gzip.BadGzipFile as error:
        raise PMLMError(f"{path}: not a gzip file, although its name ends in .gz ({error})") from None
    except (EOFError, zlib.error) as error:
        raise PMLMError(f"{path}: the gzip file is damaged or cut off ({error})") from None
    except OSError as error:
        raise PMLMError(f"cannot read {path}: {error.strerror or error}") from None


def read_line(stream: io.BufferedIOBase, path: str, number: int) -> bytes:
    """Line *number* of a file, or what is left of it, with its line end; empty where the file ends.

    Raises:
        PMLMError: it is longer than :data:`LONGEST_LINE`.
    """
    raw = stream.readline(LONGEST_LINE + 1)  # binary files know one line end: \n
    if len(raw) > LONGEST_LINE:
        raise PMLMError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes; is this a text file?")
    return raw


def decode_line(raw: bytes, path: str, number: int) -> str:
    """The text of line *number* of a file, without its line end and without the byte order mark of the first.

    Raises:
        PMLMError: the line is not UTF-8.
    """
    if number == 1:
        raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        hint = ""
        if number == 1 and raw.startswith(b"\x1f\x8b"):
            hint = "; it looks like a gzip file: give it a name that ends in .gz"
        elif number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            hint = "; it looks like UTF-16: convert it, for example with iconv -f UTF-16 -t UTF-8"
        raise PMLMError(
            f"{path}, line {number}: not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1}){hint}"
        ) from None


def read_lines(
    path: str, counts: Optional[Counts] = None, content: Optional[bytes] = None
) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line of a file, plain or ``.gz``, without its line end.

    The text is not cleaned. A byte order mark at the start of the file is left out. *content* is what
    :func:`read_bytes` has read of the file already.

    Raises:
        PMLMError: see :func:`reading`, :func:`read_line` and :func:`decode_line`.
    """
    with reading(path, content) as stream:
        for number in itertools.count(1):
            raw = read_line(stream, path, number)
            if not raw:
                return
            if counts is not None:
                counts.bytes += len(raw)
            yield number, decode_line(raw, path, number)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
    """A temporary name next to *path*, with the same ending, that takes its place when the block ends well.

    So a file is whole or not there at all, and an old one stays as it was until then. A pipe, or a device such as
    ``/dev/null``, is written to as it is.

    Raises:
        PMLMError: the system refuses to write (no such directory, no permission, disk full).
    """
    path = os.fspath(path)
    root, ending = os.path.splitext(path)
    is_file = os.path.isfile(path) or not os.path.exists(path)
    temporary = f"{root}.{os.getpid()}.tmp{ending}" if is_file else path
    try:
        yield temporary
        if is_file:
            os.replace(temporary, path)
    except OSError as error:
        raise PMLMError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if is_file:
            with contextlib.suppress(OSError):
                os.remove(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 file, whole or not at all; see :func:`replacing`."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as f:
        f.write(text)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file, whole or not at all; see :func:`replacing`."""
    with replacing(path) as temporary, open(temporary, "wb") as f:
        f.write(content)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a JSON file that people can read, too; otherwise as :func:`write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def check_input(path: str, option: str) -> None:
    """Refuse, before any work, a value of *option* that is not a file; a pipe will do.

    Raises:
        PMLMError: *path* does not exist, or is a directory.
    """
    if os.path.isdir(path):
        raise PMLMError(f"{option} {path}: is a directory; give a file")
    if not os.path.exists(path):
        raise PMLMError(f"{option} {path}: no such file")


def check_output(out: str | None, *read: str | None, option: str = "--out") -> None:
    """Refuse, before any work, an output file that cannot be written or would replace what is read.

    Args:
        out: value of *option*; None and "" mean that it was not given.
        read: files that are read; None for those that were not given.

    Raises:
        PMLMError: *out* is one of *read*, is a directory, or lies in none that exists.
    """
    if not out:
        return
    if os.path.realpath(out) in {os.path.realpath(path) for path in read if path}:
        raise PMLMError(f"{option} {out} is what is read; choose another file")
    if os.path.isdir(out):
        raise PMLMError(f"{option} {out} is a directory; give a file")
    folder = os.path.dirname(out)
    if folder and not os.path.isdir(folder):
        raise PMLMError(f"{option} {out}: the directory {folder} does not exist")


def write_output(path: str | os.PathLike | None, text: str) -> None:
    """What a command has made: into the file of its ``--out``, as :func:`write_text`, or to standard output.

    Raises:
        BrokenPipeError: the reader of standard output has gone.
        PMLMError: it cannot be written for another reason.
    """
    if path:
        write_text(path, text)
        return
    try:
        # by line: an unbuffered stream (PYTHONUNBUFFERED) keeps silent about what is left of a single large write
        sys.stdout.writelines(text.splitlines(keepends=True))
        sys.stdout.flush()
    except BrokenPipeError:  # no fault of the user's: ``pmlm ... | head`` ends quietly
        raise
    except OSError as error:
        # what is left of it is not written again, and refused again, when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise PMLMError(f"standard output: cannot be written: {error.strerror or error}") from error


def list_files(paths: Iterable[str]) -> list[str]:
    """The files that *paths* name, directories searched recursively and sorted by name.

    Hidden files and directories (``.git``, ``.DS_Store``) inside a directory are left out.

    Raises:
        PMLMError: a path does not exist, a directory holds no file, or it or one inside it cannot be read.
    """

    def refuse(error: OSError) -> None:  # else what is in that directory would be left out without a word
        raise PMLMError(f"cannot read {error.filename}: {error.strerror}") from error

    files = []
    for path in paths:
        if os.path.isdir(path):
            found = []
            for folder, folders, names in os.walk(path, onerror=refuse):
                folders[:] = [name for name in folders if not name.startswith(".")]
                candidates = (os.path.join(folder, name) for name in names if not name.startswith("."))
                found += [candidate for candidate in candidates if os.path.isfile(candidate)]
            if not found:
                raise PMLMError(f"no files in the directory {path}")
            files += sorted(found, key=lambda file: file.split(os.sep))
        elif os.path.exists(path):
            files.append(path)
        else:
            raise PMLMError(f"no such file or directory: {path}")
    return files


def mark_documents(
    texts: Iterable[str], documents: str, counts: Counts, inside: bool = False, ends: bool = True
) -> Iterator[str]:
    """*texts*, lines of one file, as clean lines, and one empty string after each document.

    A stream rather than lists, so that a document may be as large as the disk.

    Args:
        texts: the lines.
        documents: ``blocks``: blank lines separate documents, and so do files; ``files``: one document per file,
            whose blank lines are left out.
        counts: documents, lines and replaced characters are added here.
        inside: whether the first line continues a document.
        ends: whether the file ends with the last line.
    """
    for text in texts:
        line = clean_line(text, counts.replaced)
        if line.strip():
            counts.lines += 1
            inside = True
            yield line
            continue
        counts.blank_lines += 1
        if inside and documents == "blocks":
            counts.documents += 1
            inside = False
            yield ""
    if inside and ends:
        counts.documents += 1
        yield ""


def read_records(path: str, keys: Iterable[str], counts: Optional[Counts] = None) -> Iterator[tuple[int, list[Any]]]:
    """Line number and the values of *keys* in every object of a JSON-lines file, plain or ``.gz``.

    Blank lines are skipped and counted. Values are returned as they are; see :func:`text_value`.

    Raises:
        PMLMError: naming file, line and key: broken JSON, not an object, a missing key; also see :func:`read_lines`.
    """
    counts = Counts() if counts is None else counts
    counts.files += 1
    keys = list(keys)
    for number, text in read_lines(path, counts):
        if not text.strip():
            counts.blank_lines += 1
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PMLMError(f"{where}: broken JSON ({describe(error)})") from None
        if not isinstance(record, dict):
            raise PMLMError(f"{where}: not a JSON object with {' and '.join(keys)}, but {kind(record)}")
        for key in keys:
            if key not in record:
                raise PMLMError(f"{where}: no key '{key}' (there is {', '.join(map(repr, record)) or 'no key at all'})")
        counts.lines += 1
        yield number, [record[key] for key in keys]


def read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        PMLMError: it cannot be read, or holds something else.
    """
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes, path: str) -> dict[str, Any]:
    """The object in the JSON file *path*, whose content has been read already; otherwise as :func:`read_json`."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PMLMError(f"{path}: broken JSON ({describe(error)})") from None
    if not isinstance(found, dict):
        raise PMLMError(f"{path}: not a JSON object")
    return found


def text_value(value: Any, where: str, counts: Counts) -> str:
    """A JSON value as one clean line without white space around it; empty if it is all white space.

    Raises:
        PMLMError: it is not text; *where* (file, line, key) starts the message.
    """
    if not isinstance(value, str):
        raise PMLMError(f"{where}: not text, but {kind(value)}")
    return clean_line(value.strip(), counts.replaced).strip()


def kind(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
