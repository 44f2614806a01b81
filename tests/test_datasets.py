"""Blocks, examples and batches, against slow references and across workers, epochs and restarts."""

import multiprocessing

import numpy as np
import pytest
import torch
from fairseq.data import FairseqDataset, indexed_dataset
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import small_dictionary
from test_binarized import write

from fairseq_pmlm.data import masking
from fairseq_pmlm.data.blocks import TextBlocks
from fairseq_pmlm.data.pair_dataset import Corruption, CutDataset, PseudoMaskedPairDataset
from fairseq_pmlm.data.pretraining_dataset import PMLMDataset
from fairseq_pmlm.tasks.pmlm import PMLMTask, PMLMTaskConfig
from fairseq_pmlm.utils.errors import PMLMError

BOS, PAD, EOS, MASK, PSEUDO = 0, 1, 2, 34, 35


class Binarized(FairseqDataset):
    """Lines of token numbers as fairseq-preprocess leaves them: each with </s> at its end."""

    def __init__(self, lines):
        self.lines = [torch.tensor([*line, EOS]) for line in lines]
        self.sizes = np.array([len(line) for line in self.lines])

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        return self.lines[index]


def reference_blocks(lines, size, mode):
    """[(tokens, line ends)] by walking over the text once."""
    if mode == "none":
        text = [(token, i == len(line) - 1) for line in lines for i, token in enumerate(line)]
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        return [([t for t, _ in p], [i + 1 for i, (_, end) in enumerate(p) if end and i + 1 < len(p)]) for p in pieces]
    blocks, block, ends = [], [], []

    def close():
        nonlocal block, ends
        if block and not (mode == "complete_doc" and len(block) == 1):
            blocks.append((block, [e for e in ends if 0 < e < len(block)]))
        block, ends = [], []

    for line in lines:
        if not line and mode == "complete_doc":
            close()
        for start in range(0, len(line), size):
            piece = line[start : start + size]
            if mode == "eos" or len(block) + len(piece) > size:
                close()
            block, ends = block + piece, [*ends, len(block) + len(piece)]
    close()
    return blocks


TEXTS = st.lists(st.lists(st.integers(4, 33), max_size=12), min_size=1, max_size=25).filter(lambda x: sum(map(len, x)))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 9), st.sampled_from(["none", "complete", "complete_doc", "eos"]))
def test_blocks_are_contiguous_text(lines, size, mode):
    expected = reference_blocks(lines, size, mode)
    if not expected:
        return
    blocks = TextBlocks(Binarized(lines), size, pad=PAD, eos=EOS, break_mode=mode)
    assert [(tokens.tolist(), ends.tolist()) for tokens, ends in blocks] == expected
    assert blocks.sizes.tolist() == [len(tokens) for tokens, _ in expected]
    assert blocks.dropped_tokens == sum(map(len, lines)) - sum(len(tokens) for tokens, _ in expected)
    if mode != "complete_doc":
        assert blocks.dropped_tokens == 0


def test_a_text_of_empty_lines_is_refused():
    with pytest.raises(PMLMError, match="every line is empty"):
        TextBlocks(Binarized([[], []]), 10, pad=PAD, eos=EOS)


