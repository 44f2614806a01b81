"""Files of hypotheses, and the command that puts them in order."""

import json
import math

import pytest

from fairseq_pmlm.cli import hypotheses
from fairseq_pmlm.scoring.hypotheses import read_generate, read_generate_output, read_segments
from fairseq_pmlm.utils.errors import PMLMError


def write(path, *lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return str(path)


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "f"
    path.write_bytes("\ufeffa\u2028b\u0085c\x0cd\r\n\n e \n\nlast".encode())
    assert read_segments(path) == ["a\u2028b\u0085c\x0cd", "", " e ", "", "last"]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PMLMError, match=r"cannot read .*nothere: No such file"):
        read_segments(tmp_path / "nothere")
    with pytest.raises(PMLMError, match=r"cannot read .*: Is a directory"):
        read_segments(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(PMLMError, match="empty: is empty"):
        read_segments(tmp_path / "empty")
    (tmp_path / "latin").write_bytes("a\nb\ncafé\n".encode("latin-1"))
    with pytest.raises(PMLMError, match=r"latin, line 3: not UTF-8 \(byte 0xe9 at column 4"):
        read_segments(tmp_path / "latin")


def test_generate_output(tmp_path):
    path = write(
        tmp_path / "g",
        "2024-01-01 | INFO | D-day",
        *["S-1\tsource", "H-1\t-0.3\tsub word", "D-1\t-0.3\tbest\u2028of 1", "P-1\t-0.1", "D-1\t-0.4\tsecond of 1"],
        *["D-10\t-1\tten", "D-0\t-0.2\ta\ttab"],
        *(f"D-{i}\t-1\t" for i in range(2, 10)),
        "Generate test with beam=2: rouge1 = 1",
    )
    assert read_generate_output(path) == ["a\ttab", "best\u2028of 1", *[""] * 8, "ten"]

    with pytest.raises(PMLMError, match="no hypothesis D-1, but ids up to 3"):
        read_generate_output(write(tmp_path / "g", "D-0\t0\ta", "D-3\t0\tb", "D-2\t0\tc"))
    with pytest.raises(PMLMError, match="g, line 1: expected D-<id>"):
        read_generate_output(write(tmp_path / "g", "D-0\ttext"))
    with pytest.raises(PMLMError, match="is this the output of fairseq-generate"):
        read_generate_output(write(tmp_path / "g", "H-0\t0\ta"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["S-0\tx", "D-0\t0\ta", "S-1\ty", "H-1\t0\tb"], "no hypothesis D-1, but its source S-1: is the output cut"),
        (["S-0\tx", "D-0\t0\ta", "S-0\tx", "D-0\t0\ta"], "line 3: S-0 for the second time; are these two outputs"),
        (["D-0\t0\ta", "D-1\t0\tb", "D-0\t0\ta"], "line 3: D-0 for the second time; are these two outputs"),
        (["S-0\tx", "T-0\tx", "T-0\tx"], "line 3: T-0 for the second time"),
    ],
)
def test_outputs_that_are_not_whole(tmp_path, lines, message):
    with pytest.raises(PMLMError, match=message):
        read_generate(write(tmp_path / "g", *lines))


def test_a_cut_last_line(tmp_path):
    (tmp_path / "g").write_text("D-0\t-1\ta word cut in the mid")
    with pytest.raises(PMLMError, match=r"g: the last line has no newline at its end; the output is cut"):
        read_generate(tmp_path / "g")


def test_sources_of_interactive(tmp_path):
    lines = ["S-0\t▁the ▁c at ' s", "W-0\t0.1\tseconds", "H-0\t0\t▁a", "D-0\t0\ta"]
    assert read_generate(write(tmp_path / "g", *lines))[0].source == "the cat's"
    assert read_generate(write(tmp_path / "g", lines[0], *lines[2:]))[0].source == "▁the ▁c at ' s"  # a text like that
    args = [write(tmp_path / "g", *lines), "--save-json", str(tmp_path / "j")]
    hypotheses.main([*args, "--source", write(tmp_path / "s", "the  cat's")])
    assert json.loads((tmp_path / "j").read_text())["source"] == "the  cat's"
    with pytest.raises(PMLMError, match=r"g has 1 inputs but .*s has 2 lines"):
        hypotheses.main([*args, "--source", write(tmp_path / "s", "a", "b")])


GENERATED = [
    "S-1\tthe second",
    "H-1\t-0.3\t▁b est",
    "D-1\t-0.3\tbest\u2028of 1",
    "P-1\t-0.1",
    "D-1\t-inf\tother",
    "S-0\tthe first",
    "T-0\tits reference",
    "D-0\t-0.2\t",
]


def test_records(tmp_path):
    first, second = read_generate(write(tmp_path / "g", *GENERATED))
    assert first == (0, "the first", "its reference", [("", -0.2)])
    assert second == (1, "the second", None, [("best\u2028of 1", -0.3), ("other", -math.inf)])


def test_script(tmp_path, capsys):
    source = str(write(tmp_path / "g", *GENERATED))
    hypotheses.main([source, "--out", str(tmp_path / "hyp.txt"), "--save-json", str(tmp_path / "hyp.jsonl")])
    assert capsys.readouterr().out == "2 inputs, 1 of them with an empty hypothesis\n"
    assert (tmp_path / "hyp.txt").read_text() == "\nbest of 1\n"
    objects = [json.loads(line) for line in (tmp_path / "hyp.jsonl").read_text().splitlines()]
    assert objects[0] == {
        "id": 0,
        "source": "the first",
        "reference": "its reference",
        "hypotheses": [{"text": "", "score": -0.2}],
    }
    assert objects[1]["hypotheses"][0] == {"text": "best\u2028of 1", "score": -0.3}
    assert objects[1]["hypotheses"][1] == {"text": "other", "score": None}
    with pytest.raises(PMLMError, match=r"the directory .* does not exist"):
        hypotheses.main([source, "--out", str(tmp_path / "no" / "hyp.txt")])
    with pytest.raises(SystemExit):
        hypotheses.main([source])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "hyp.jsonl", "hyp.txt"]
    text = str(tmp_path / "hyp.txt")
    for files in (
        ["--out", source],
        ["--out", str(tmp_path / "x"), "--save-json", str(tmp_path / "x")],
        ["--save-json", text, "--source", text],
    ):
        with pytest.raises(PMLMError, match=r"is what is read|give two files"):
            hypotheses.main([source, *files])
    assert read_generate(source)
    assert not (tmp_path / "x").exists()
