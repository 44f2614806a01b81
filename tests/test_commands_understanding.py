"""fairseq's sentence_prediction on a PMLM: saved, resumed, validated, refused; one checkpoint for every use."""

import json
import re

import pytest
import torch
from commands import OPTIMIZER, SMALL, USER_DIR, WORDS, command, generate, hypotheses, load, logged, refused, sentences
from fairseq.data import Dictionary, indexed_dataset
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from test_heads import segments

from fairseq_pmlm.tasks.model import task_labels
from fairseq_pmlm.utils.errors import PMLMError

pytestmark = pytest.mark.slow
COUNTS = {"train": 60, "valid": 37}


def write_labelled(path, labels):
    """Pairs of texts; the class is the length of the second one, by thirds or halves."""
    dictionary = Dictionary()
    for word in [*WORDS, "<mask>", "<pseudo>"]:
        dictionary.add_symbol(word)
    classes = Dictionary()
    for label in labels:
        classes.add_symbol(label)
    for side, symbols in (("input0", dictionary), ("input1", dictionary), ("label", classes)):
        (path / side).mkdir(parents=True)
        symbols.save(str(path / side / "dict.txt"))
    dictionary.save(str(path / "dict.txt"))
    for split, count in COUNTS.items():
        texts = [list(sentences(count, seed + count)) for seed in (20, 30)]
        names = [labels[len(text.split()) * len(labels) // 15] for text in texts[1]]
        for side, lines, symbols in zip(
            ("input0", "input1", "label"), (*texts, names), (dictionary, dictionary, classes), strict=True
        ):
            builder = indexed_dataset.make_builder(f"{path / side / split}.bin", "mmap", vocab_size=len(symbols))
            for line in lines:
                builder.add_item(symbols.encode_line(line, add_if_not_exist=False))
            builder.finalize(f"{path / side / split}.idx")
    return path


def classify(data, save_dir, *options, updates, check=True):
    """fairseq-train with a head of as many classes as the data has."""
    classes = len((data / "label" / "dict.txt").read_text().splitlines())
    options = [
        *("--task", "sentence_prediction", "--init-token", 0, "--num-classes", classes, "--arch", "pmlm_tiny", *SMALL),
        *(*OPTIMIZER, "--batch-size", 8, "--max-update", updates, "--save-dir", save_dir, *options),
    ]
    return command("train", data, *USER_DIR, *options, check=check)


OURS = ["--criterion", "pmlm_sentence_prediction", "--metrics", "accuracy,f1,mcc"]
DECAY = ["--optimizer", "pmlm_layer_decay", "--layer-lr-decay", "0.8"]


@pytest.fixture(scope="module")
def two(work):
    return write_labelled(work / "two", ["short", "long"])


@pytest.fixture(scope="module")
def three(work):
    return write_labelled(work / "three", ["short", "middle", "long"])


@pytest.fixture(scope="module")
def trained(work, pretrained, two):
    """Fine-tuned in two goes: the second resumes the first."""
    options = ["--finetune-from-model", pretrained[0], *OURS, *DECAY]
    first = classify(two, work / "classified", *options, updates=4)
    return work / "classified" / "checkpoint_last.pt", first, classify(two, work / "classified", *options, updates=12)


def validation(path):
    """Options of fairseq-validate; it looks for the criterion's options before it reads the checkpoint's."""
    task = ["--task", "sentence_prediction", "--criterion", "pmlm_sentence_prediction"]
    return [*USER_DIR, *task, "--path", path, "--batch-size", 5, "--cpu"]


def outputs(model, path, head="sentence_classification_head"):
    """Classes of the valid split, one sample at a time by the backbone and the head's formula, and its targets."""
    symbols = Dictionary.load(str(path / "dict.txt"))
    sides = [indexed_dataset.make_dataset(str(path / side / "valid"), "mmap") for side in ("input0", "input1", "label")]
    found, head = [], model.classification_heads[head]
    for a, b in zip(*sides[:2], strict=True):
        tokens = torch.cat([torch.tensor([symbols.bos()]), a, b])[None]
        places, zeros = torch.arange(tokens.size(1))[None], torch.zeros_like(tokens)
        kinds = torch.tensor([segments(tokens[0].tolist())])
        with torch.no_grad():
            first = model.backbone(tokens, places, kinds, zeros, tokens.size(1))[0, 0]
            hidden = torch.tanh(head.dense.weight @ first + head.dense.bias)
            found.append(int((head.out_proj.weight @ hidden + head.out_proj.bias).argmax()))
    return found, [int(label[0]) - symbols.nspecial for label in sides[2]]


def test_trained_resumed_and_validated_as_direct_calls_say(work, pretrained, two, trained):
    path, first, second = trained
    assert "has no head 'classification_heads.sentence_classification_head': it starts with random weights" in (
        first.stdout
    )
    assert "learning rates: embeddings x 0.512, layer0 x 0.64, layer1 x 0.8, default x 1" in first.stdout
    assert "epoch 1 @ 4 updates" in second.stdout  # loaded
    assert "initialized again" not in second.stdout
    assert int(logged(second.stdout, "train")[-1]["train_num_updates"]) == 12
    model, _ = load(path)
    predicted, wanted = outputs(model, two)
    assert len(wanted) == COUNTS["valid"]
    accuracy = 100 * sum(map(int.__eq__, predicted, wanted)) / len(wanted)
    valid = logged(second.stdout, "valid")[-1]
    assert float(valid["valid_accuracy"]) == pytest.approx(accuracy, abs=0.006)
    assert {"valid_f1", "valid_mcc", "valid_score"} <= valid.keys()
    # fairseq-validate, in other batches, says the same
    done = command("validate", two, *validation(path))
    numbers = re.search(
        r"\| valid \| (?:.*\| )?accuracy ([\d.]+) \| f1 ([\d.]+) \| mcc (-?[\d.]+)", done.stderr + done.stdout
    )
    assert numbers, done.stderr[-2000:]
    assert [float(x) for x in numbers.groups()] == [float(valid[f"valid_{k}"]) for k in ("accuracy", "f1", "mcc")]


def test_one_checkpoint_reads_classifies_and_generates(work, trained):
    path = trained[0]
    model, _ = load(path)
    state = torch.load(path, weights_only=False)["model"]
    assert {key.split(".")[0] for key in state} == {"backbone", "output_layer", "classification_heads", "identity"}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.classification_heads["sentence_classification_head"].labels == ["short", "long"]
    tokens = torch.tensor([[0, 5, 6, 2]])
    assert model(src_tokens=tokens, features_only=True)[0].shape == (1, 4, 32)
    found = hypotheses(generate(work, path, "--beam", 2, "--max-len-b", 5, "--batch-size", 16))
    assert sorted(found) == list(range(37))


def test_fairseq_s_own_criterion_and_a_head_for_other_classes(work, three, trained):
    options = ["--criterion", "sentence_prediction", "--finetune-from-model", trained[0]]
    done = classify(three, work / "three-classes", *options, updates=2)
    warned = re.findall(r"WARNING.*initialized again", done.stdout + done.stderr)
    assert len(warned) == 1, done.stdout[-3000:]
    assert "2 classes there and 3 here" in warned[0]
    valid = logged(done.stdout, "valid")[-1]
    model, _ = load(work / "three-classes" / "checkpoint_last.pt")
    predicted, wanted = outputs(model, three)
    accuracy = 100 * sum(map(int.__eq__, predicted, wanted)) / len(wanted)
    assert float(valid["valid_accuracy"]) == pytest.approx(accuracy, abs=0.06)


def test_more_classes_than_the_head_has_are_refused_at_validation(three, trained):
    done = command("validate", three, *validation(trained[0]), check=False)
    refused(done, "label/dict.txt has 3 classes (short, middle, long), and the head has 2")


def setup(data, **options):
    """fairseq's own task, in this process."""
    settings = {"num_classes": 2, "init_token": 0, "seed": 1, "regression_target": False, **options}
    return SentencePredictionTask.setup_task(SentencePredictionConfig(data=str(data), **settings))


def test_samples_that_are_too_long(two, caplog):
    with pytest.raises(
        PMLMError, match=r"of 37 samples of valid are longer than --max-positions 20 \(the first is"
    ) as error:
        setup(two, max_positions=20).load_dataset("valid")
    assert "--shorten-method truncate" in str(error.value)
    task = setup(two, max_positions=20, shorten_method="truncate")
    dataset = task.load_dataset("valid")
    assert "of 37 samples of valid are longer than --max-positions 20: cut" in caplog.text
    assert max(dataset.sizes.tolist() if hasattr(dataset.sizes, "tolist") else dataset.sizes[0]) <= 20
    batches = task.get_batch_iterator(dataset, max_sentences=5, max_positions=20).next_epoch_itr(shuffle=False)
    assert sum(len(batch["id"]) for batch in batches) == 37
    task = setup(two, max_positions=20, shorten_method="truncate")  # one that has made no batches yet
    dataset = task.load_dataset("valid")
    with pytest.raises(PMLMError, match=r"of 37 samples are longer than 10 tokens, the lesser of --max-positions and"):
        task.get_batch_iterator(dataset, max_sentences=5, max_positions=10, ignore_invalid_inputs=True)


def test_labels_of_the_task(two, three):
    assert task_labels(setup(two)) == ["short", "long"]
    with pytest.raises(PMLMError, match="has 3 classes"):
        task_labels(setup(three))
    assert json.dumps(task_labels(setup(three, num_classes=3))) == '["short", "middle", "long"]'
