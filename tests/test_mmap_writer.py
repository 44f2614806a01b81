"""Written as it comes, a data set has the bytes of fairseq's own builder."""

import numpy as np
import pytest
import torch
from fairseq.data import indexed_dataset
from hypothesis import given
from hypothesis import strategies as st

from fairseq_pmlm.data import indexed
from fairseq_pmlm.data.indexed import MMapWriter, best_fitting_int_dtype


@pytest.mark.parametrize("types", [100, 65_499, 65_500, 250_000])
def test_bytes_of_fairseqs_builder(tmp_path, monkeypatch, types):
    monkeypatch.setattr(indexed, "BLOCK", 7)
    rng = np.random.default_rng(types)
    sizes = rng.integers(1, 9, 40)
    tokens = rng.integers(0, types, sizes.sum())
    builder = indexed_dataset.make_builder(str(tmp_path / "theirs.bin"), "mmap", vocab_size=types)
    for line in np.split(tokens, np.cumsum(sizes)[:-1]):
        builder.add_item(torch.from_numpy(line))
    builder.finalize(str(tmp_path / "theirs.idx"))
    with MMapWriter(str(tmp_path / "ours"), best_fitting_int_dtype(types)) as writer:
        for first, last in ((0, 3), (3, 3), (3, 25), (25, 40)):
            start, end = int(sizes[:first].sum()), int(sizes[:last].sum())
            writer.add(tokens[start:end], sizes[first:last])
    for end in ("bin", "idx"):
        assert (tmp_path / f"ours.{end}").read_bytes() == (tmp_path / f"theirs.{end}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.bin", "ours.idx", "theirs.bin", "theirs.idx"]


@given(
    st.lists(st.lists(st.integers(0, 65_535), max_size=5), max_size=9),
    st.sampled_from([np.uint16, np.int32, np.uint32, np.int64]),
    st.integers(1, 4),
)
def test_any_items_of_any_type(tmp_path_factory, items, dtype, together):
    folder = tmp_path_factory.mktemp("items")
    builder = indexed_dataset.MMapIndexedDatasetBuilder(str(folder / "theirs.bin"), dtype)
    with MMapWriter(str(folder / "ours"), dtype) as writer:
        for first in range(0, len(items), together):
            some = items[first : first + together]
            writer.add(np.array([number for item in some for number in item]), np.array([len(item) for item in some]))
            for item in some:
                builder.add_item(torch.tensor(item))
    builder.finalize(str(folder / "theirs.idx"))
    for end in ("bin", "idx"):
        assert (folder / f"ours.{end}").read_bytes() == (folder / f"theirs.{end}").read_bytes()


def test_offsets_beyond_two_gibibytes(tmp_path):
    sizes = [2**30, 2**30, 5, 2**31 - 1, 7]
    with MMapWriter(str(tmp_path / "a"), np.uint16) as writer:
        for size in sizes:
            writer.add(np.empty(0), np.array([size]))
    index = indexed_dataset.MMapIndexedDataset.Index(str(tmp_path / "a.idx"))
    assert index.sizes.tolist() == sizes
    assert [int(index[i][0]) for i in range(5)] == [2 * sum(sizes[:i]) for i in range(5)]


def test_nothing_is_finished_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), MMapWriter(str(tmp_path / "a"), np.uint16):
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
