"""Files of SQuAD: what is wrong with one is named, and questions without answers can be read."""

import json

import pytest

from fairseq_pmlm.squad.reader import SquadFile
from fairseq_pmlm.utils.errors import PMLMError
from fairseq_pmlm.utils.io import Counts


def squad(version="1.1", context="A fox ran.", **changes):
    question = {"id": "q1", "question": "Who ran?", "answers": [{"text": "fox", "answer_start": 2}]} | changes
    return {"version": version, "data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}


def without(key, record):
    return {name: value for name, value in record.items() if name != key}


TWICE = squad()
TWICE["data"] *= 2
LACKING = squad()
LACKING["data"][0]["paragraphs"][0] = without("context", LACKING["data"][0]["paragraphs"][0])
NO_ID = squad()
NO_ID["data"][0]["paragraphs"][0]["qas"][0] = without("id", NO_ID["data"][0]["paragraphs"][0]["qas"][0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TWICE, "id q1: there is a question with this id already"),
        (LACKING, r"data\[0\]\.paragraphs\[0\]: no key 'context' \(there is 'qas'\)"),
        (NO_ID, r"data\[0\]\.paragraphs\[0\]\.qas\[0\]: no key 'id'"),
        (squad(context=" \n", answers=[], version="2.0"), r"id q1: the passage \(context\) is empty"),
        (squad(id=3), r"qas\[0\]: 'id' should be a string, but is a number"),
        (squad(question=None), "id q1: 'question' should be a string, but is null"),
        (squad(answers=None), "id q1: 'answers' should be a list, but is null"),
        (squad(answers=[{"text": "fox"}]), "id q1, answers: no key 'answer_start'"),
        (
            squad(answers=[{"text": "fox", "answer_start": True}]),
            "'answer_start' should be a whole number, but is a truth",
        ),
        (
            squad(answers=[{"text": "fox", "answer_start": 2}, {"text": "A", "answer_start": 1}]),
            "'A' should stand at 1",
        ),
        (squad(answers=[{"text": "fox", "answer_start": -8}]), "'fox' should stand at -8, where there is 'A f'"),
        (squad(answers=[]), "id q1: no answers; version 1.1 has one for every question"),
        (squad("v2.0", is_impossible=True), "id q1: is_impossible is true, but there are answers"),
        (squad("v2.0", is_impossible=False, answers=[]), "id q1: is_impossible is false, but there are no answers"),
        (squad("v2.0", is_impossible="no"), "id q1: 'is_impossible' should be true or false, but is a string"),
        (squad("3.0"), r"SQuAD version '3\.0'; known are 1\.1, v1\.1, 2\.0, v2\.0"),
        (squad(["1.1"]), r"SQuAD version \['1\.1'\]"),
        ([], "not a JSON object with version and data, but a list"),
        ("{", "broken JSON"),
    ],
)
def test_bad_files_are_named(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(PMLMError, match=message) as error:
        list(SquadFile(str(path), Counts()).paragraphs())
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_questions_alone_can_be_read(tmp_path):
    path = tmp_path / "a.json"
    for version, entry, answered in [
        ("1.1", {}, False),
        ("2.0", {}, False),
        ("1.1", {"answers": []}, False),
        ("2.0", {"answers": []}, True),
        ("2.0", {"answers": [], "is_impossible": False}, False),
    ]:
        data = squad(version)
        data["data"][0]["paragraphs"][0]["qas"] = [{"id": "q", "question": "Who?"} | entry]
        path.write_text(json.dumps(data))
        file = SquadFile(str(path), Counts(), answered=False)
        (paragraph,) = file.paragraphs()
        assert (paragraph.questions[0].answers, paragraph.questions[0].answered) == ([], answered)
        assert file.unanswered == (not answered)