def test_lines_without_their_end_are_refused():
    data = Binarized([[5, 6, 7]])
    data.lines[0][-1] = 9
    with pytest.raises(PMLMError, match=r"line 1 .* does not end in </s>"):
        TextBlocks(data, 10, pad=PAD, eos=EOS)[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # fairseq's half-made data set
@pytest.mark.parametrize("kind", ["bin", "idx"])
def test_binarized_files_that_are_cut_short_are_named(tmp_path, kind):
    builder = indexed_dataset.make_builder(str(tmp_path / "train.bin"), "mmap", vocab_size=20)
    for _ in range(9):
        builder.add_item(torch.arange(2, 12))
    builder.finalize(str(tmp_path / "train.idx"))
    task = PMLMTask(PMLMTaskConfig(data=str(tmp_path)), small_dictionary())
    assert len(task.load_binarized(str(tmp_path / "train"))) == 9
    path = tmp_path / f"train.{kind}"
    path.write_bytes(path.read_bytes()[:-5])
    said = r"train\.bin has 175 bytes, and .*train\.idx is of 180" if kind == "bin" else "9 items take 134 bytes"
    with pytest.raises(PMLMError, match=said):
        task.load_binarized(str(tmp_path / "train"))


@pytest.mark.parametrize(
    ("objective", "corrupt", "split", "said"),
    [("par", False, "train", True), ("par", True, "train", False), ("par", False, "valid", False),
     ("ae+par", False, "train", False), ("ae", False, "train", False)],
)  # fmt: skip
def test_par_alone_is_warned_of_pseudo_masks_that_show_nothing(tmp_path, caplog, objective, corrupt, split, said):
    write(tmp_path / split, [[5, 6, 7, 2]] * 9)
    cfg = PMLMTaskConfig(data=str(tmp_path), objective=objective, corrupt_pseudo=corrupt)
    PMLMTask(cfg, small_dictionary()).load_dataset(split)
    assert ("without --corrupt-pseudo" in caplog.text) == said


def dataset(objective="ae+par", size=40, lines=60, shuffle=True, **options):
    rng = np.random.default_rng(0)
    text = [rng.integers(4, 34, rng.integers(1, 15)).tolist() for _ in range(lines)]
    blocks = TextBlocks(Binarized(text), size, pad=PAD, eos=EOS, break_mode="complete")
    return PMLMDataset(blocks, small_dictionary(), objective=objective, shuffle=shuffle, **options)


def fields(slots):
    return [np.asarray(x).tolist() for x in slots]


def test_an_example_is_two_segments_cut_at_a_line_end():
    data = dataset(leave_unmasked_prob=1.0, random_token_prob=0.0)  # then the context shows the original text
    cuts = set()
    for epoch in range(1, 30):
        data.set_epoch(epoch)
        slots = data[0]["slots"]
        text, ends = data.blocks[0]
        context = slots.tokens[: slots.context_length]
        assert context[0] == BOS
        assert np.flatnonzero(context == EOS).tolist()[-1] == len(context) - 1
        cut = int(np.flatnonzero(context == EOS)[0])
        assert context[1:cut].tolist() + context[cut + 1 : -1].tolist() == text.tolist()
        assert slots.segments[: len(context)].tolist() == [0] * (cut + 1) + [1] * (len(context) - cut - 1)
        assert cut - 1 in ends
        cuts.add(cut - 1)
    assert cuts == set(ends)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_blocks(length):
    blocks = TextBlocks(Binarized([[7, 8, 9][:length]]), 10, pad=PAD, eos=EOS)
    slots = PMLMDataset(blocks, small_dictionary())[0]["slots"]
    assert slots.context_length == length + (3 if length > 1 else 2)
    assert len(slots.targets) >= 2


@pytest.mark.parametrize("objective", ["ae", "par", "ar", "ae+par", "ae+ar"])
def test_sizes_are_slots(objective):
    data = dataset(objective)
    for i in range(len(data)):
        tokens = len(data.blocks[i][0]) + 3
        bound = tokens if objective == "ae" else tokens + 2 * (int(np.ceil(0.15 * tokens)) + 5)
        assert data.sizes[i] == data.num_tokens(i) == bound
        assert len(data[i]["slots"].tokens) <= bound


@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc", "eos"])
def test_memory_mapped_text_makes_the_same_blocks(mode, tmp_path):
    rng = np.random.default_rng(1)
    lines = [rng.integers(4, 34, n).tolist() for n in [0, 3, 9, 0, 1, 25, 2, 0, 7]]
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "text.bin"), dtype=np.uint16)
    for line in lines:
        builder.add_item(torch.tensor([*line, EOS]))
    builder.finalize(str(tmp_path / "text.idx"))
    mapped = MMapIndexedDataset(str(tmp_path / "text"))
    for size in (4, 6, 100):
        here, there = (TextBlocks(x, size, pad=PAD, eos=EOS, break_mode=mode) for x in (mapped, Binarized(lines)))
        assert here.sizes.tolist() == there.sizes.tolist()
        assert [(a.tolist(), b.tolist()) for a, b in here] == [(a.tolist(), b.tolist()) for a, b in there]
        assert here[0][0].dtype == np.int64


