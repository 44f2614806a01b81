"""The look at a corpus: duplicates, draws and shards against obvious code over lists of documents."""

import random

import numpy as np
import pytest

from fairseq_pmlm.preparation import chunks
from fairseq_pmlm.preparation.survey import DUPLICATE, OUTSIDE, TRAIN, VALID, Survey, look, survey
from fairseq_pmlm.utils.errors import PMLMError

WORDS = ["a", "bb", "ccc", "한글", "d"]


def documents(seed, number=60, longest=6):
    """Documents of a few lines; about a third comes twice, with other white space."""
    draw, found = random.Random(seed), []
    for _ in range(number):
        if found and draw.random() < 0.3:
            words = " ".join(draw.choice(found)).split()
            cuts = sorted(draw.sample(range(1, len(words)), min(len(words) - 1, draw.randint(0, 2))))
            lines = [words[i:j] for i, j in zip([0, *cuts], [*cuts, len(words)], strict=True)]
            found.append([("  " if draw.random() < 0.5 else " \t").join(line) for line in lines])
        else:
            found.append([" ".join(draw.choices(WORDS, k=5)) for _ in range(draw.randint(1, longest))])
    return found


def write(path, content):
    path.write_text("\n\n".join("\n".join(document) for document in content) + "\n", encoding="utf-8")
    return str(path)


def duplicates_of(content):
    seen, found = set(), []
    for document in content:
        key = " ".join(" ".join(document).split())
        found.append(key in seen)
        seen.add(key)
    return found


@pytest.mark.parametrize(("size", "long"), [(1 << 18, 1 << 21), (100, 1000), (20, 30), (1, 1)])
def test_duplicates_and_draw(tmp_path, monkeypatch, size, long):
    monkeypatch.setattr(chunks, "SIZE", size)
    monkeypatch.setattr(chunks, "LONG", long)
    content = documents(1)
    files = [write(tmp_path / "a.txt", content[:25]), write(tmp_path / "b.txt", content[25:])]
    twice = np.array(duplicates_of(content))
    assert 10 < twice.sum() < 30
    found, _ = survey(files, [], "blocks", 1, seed=3, valid_fraction=0.2, deduplicate=True)
    assert ((found.fates == DUPLICATE) == twice).all()
    kept = np.flatnonzero(~twice)
    drawn = random.Random(3).sample(range(len(kept)), round(len(kept) * 0.2))
    assert set(np.flatnonzero(found.fates == VALID)) == {int(kept[i]) for i in drawn}
    assert set(found.chunks_with(VALID)) >= {
        i for i in range(len(found.table)) if VALID in found.fates_in(i)[: int(found.table["documents"][i])]
    }
    found, _ = survey(files, [], "blocks", 1, seed=3)
    assert not found.fates.any()


def test_validation_files_come_before_their_duplicates(tmp_path):
    content = documents(2)
    valid = [content[5], ["only here"], content[5]]
    files = [write(tmp_path / "a.txt", content)], [write(tmp_path / "z.txt", valid)]
    found, _ = survey(*files, "blocks", 1, seed=3, valid_fraction=0.5, deduplicate=True, shard_size=300)
    assert found.fates[:3].tolist() == [VALID, VALID, DUPLICATE]
    assert ((found.fates[3:] == DUPLICATE) == duplicates_of([*valid, *content])[3:]).all()
    assert not (found.fates[3:] == VALID).any()
    assert found.counts["valid"].documents == 3
    assert ((found.shards == OUTSIDE) == (found.table["file"] == 0)).all()


