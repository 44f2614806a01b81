"""What ``fuzz_readers.py`` does to valid files."""

import json
import random
import re

NASTY = [
    *("\x00", "\r", "\x85", "\u2028", "\ufeff", "\ud800", "\udfff", "\u202e", "e\u0301" * 40, "\U0001f468\u200d"),
    *("</s>", "<mask>", "<pseudo>", "[SEP]", "[MASK]", "\u2581", "##", "madeupword0000", "#fairseq:overwrite", "<unk>"),
    *("../../etc/passwd", "%s%n", "${oc.env:HOME}", "{}", "<script>alert(1)</script>", "NaN", "Infinity", "1e999"),
    *("9" * 5000, "-1", "0x10", "\t\t\t", " ", "\n\n\n", '"', "\\", "\\ud800", "\u0661\u0662"),
]
EXTREMES = [0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)]
VALUES = [None, True, False, 0, -1, 1.5, 1e308, 10**400, 2**63, "", "x", "\ud800", [], {}, [[]], [None], {"a": {}}]


def mutate(data: bytes, kind: str, rng: random.Random) -> bytes:
    """*data* with one to four mutations; of *kind* "json", half of them change values and keep the syntax."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if kind == "json" and rng.random() < 0.6:
            data = change_json(data, rng)
        else:
            data = rng.choice(BYTES if kind == "bytes" else BYTES + TEXT)(data, rng)
    return data


def cut(data, rng):
    return data[: rng.randrange(len(data) + 1)]


def flip(data, rng):
    changed = bytearray(data)
    for _ in range(min(len(data), rng.choice((1, 1, 3, 20)))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def span(data, rng):
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 8, 64, 1000)))


def leave_out(data, rng):
    start, stop = span(data, rng)
    return data[:start] + data[stop:]


def double(data, rng):
    start, stop = span(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 3, 50)) + data[stop:]


def exchange(data, rng):
    (a, b), (c, d) = sorted((span(data, rng), span(data, rng)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def noise(data, rng):
    start, stop = span(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def extreme(data, rng):
    """A number of 1, 2, 4 or 8 bytes becomes an extreme one."""
    width = rng.choice((1, 2, 4, 8))
    start = rng.randrange(len(data) + 1)
    number = rng.choice(EXTREMES) % 2 ** (8 * width)
    return data[:start] + number.to_bytes(width, "little") + data[start + width :]


def nothing(data, rng):
    return b""


def insert(data, rng):
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(NASTY).encode("utf-8", "surrogatepass") + data[start:]


def change_number(data, rng):
    found = list(re.finditer(rb"-?\d+", data))
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + str(rng.choice([*EXTREMES, 10**30])).encode() + data[match.end() :]


def change_lines(data, rng):
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.choice(("again", "leave out", "empty", "sort"))
    if how == "again":
        lines.insert(i, lines[j])
    elif how == "leave out":
        lines.pop(i)
    elif how == "empty":
        lines.append(b"")
    else:
        lines.sort()
    return b"\n".join(lines)


BYTES = [cut, flip, leave_out, double, exchange, noise, extreme, flip, cut, extreme]
TEXT = [insert, change_number, change_lines, insert, change_number, nothing]


def change_json(data: bytes, rng: random.Random) -> bytes:
    """A value of one JSON document, or of one line of several, is left out, doubled, nested, or becomes another."""
    try:
        lines = [data] if data[:1] == b"{" and data.count(b"\n{") == 0 else data.split(b"\n")
        i = rng.randrange(len(lines))
        content = json.loads(lines[i])
    except (ValueError, RecursionError):
        return flip(data, rng) if data else data
    places = []

    def visit(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            visit(node[key])

    try:
        visit(content)
    except RecursionError:
        return data
    if not places:
        return data
    node, key = rng.choice(places)
    how = rng.choice(("value", "value", "value", "nasty", "leave out", "double", "nest", "rename"))
    if how == "value":
        node[key] = rng.choice(VALUES)
    elif how == "nasty":
        node[key] = rng.choice(NASTY)
    elif how == "leave out":
        del node[key]
    elif how == "double" and isinstance(node, list):
        node.append(node[key])
    elif how == "nest":
        depth = rng.choice((2, 50, 3000))
        node[key] = "MARK"
        nested = b"[" * depth + b"]" * depth if rng.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
        lines[i] = json.dumps(content).encode().replace(b'"MARK"', nested)
        return b"\n".join(lines)
    elif how == "rename" and isinstance(node, dict):
        node[rng.choice(NASTY)] = node.pop(key)
    lines[i] = json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)