@pytest.mark.parametrize("objective", ["ae", "par", "ar", "ae+par", "ae+ar"])
def test_a_batch_holds_its_examples(objective):
    data = dataset(objective)
    samples = [data[i] for i in (3, 0, 7, 5)]
    batch = data.collater(samples)
    net_input = batch["net_input"]
    groups = objective.count("+") + 1
    width = net_input["queries"].size(1) // groups
    wanted = net_input["select"]
    assert len(wanted) == len(batch["target"]) == len(wanted.unique())
    rows = wanted // (groups * width)
    assert batch["id"].tolist() == [3, 0, 7, 5]
    assert batch["ntokens"] == sum(s["slots"].context_length for s in samples)
    c = net_input["context_length"]
    for row, sample in enumerate(samples):
        slots = sample["slots"]
        real = net_input["tokens"][row] != PAD
        for name in ("tokens", "positions", "segments", "steps"):
            assert net_input[name][row][real].tolist() == getattr(slots, name).tolist()
        assert (net_input["steps"][row, :c] == 0).all()
        assert (net_input["steps"][row, c:][real[c:]] != 0).all()
        assert (net_input["steps"][row][~real] == 0).all()
        assert net_input["positions"][row, :c].tolist() == list(range(c))
        assert batch["target"][rows == row].tolist() == slots.targets.tolist()
        queries = net_input["queries"].flatten()[wanted[rows == row]]
        assert net_input["positions"][row][queries].tolist() == slots.positions[slots.queries].tolist()
        assert net_input["tokens"][row][queries].tolist() == slots.tokens[slots.queries].tolist()
    parts = wanted.view(groups, -1)  # one objective after the other
    assert ((parts % (groups * width)) // width == torch.arange(groups)[:, None]).all()
    in_context = net_input["queries"] < c
    assert (in_context.sum(1) == net_input["context_queries"]).all()
    assert net_input["context_queries"] == (width if "ae" in objective else 0)
    assert data.collater([]) == {}


@pytest.mark.parametrize("objective", ["ar", "ae+ar"])
def test_ar_has_one_token_a_step(objective):
    slots = dataset(objective)[0]["slots"]
    steps = -slots.steps[slots.steps < 0]
    assert sorted(steps) == list(range(1, len(steps) + 1))


def test_pseudo_slots_show_pseudo_unless_asked():
    slots = dataset()[0]["slots"]
    assert (slots.tokens[slots.steps < 0] == PSEUDO).all()
    data = dataset(corrupt_pseudo=True)
    shown = np.concatenate([s.tokens[s.steps < 0] for s in (data[i]["slots"] for i in range(len(data)))])
    assert 0.6 < (shown == PSEUDO).mean() < 0.95
    assert MASK not in shown


def test_masks_depend_on_seed_epoch_and_index_alone():
    data = dataset()
    first = fields(data[4]["slots"])
    for i in (1, 9, 2):
        data[i]
    assert fields(data[4]["slots"]) == first
    data.set_epoch(2)
    assert fields(data[4]["slots"]) != first
    data.set_epoch(1)
    assert fields(data[4]["slots"]) == first
    assert fields(dataset(seed=2)[4]["slots"]) != first


def batches_of_two_epochs(workers):
    """Every batch of two epochs through fairseq's own iterator and data-loader workers."""
    from types import SimpleNamespace

    from fairseq_pmlm.tasks.pmlm import PMLMTask, PMLMTaskConfig

    task = PMLMTask(SimpleNamespace(**vars(PMLMTaskConfig(data="", seed=3))), small_dictionary())
    data = dataset()
    result = []
    for epoch in (1, 2):
        iterator = task.get_batch_iterator(data, max_sentences=4, seed=1, num_workers=workers, epoch=epoch)
        for batch in iterator.next_epoch_itr(shuffle=True):
            result.append((batch["id"].tolist(), batch["net_input"]["tokens"].tolist()))
    return result


def test_masks_are_the_same_for_any_number_of_workers():
    alone = batches_of_two_epochs(0)
    assert len({str(tokens) for _, tokens in alone}) == len(alone)  # the second epoch masks anew
    assert batches_of_two_epochs(1) == alone
    assert batches_of_two_epochs(3) == alone


def _tokens_in_another_process(data, index):
    return data[index]["slots"].tokens.tolist()


def test_masks_are_the_same_in_a_spawned_process():
    data = dataset()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_tokens_in_another_process, (data, 5)) == data[5]["slots"].tokens.tolist()


