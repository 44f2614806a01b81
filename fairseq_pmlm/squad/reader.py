"""SQuAD's JSON, versions 1.1 and 2.0, for whoever needs it: question answering and question generation."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..utils.errors import PMLMError, describe
from ..utils.io import Counts, kind, read_lines

VERSIONS = {"1.1": "1.1", "v1.1": "1.1", "2.0": "2.0", "v2.0": "2.0"}


class Answer(NamedTuple):
    """An answer, which stands in the passage where the file says."""

    text: str
    start: int  # first character, in the passage as it is


class Question(NamedTuple):
    """A question with all its answers, of which several may be right."""

    id: str
    text: str
    answers: list[Answer]
    answered: bool  # whether the file says; then no answers means that the passage has none
    where: str  # file and id, for messages


class Paragraph(NamedTuple):
    """A passage and what is asked about it."""

    passage: str
    questions: list[Question]


class SquadFile:
    """A SQuAD file; ``version`` is "1.1" or "2.0", ``unanswered`` counts the questions of which it does not say whether
    there is an answer.

    Args:
        path: JSON, plain or ``.gz``.
        counts: what was read is added here; its lines are questions.
        answered: whether the file should have answers; if not, questions may be without.

    Raises:
        PMLMError: it cannot be read, is no SQuAD file, or of another version.
    """

    def __init__(self, path: str, counts: Counts, answered: bool = True):
        self.path, self.counts, self.answered = path, counts, answered
        self.unanswered = 0
        counts.files += 1
        text = "\n".join(line for _, line in read_lines(path, counts))
        try:
            self.content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PMLMError(f"{path}: broken JSON ({describe(error)})") from None
        if not isinstance(self.content, dict):
            raise PMLMError(f"{path}: not a JSON object with version and data, but {kind(self.content)}")
        version = self.content.get("version")
        if not isinstance(version, str) or version not in VERSIONS:
            raise PMLMError(f"{path}: SQuAD version {version!r}; known are {', '.join(VERSIONS)}")
        self.version = VERSIONS[version]

    def paragraphs(self) -> Iterator[Paragraph]:
        """Paragraphs in the order of the file, which have questions.

        Raises:
            PMLMError: naming the file, and the id or the place: a key is missing or has a value of another type; a
                passage is empty; an id is there twice; an answer is empty or not where the file says; answers are
                missing, or contradict ``is_impossible``.
        """
        seen: set[str] = set()
        for i, article in enumerate(value(self.content, "data", list, self.path)):
            for j, paragraph in enumerate(value(article, "paragraphs", list, f"{self.path}, data[{i}]")):
                where = f"{self.path}, data[{i}].paragraphs[{j}]"
                passage = value(paragraph, "context", str, where)
                questions = []
                for k, entry in enumerate(value(paragraph, "qas", list, where)):
                    question = self.question(entry, passage, f"{where}.qas[{k}]")
                    if question.id in seen:
                        raise PMLMError(f"{question.where}: there is a question with this id already")
                    seen.add(question.id)
                    questions.append(question)
                    self.counts.lines += 1
                if not passage.strip():
                    named = f"{self.path}, id {questions[0].id}" if questions else where
                    raise PMLMError(f"{named}: the passage (context) is empty")
                yield Paragraph(passage, questions)

    def question(self, entry: Any, passage: str, where: str) -> Question:
        number = value(entry, "id", str, where)
        where = f"{self.path}, id {number}"
        text = value(entry, "question", str, where)
        listed = value(entry, "answers", list, where) if self.answered or "answers" in entry else []
        impossible = self.version == "2.0" and value(entry, "is_impossible", bool, where, False)
        answers = [self.answer(answer, passage, where) for answer in listed]
        if answers and impossible:
            raise PMLMError(f"{where}: is_impossible is true, but there are answers")
        promised = self.version == "2.0" and not answers and not impossible and "is_impossible" in entry
        if promised and self.answered:
            raise PMLMError(f"{where}: is_impossible is false, but there are no answers")
        if not answers and self.answered and self.version == "1.1":
            raise PMLMError(f"{where}: no answers; version 1.1 has one for every question")
        answered = bool(answers) or (self.version == "2.0" and "answers" in entry and not promised)
        self.unanswered += not answered
        return Question(number, text, answers, answered, where)

    def answer(self, entry: Any, passage: str, where: str) -> Answer:
        text = value(entry, "text", str, f"{where}, answers")
        start = value(entry, "answer_start", int, f"{where}, answers")
        if not text.strip():
            raise PMLMError(f"{where}: the answer is empty")
        found = passage[max(start, 0) : max(start, 0) + len(text)]
        if found != text or start < 0:
            hint = "it stands elsewhere" if text in passage else "it is nowhere in the passage"
            raise PMLMError(f"{where}: the answer {text!r} should stand at {start}, where there is {found!r}; {hint}")
        return Answer(text, start)


def value(record: Any, key: str, wanted: type, where: str, default: Any = None) -> Any:
    """``record[key]``, of type *wanted*; *default*, if there is one, where it is missing.

    Raises:
        PMLMError: the record is no object, or it is missing or of another type; *where* starts the message.
    """
    if not isinstance(record, dict):
        raise PMLMError(f"{where}: not a JSON object, but {kind(record)}")
    if key not in record:
        if default is not None:
            return default
        raise PMLMError(f"{where}: no key '{key}' (there is {', '.join(map(repr, record)) or 'no key at all'})")
    found = record[key]
    if not isinstance(found, wanted) or (wanted is int and isinstance(found, bool)):
        name = {str: "a string", int: "a whole number", list: "a list", bool: "true or false"}[wanted]
        raise PMLMError(f"{where}: '{key}' should be {name}, but is {kind(found)}")
    return found