def test_the_same_for_any_number_of_workers_and_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 200)
    files = [write(tmp_path / "a.txt", documents(4))]
    options = {"seed": 1, "valid_fraction": 0.1, "shard_size": 800, "deduplicate": True, "sample_size": 30}
    one, lines_of_one = survey(files, [], "blocks", 1, **options)
    two, lines_of_two = survey(files, [], "blocks", 2, **options)
    two.save(str(tmp_path))
    two = Survey.load(str(tmp_path))
    for name in ("table", "fates", "shards", "first"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert (one.paths, one.documents, one.counts) == (two.paths, two.documents, two.counts)
    assert list(lines_of_one) == list(lines_of_two)


@pytest.mark.parametrize(("size", "long"), [(1 << 18, 1 << 21), (50, 60)])
def test_sample(tmp_path, monkeypatch, size, long):
    monkeypatch.setattr(chunks, "SIZE", size)
    monkeypatch.setattr(chunks, "LONG", long)
    content = [[f"{i} {j}" for j in range(1 + i % 3)] for i in range(1500)]
    files = [write(tmp_path / "a.txt", content)]
    chunk = chunks.Chunk(0, files[0], 0, 0, False, True, "blocks", (tmp_path / "a.txt").read_bytes())
    everything = look((chunk, 2**64 - 1), seed=5, hashing=False, sampling=True)
    assert everything.texts == [line for document in content for line in document]
    found, lines = survey(files, [], "blocks", 2, seed=5, valid_fraction=0.1, sample_size=10_000)
    fates = found.fates.tolist()
    assert list(lines) == [line for i, document in enumerate(content) if fates[i] == TRAIN for line in document]
    _, lines = survey(files, [], "blocks", 2, seed=5, valid_fraction=0.1, sample_size=400)
    limit = sorted(everything.numbers.tolist())[399]
    assert list(lines) == [
        text
        for number, document, text in zip(
            everything.numbers.tolist(), everything.documents.tolist(), everything.texts, strict=True
        )
        if number <= limit and fates[document] == TRAIN
    ]
    # neither the place in the text nor the place in the line decides: halves get halves
    first = sum(number <= limit for number in everything.numbers.tolist()[:1500])
    assert 150 < first < 250


def test_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 50)
    monkeypatch.setattr(chunks, "LONG", 100)
    content = documents(6, 400)
    content[200] = ["long " * 10] * 100  # longer than a shard
    files = [write(tmp_path / "a.txt", content)]
    found, _ = survey(files, [], "blocks", 1, seed=1, shard_size=2000)
    numbers = np.unique(found.shards)
    assert numbers.tolist() == list(range(len(numbers)))
    assert (np.diff(found.shards) >= 0).all()
    starts = np.flatnonzero(np.diff(found.shards)) + 1
    assert not found.table["inside"][starts].any()
    sizes = np.array([found.table["size"][found.shards == i].sum() for i in numbers])
    assert (sizes > 5000).sum() == 1
    usual = sizes[sizes < 5000]
    assert len(usual) > 5
    assert abs(np.median(usual) - 2000) < 150
    assert survey(files, [], "blocks", 1, seed=1, shard_size=10**9)[0].shards.max() == 0
    assert survey(files, [], "blocks", 1, seed=1)[0].shards.max() == 0


def test_duplicates_do_not_fill_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 50)
    fresh = [[f"{i:09} text to keep"] for i in range(200)]
    files = [write(tmp_path / "a.txt", [*fresh[:100], *([["the same again"]] * 1000), *fresh[100:]])]
    found, _ = survey(files, [], "blocks", 1, seed=1, shard_size=2500, deduplicate=True)
    kept = [int((found.fates[found.first[found.shards == i]] == TRAIN).sum()) for i in range(found.shards.max() + 1)]
    assert len(kept) == 2
    assert abs(kept[0] - kept[1]) < 10


def test_too_little_text(tmp_path):
    (tmp_path / "a.txt").write_text("same\n\nsame\n")
    (tmp_path / "b.txt").write_text(" \n")
    files = [str(tmp_path / "a.txt")]
    with pytest.raises(PMLMError, match="the corpus is 1 document, too few to take 1 out"):
        survey(files, [], "blocks", 1, seed=1, valid_fraction=0.1, deduplicate=True)
    with pytest.raises(PMLMError, match=r"no text in .*b\.txt: the corpus is empty"):
        survey(files, [str(tmp_path / "b.txt")], "blocks", 1, seed=1)