@pytest.mark.parametrize("keep", ["head", "tail", "middle"])
def test_cutting_keeps_the_end_symbol(keep):
    data = CutDataset(Binarized([[4, 5, 6, 7, 8], [4, 5], [4, 5, 6, 7]]), 3, keep, EOS, "x")
    expected = {"head": [4, 5], "tail": [7, 8], "middle": [5, 6]}[keep]
    assert data[0].tolist() == [*expected, EOS]
    assert data[1].tolist() == [4, 5, EOS]
    assert len(data[2]) == 3
    assert data.sizes.tolist() == [3, 3, 3]


@pytest.mark.parametrize("keep", ["head", "tail", "middle"])
def test_of_two_parts_the_second_is_cut(keep):
    lines = [[9, 8, EOS, 4, 5, 6, 7, 8], [9, EOS, 4, 5], [9, 8, 7, 6, 5, EOS, 4]]
    with pytest.raises(
        PMLMError, match=r"1 lines of test\.src, line 3 first, .* nothing of 6 tokens .*\(6 with </s>\)"
    ):
        CutDataset(Binarized(lines), 6, keep, EOS, "test.src")
    data = CutDataset(Binarized(lines[:2]), 6, keep, EOS, "test.src")
    expected = {"head": [4, 5], "tail": [7, 8], "middle": [5, 6]}[keep]
    assert data[0].tolist() == [9, 8, EOS, *expected, EOS]
    assert data[1].tolist() == [9, EOS, 4, 5, EOS]
    assert data.sizes.tolist() == [6, 5]


def pairs(corruption=None):
    rng = np.random.default_rng(1)
    lines = [rng.integers(4, 34, n).tolist() for n in (5, 2, 7, 3)]
    source, target = Binarized(lines), Binarized([line[::-1] for line in lines])
    dictionary = small_dictionary()
    return PseudoMaskedPairDataset(
        source, source.sizes, dictionary, target, target.sizes, dictionary, corruption=corruption
    )


def test_pairs_are_padded_on_the_right():
    data = pairs()
    batch = data.collater([data[i] for i in range(4)])
    assert "pseudo_tokens" not in batch["net_input"]
    for name in ("src_tokens", "prev_output_tokens"):
        assert (batch["net_input"][name][:, 0] != PAD).all()
    assert data.num_tokens_vec(np.array([0, 1])).tolist() == [6 + 12, 3 + 6]


def test_training_pairs_are_ordered_for_little_padding():
    rng = np.random.default_rng(1)
    lengths = rng.integers(40, 60, 400), rng.integers(3, 40, 400)
    source, target = (Binarized([[5] * n for n in side]) for side in lengths)
    dictionary = small_dictionary()

    def padding(corruption):
        data = PseudoMaskedPairDataset(
            source, source.sizes, dictionary, target, target.sizes, dictionary, corruption=corruption
        )
        order = data.ordered_indices()
        assert sorted(order.tolist()) == list(range(400))
        slots = data.num_tokens_vec(order)
        batches = [order[i : i + 8] for i in range(0, 400, 8)]
        held = sum(len(b) * (source.sizes[b].max() + 2 * target.sizes[b].max()) for b in batches)
        return 1 - slots.sum() / held

    assert padding(Corruption(1)) < 0.5 * padding(None)


