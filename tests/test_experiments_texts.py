"""experiments/: text out of packages."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_pmlm.utils.errors import PMLMError

HERE = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(HERE))

from entries import main as entries_main  # noqa: E402
from paragraphs import main as paragraphs_main  # noqa: E402


def test_entries_of_a_dictionary(tmp_path, capsys):
    path, out = tmp_path / "wn.dict.dz", tmp_path / "wn.txt"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("00-database-short\n     a name of eight words or more, which is none\n")
        file.write('dull\n    adj 1: lacking in liveliness or animation; "he was\n         so dull" [syn: {dull}]\n\n')
        file.write("short\n    n 1: few words\nétude\n    n 1: a short composition for one instrument to study with\n")
        file.write("Dull \\Dull\\, a.\n   1. Slow of understanding; stupid; doltish; blockish.\n      [1913 Webster]\n")
    entries_main([str(path), "--out", str(out)])
    assert out.read_text() == (
        'dull adj 1: lacking in liveliness or animation; "he was so dull" [syn: dull ]\n\n'
        "Dull a. 1. Slow of understanding; stupid; doltish; blockish.\n"
    )
    assert "2 of 4 entries" in capsys.readouterr().out
    with pytest.raises(PMLMError, match="is what is read"):
        entries_main([str(path), "--out", str(path)])
    for nothing in (b"", b"\n\n"):
        path.write_bytes(gzip.compress(nothing))
        with pytest.raises(PMLMError, match="none of 0 entries can be used"):
            entries_main([str(path), "--out", str(out)])
    path.write_bytes(b"plain")
    with pytest.raises(PMLMError, match=r"wn\.dict\.dz: cannot be read: "):
        entries_main([str(path), "--out", str(out)])


def test_paragraphs_of_pages(tmp_path, capsys):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.html").write_text(
        "<html><p>This is <b>a sentence</b> that says\n quite enough &amp; ends well.<p>Too short.<pre>int x = 1;</pre>"
        "<p>Here <pre>x = f(y)</pre>a second one is set around some code, as people do.</p>outside of paragraphs"
        "<p>int f(int x) { return 2 * x + 1; } is = not ** prose at * all.</p>"
        "<p>it ends with no mark but has many words</p>"
    )
    (tmp_path / "pages" / "skipped.html").write_text("<p>This page is one that has to be left out of it all.</p>")
    out = tmp_path / "out.txt"
    paragraphs_main([str(tmp_path / "pages"), "--out", str(out), "--skip", "*skipped*"])
    assert out.read_text().splitlines() == [
        "This is a sentence that says quite enough & ends well.",
        "Here a second one is set around some code, as people do.",
    ]
    assert "2 of 5 paragraphs, 1 of 1 pages" in capsys.readouterr().out
    with pytest.raises(PMLMError, match=r"no \.html files"):
        paragraphs_main([str(out), "--out", str(tmp_path / "x")])


def test_pages_that_are_broken(tmp_path):
    page, out = tmp_path / "page.html", tmp_path / "out.txt"
    page.write_text("<p>This sentence is <![odd[ one ]]>set around what no parser knows of.</p>")
    paragraphs_main([str(page), "--out", str(out)])
    assert out.read_text() == "This sentence is set around what no parser knows of.\n"
    with pytest.raises(PMLMError, match="is what is read"):
        paragraphs_main([str(tmp_path), "--out", str(page)])
    page.unlink()
    page.symlink_to("/proc/self/mem")  # a file that cannot be read, whoever asks
    with pytest.raises(PMLMError, match=r"cannot read .*page\.html"):
        paragraphs_main([str(page), "--out", str(out)])


def test_more_texts_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.txt").write_text("words\n")
    words = ["bash", HERE / "text.sh", tmp_path / "out", tmp_path / "a/text.txt", tmp_path / "b/text.txt"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.search(r"a/text\.txt and .*b/text\.txt have the same name", done.stderr)
    assert not (tmp_path / "out").exists()
