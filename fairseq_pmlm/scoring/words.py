"""One spelling for texts that were tokenized in different ways, so that a score compares words and not spacing.

A published reference is often in Penn Treebank tokens (``do n't``, ``-LRB-``), the output of a WordPiece model has a
space around every mark (``don ' t``, ``3 . 5``), and other texts are as people write them. Here all of these come out
alike, and what has come out stays as it is when it passes again.
"""

import re

# What Penn Treebank files and web pages write for a mark; quotation marks of all kinds become " and '.
BRACKETS = {"-lrb-": "(", "-rrb-": ")", "-lsb-": "[", "-rsb-": "]", "-lcb-": "{", "-rcb-": "}"}
ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&"}
QUOTES = dict.fromkeys(["``", "''", "“", "”", "„"], '"') | dict.fromkeys(["`", "‘", "’"], "'")
SPELLED = BRACKETS | ENTITIES | QUOTES
MARK = re.compile("|".join(map(re.escape, SPELLED)), re.IGNORECASE)
# Spaces that a tokenizer has put into a word.
REJOINED = [
    (re.compile(r"(?<=\d) , (?=\d{3}\b)"), ","),
    (re.compile(r"(?<=\d) \. (?=\d)"), "."),
    (re.compile(r"(?<=\w) - (?=\w)"), "-"),
    (re.compile(r"(?<!\S)- -(?!\S)"), "--"),
    (re.compile(r"(?<!\S)\. \. \.(?!\S)"), "..."),
    (re.compile(r"(?<=\w) n ?' ?t\b", re.IGNORECASE), "n't"),
    (re.compile(r"(?<=\wn) ' t\b", re.IGNORECASE), "'t"),
    (re.compile(r"(?<=\w) ' ?(?=(s|d|m|ll|re|ve)\b)", re.IGNORECASE), "'"),
    (re.compile(r"(?<!\S)([^\W\d_]) \. (?=[^\W\d_] \.)"), r"\1."),  # u . s . -> u.s .
]
WORD = re.compile(
    r"""\.\.\.|--
    |\w+?(?=n't\b)|n't\b|'(?:s|d|m|ll|re|ve)\b
    |\d+(?:[.,]\d+)*(?:-?\w+)*
    |[^\W\d_](?:\.[^\W\d_])+(?!\w)
    |\w+(?:-\w+)*
    |[^\w\s]""",
    re.IGNORECASE | re.VERBOSE,
)
PIECE = re.compile(r"\w+|[^\w\s]")


def unspell(text: str) -> str:
    """*text* with plain brackets and quotation marks, and without the spaces that tokenizers put into words."""
    text = MARK.sub(lambda match: SPELLED[match.group().lower()], text)
    for pattern, joined in REJOINED:
        text = pattern.sub(joined, text)
    return text


def penn_words(text: str) -> list[str]:
    """Words much as the Penn Treebank counts them: ``do n't``, ``it 's``, ``3,000``, ``well-known``, marks apart.

    >>> penn_words("They don't pay 3 , 000 -LRB- or so -RRB- .")
    ['They', 'do', "n't", 'pay', '3,000', '(', 'or', 'so', ')', '.']
    """
    return WORD.findall(unspell(text))


def split_words(text: str) -> list[str]:
    """Every mark on its own, as BERT's basic tokenization has it: ``don ' t``, ``3 , 000``, ``well - known``.

    >>> split_words("They do n't pay 3,000.")
    ['They', 'don', "'", 't', 'pay', '3', ',', '000', '.']
    """
    return PIECE.findall(unspell(text))