def test_pseudo_slots_of_pairs_are_corrupted_by_seed_epoch_and_id():
    data = pairs(Corruption(1, 0.3, 0.3))
    batch = data.collater([data[i] for i in range(4)])
    shown, target = batch["net_input"]["pseudo_tokens"], batch["target"]
    assert ((shown == PAD) == (target == PAD)).all()
    again = data.collater([data[2]])
    row = batch["id"].tolist().index(2)
    length = again["target"].size(1)
    assert again["net_input"]["pseudo_tokens"][0].tolist() == shown[row, :length].tolist()
    expected = masking.corrupt(
        again["target"][0].numpy(), PSEUDO, np.arange(4, 34), masking.generator(1, 1, 2), 0.3, 0.3
    )
    assert again["net_input"]["pseudo_tokens"][0].tolist() == expected.tolist()
    data.set_epoch(2)
    assert (
        data.collater([data[2]])["net_input"]["pseudo_tokens"].tolist() != again["net_input"]["pseudo_tokens"].tolist()
    )


def test_target_slots_show_what_their_pseudo_slots_show():
    for share in (1.0, 0.5):
        data = pairs(Corruption(1, 0.2, 0.3, target_mask_prob=share))
        plain = pairs().collater([data[i] for i in range(4)])
        hidden = total = 0
        for epoch in range(1, 101):
            data.set_epoch(epoch)
            batch = data.collater([data[i] for i in range(4)])
            assert batch["target"].tolist() == plain["target"].tolist()
            assert batch["net_input"]["src_tokens"].tolist() == plain["net_input"]["src_tokens"].tolist()
            shown, pseudo = batch["net_input"]["shown_target"], batch["net_input"]["pseudo_tokens"]
            assert "shown_source" not in batch["net_input"]
            original = plain["net_input"]["prev_output_tokens"]
            assert shown[:, 0].tolist() == [EOS] * 4
            as_pseudo = shown[:, 1:] == pseudo[:, :-1]
            assert (as_pseudo | (shown[:, 1:] == original[:, 1:])).all()
            told = (pseudo[:, :-1] == PSEUDO) & (original[:, 1:] != PAD)  # [P] is never the token itself
            hidden, total = hidden + int(as_pseudo[told].sum()), total + int(told.sum())
        assert hidden / total == pytest.approx(share, abs=0.05)


def test_sources_are_corrupted_but_for_special_symbols():
    data = pairs(Corruption(1, 0.2, 0.2, source_mask_prob=0.4))
    together = data.collater([data[i] for i in range(4)])
    for row, index in enumerate(together["id"].tolist()):  # whatever else is in the batch
        alone = data.collater([data[index]])["net_input"]["shown_source"][0].tolist()
        assert together["net_input"]["shown_source"][row].tolist()[: len(alone)] == alone
    data = pairs(Corruption(1, 0.0, 0.0, source_mask_prob=0.4))
    plain = pairs().collater([data[i] for i in range(4)])["net_input"]
    masked = 0
    for epoch in range(1, 101):
        data.set_epoch(epoch)
        batch = data.collater([data[i] for i in range(4)])["net_input"]
        assert batch["src_tokens"].tolist() == plain["src_tokens"].tolist()
        changed = batch["shown_source"] != plain["src_tokens"]
        assert set(batch["shown_source"][changed].tolist()) <= {MASK}
        assert not (changed & (plain["src_tokens"] < 4)).any()
        masked += int(changed.sum())
    assert masked / (100 * 17) == pytest.approx(0.4, abs=0.05)
