"""A docstring, in reStructuredText, numpydoc, Google or plain style -> its summary line and its sentences of prose."""

import inspect
import re
import textwrap
import unicodedata
from typing import NamedTuple

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
    if "`" in text:
        text = re.sub(r"(?::\w+)?:\w+:``", "``", text)  # a role with two backticks too many
        text = re.sub(r":math:`([^`]*)`", lambda m: m[1].replace("\\", "") if len(m[1]) < 12 else f"\\{m[1]}", text)
        text = re.sub(r"(?::[\w+-]+)*:[\w+-]+:`([^`]*?)\s*<[^`<>]*>`", r"\1", text)
        text = re.sub(r"(?::[\w+-]+)*:[\w+-]+:`[~!.]([^`]*)`", lambda m: m[1].rsplit(".", 1)[-1], text)
        text = re.sub(r"(?::[\w+-]+)*:[\w+-]+:`([^`]*)`", r"\1", text)
        text = re.sub(r"``(.+?)``", r"\1", text)
        text = re.sub(r"`([^`<>]+?)\s*<[^`<>]+>`_{0,2}", r"\1", text)
        text = re.sub(r"`+~?([^`]+?)['`]+_{0,2}", r"\1", text)
    if "[" in text:
        # a citation that is part of the sentence ("see [1]_") takes it along: is_prose refuses the backslash
        text = re.sub(r"\[(?:[#*]?\w{0,12}|\w+[ ,-]+\w+)\]_|(?<=\s)\[\d{1,2}\]", "[]_", text)
        text = re.sub(rf"\b{CITING}(?:(?:,|\s|and|or)*\[\]_)+", r"\\", text, flags=re.I)
        text = re.sub(r"\s*\[\]_", "", text)
        text = re.sub(r"\[([^\]]+)\]\((?:http|#|\.)[^)]*\)", r"\1", text)
    if "*" in text:
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
    if not sentence.isascii() and sum(c.isalpha() and not c.isascii() for c in sentence) > 0.05 * len(sentence):
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
    """The :class:`Document` of one docstring as it stands in the source.

    A summary line is one line (PEP 257); an opening sentence that runs over several is prose.
    """
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
        if len(head) == 1 and len(sentences(first)) == 1:
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
