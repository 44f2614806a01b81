"""Bad checkpoints: one clear line, nothing written, nothing executed. And --arch-from, which refuses contradictions."""

import json
import os
import pickle
import shutil
from argparse import Namespace

import pytest
import torch
from commands import OPTIMIZER, USER_DIR, command, load, pmlm, refused
from foreign import PIECES, save_by_transformers, write_unilm
from safetensors.torch import load_file, save_file

from fairseq_pmlm.checkpoints.architecture import OPTIONS, flags, stored_options
from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.model.config import ARCHITECTURES, PMLMConfig
from fairseq_pmlm.tasks.model import architecture
from fairseq_pmlm.utils.errors import PMLMError


@pytest.fixture
def bert(tmp_path):
    save_by_transformers("bert", tmp_path)
    return tmp_path


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


def change_tensors(folder, **changes):
    """A tensor, or None to leave one out; two underscores stand for a dot in its name."""
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def check(folder, match, **options):
    with pytest.raises(PMLMError, match=match):
        import_checkpoint(str(folder), str(folder / "out"), **options)
    assert not (folder / "out").exists()
    assert not [name for name in os.listdir(folder) if "building" in name]


class Evil:
    """A pickle that would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain"])
def test_a_malicious_pickle_executes_nothing(how, bert):
    os.remove(bert / "model.safetensors")
    victim, file = bert / "victim", bert / "pytorch_model.bin"
    content = {"bert.embeddings.word_embeddings.weight": torch.zeros(2, 2), "x": Evil(victim)}
    if how == "plain":
        file.write_bytes(pickle.dumps(content["x"]))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
    check(bert, r"pytorch_model\.bin (holds posix\.system.* could run code|is truncated, or not a checkpoint)")
    assert not victim.exists()
    if how == "plain":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert victim.exists()  # it was dangerous


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint\n" * 99, "cut"])
def test_files_that_are_no_checkpoints(kind, content, bert):
    name = {"bin": "pytorch_model.bin", "safetensors": "model.safetensors"}[kind]
    if kind == "bin":
        torch.save(load_file(bert / "model.safetensors"), bert / name)
        os.remove(bert / "model.safetensors")
    whole = (bert / name).read_bytes()
    (bert / name).write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    check(bert, rf"checkpoint .*{name} is truncated, or not a")


def test_files_that_hold_other_things(bert):
    os.remove(bert / "model.safetensors")
    check(bert, r"holds none of model\.safetensors, .*pytorch_model\.bin")
    torch.save({"cfg": None, "model": {"a": torch.zeros(1)}}, bert / "pytorch_model.bin")
    check(bert, "holds a dictionary with cfg, model instead of named tensors alone; a checkpoint of fairseq needs no")
    torch.save([1], bert / "pytorch_model.bin")
    check(bert, "holds a list instead of named tensors")
    with pytest.raises(PMLMError, match=r"checkpoint .*nowhere: no such file or directory"):
        import_checkpoint(str(bert / "nowhere"), str(bert / "out"))
    torch.save({f"decoder.layers.{i}.fc1.weight": torch.zeros(1) for i in range(9)}, bert / "pytorch_model.bin")
    check(bert, r"none of unilm, .*: its keys are decoder\.layers\.0\.fc1\.weight, .* and 3 more")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 32}, r"word_embeddings\.weight' is \(71, 16\) in the checkpoint, and .* asks for \(71, 32\)"),
        ({"intermediate_size": 64}, r"intermediate\.dense\.weight' is \(40, 16\) .* asks for \(64, 16\)"),
        ({"max_position_embeddings": 50}, r"position_embeddings\.weight' is \(48, 16\) .* asks for \(50, 16\)"),
        ({"type_vocab_size": 3}, r"token_type_embeddings\.weight' is \(2, 16\) .* asks for \(3, 16\)"),
        ({"type_vocab_size": 1}, r"token_type_embeddings\.weight' is \(2, 16\) .* asks for \(1, 16\)"),
        ({"num_hidden_layers": 3}, r"the checkpoint has no 'bert\.encoder\.layer\.2\.attention\.self\.query\.weight'"),
        ({"num_hidden_layers": 1}, r"dropping would change: bert\.encoder\.layer\.1\..* and 10 more"),
        ({"vocab_size": 90}, rf"the vocabulary has {len(PIECES)} pieces, the checkpoint 90"),
        ({"num_attention_heads": "gone"}, r"config\.json has no num_attention_heads, which cannot be read off"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not a multiple of num_attention_heads 3"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4', not a whole number"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1, not a number above 0 to below 0.1"),
        ({"layer_norm_eps": 0.1}, "layer_norm_eps is 0.1, not a number above 0 to below 0.1"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0, not a number above 0"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1, not a number from 0 to below 1"),
        ({"attention_probs_dropout_prob": 1.0}, "attention_probs_dropout_prob is 1.0, not a number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', neither true nor false"),
        ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]; there are gelu"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'; there are gelu, "),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is true; only encoders"),
        ({"embedding_size": 8}, "embedding_size 8 and hidden_size 16 differ"),
        ({"rel_pos_bins": 32}, r"rel_pos_bins is 32, but the checkpoint has no bert\.rel_pos_bias\.weight"),
        ({"target_type_id": 2}, "target_type_id 2 is none of the 2 token types"),
        ({"pseudo_token_id": 3}, "config.json gives pseudo_token_id 3 and mask_token_id None"),
        ({"pseudo_token_id": [3]}, r"config.json gives pseudo_token_id \[3\] and mask_token_id None"),
        ({"fairseq_pmlm": 3}, "config.json: fairseq_pmlm is 3, not an object with finetune_mode, "),
        ({"fairseq_pmlm": {"finetune_mode": "x"}}, "finetune_mode is 'x', none of pseudo, causal"),
        ({"fairseq_pmlm": {"finetune_mode": ["causal"]}}, r"finetune_mode is \['causal'\], none of"),
        ({"fairseq_pmlm": {"cut_source": "xx"}}, "cut_source is 'xx', none of none, head, tail, middle"),
        ({"fairseq_pmlm": {"max_source_positions": 8.5}}, "max_source_positions is 8.5, neither a whole number"),
        ({"fairseq_pmlm": {"dropout": 0.5}}, "fairseq_pmlm has 'dropout', which is none of finetune_mode"),
        ({"model_type": "roberta"}, "model_type is 'roberta', but by its keys the checkpoint is bert, which is bert"),
        ({"model_type": "electra"}, "model_type is 'electra', but by its keys the checkpoint is bert"),
    ],
)  # fmt: skip
def test_config_that_contradicts_the_tensors(changes, said, bert):
    change_config(bert, **changes)
    check(bert, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bert__embeddings__LayerNorm__bias": None}, r"has no 'bert\.embeddings\.LayerNorm\.bias' \(16,\)"),
        ({"cls__predictions__bias": None}, r"the checkpoint has no 'cls\.predictions\.bias'"),
        ({"bert__encoder__layer__0__adapter__weight": torch.zeros(1)}, r"no such encoder has.*\.0\.adapter"),
        ({"cls__predictions__decoder__bias": torch.ones(len(PIECES))}, "for the same, and they differ"),
        ({"bert__embeddings__LayerNorm__bias": torch.zeros(16, dtype=torch.int64)}, r"holds torch\.int64"),
        ({"bert__embeddings__LayerNorm__bias": torch.full((16,), torch.nan)}, r"LayerNorm\.bias' holds NaN or inf"),
        ({"cls__predictions__bias": torch.full((len(PIECES),), -torch.inf)}, r"predictions\.bias' holds NaN or inf"),
        ({"bert__embeddings__LayerNorm__bias": torch.zeros(16).to(torch.float8_e4m3fn)}, r"holds torch\.float8_e4m3fn"),
        ({"bert__encoder__layer__x__foo": torch.zeros(1)}, r"dropping would change: bert\.encoder\.layer\.x\.foo"),
        ({f"bert__encoder__layer__{'9' * 5000}__foo": torch.zeros(1)}, r"would change: bert\.encoder\.layer\.9"),
        ({"mlm_head__weight": torch.zeros(1)}, r"dropping would change: mlm_head\.weight"),
        ({"model__cls__predictions__bias": torch.zeros(1)}, r"would change: model\.cls\.predictions\.bias"),
        ({"bert__embeddings__position_embeddings__weight": torch.tensor(1.0)}, r"position_embeddings.* is \(\) in"),
        ({"bert__embeddings__token_type_embeddings__weight": torch.tensor(1.0)}, r"type_embeddings.* is \(\) in"),
        ({"bert__encoder__layer__0__intermediate__dense__weight": torch.tensor(1.0)}, r"dense\.weight' is \(\) in"),
        ({"bert__rel_pos_bias__weight": torch.tensor(1.0)}, r"rel_pos_bias\.weight' is \(\) in the checkpoint"),
        ({"bert__embeddings__word_embeddings__weight": None}, "the checkpoint (is none of|has no word embeddings)"),
    ],
)  # fmt: skip
def test_tensors_that_are_wrong(changes, said, bert):
    change_tensors(bert, **changes)
    check(bert, said)


def test_formats_vocabularies_and_missing_files(bert):
    check(bert, r"--format roberta, but the checkpoint is bert: its keys are", kind="roberta")
    check(bert, r"--vocab nowhere: no such file", vocab="nowhere")
    (bert / "vocab.txt").write_text("".join(f"{piece}\n" for piece in [*PIECES, "more"]))
    check(bert, rf"the vocabulary has {len(PIECES) + 1} pieces, the checkpoint {len(PIECES)}")
    os.remove(bert / "vocab.txt")
    check(bert, r"there is none of vocab\.txt, .* beside .*give --vocab FILE")
    (bert / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    (bert / "config.json").write_text("{")
    check(bert, r"config\.json: broken JSON")
    os.remove(bert / "config.json")
    check(bert, r"config\.json, which is missing, has no num_attention_heads, which cannot be read off .*--config FILE")
    (bert / "out").mkdir()
    (bert / "out" / "mine.txt").touch()
    with pytest.raises(PMLMError, match=r"--save-dir .*out holds other files \(mine\.txt\)"):
        import_checkpoint(str(bert), str(bert / "out"))


@pytest.mark.parametrize(
    "changes",
    [{"type_vocab_size": "gone"}, {"max_position_embeddings": "gone"}, {"intermediate_size": "gone"}],
    ids=str,
)
def test_tables_without_dimensions_where_config_is_silent(changes, bert):
    names = {
        "type": "token_type_embeddings",
        "max": "position_embeddings",
        "intermediate": "layer.0.intermediate.dense",
    }
    part = names[next(iter(changes)).split("_")[0]]
    name = f"bert.{'encoder' if 'layer' in part else 'embeddings'}.{part}.weight"
    change_config(bert, **changes)
    change_tensors(bert, **{name: torch.tensor(1.0)})
    check(bert, rf"'{name}' is \(\) in the checkpoint, and not a table")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(16, device="meta"), r"holds no numbers \(meta\)"),
        (torch.zeros(16).to_sparse(), r"holds torch\.sparse_coo, torch\.float32, not plain numbers"),
    ],
    ids=["meta", "sparse"],
)  # fmt: skip
def test_tensors_that_are_not_plain(tensor, said, bert):
    tensors = load_file(bert / "model.safetensors") | {"bert.embeddings.LayerNorm.bias": tensor}
    os.remove(bert / "model.safetensors")
    torch.save(tensors, bert / "pytorch_model.bin")
    check(bert, rf"'bert\.embeddings\.LayerNorm\.bias' {said}")


@pytest.mark.parametrize(
    ("changes", "wanted", "said"),
    [
        ({}, "bert", "model_type is 'roberta', but --format bert, which is bert"),
        ({"model_type": "gone"}, "auto", "has no model_type, .* positions begin at 2; give --format"),
        ({"model_type": "gone", "pad_token_id": 0}, "auto", "has no model_type, .*; give --format"),
        ({"model_type": "gone", "type_vocab_size": 2}, "auto", "has no model_type, .*; give --format"),
        ({"model_type": "gone", "type_vocab_size": "gone", "pad_token_id": 0}, "auto", "has no model_type"),
        ({"model_type": "data2vec-text"}, "auto", "model_type is 'data2vec-text'; what can be imported is bert, camem"),
        ({"model_type": "data2vec-text"}, "roberta", "model_type is 'data2vec-text', but --format roberta, which is"),
        ({"model_type": ["roberta"]}, "auto", r"model_type is \['roberta'\]; what can be imported"),
        ({"pad_token_id": 0}, "auto", "pad_token_id is 0, but the vocabulary's padding is piece 1; positions are"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bare_roberta_is_not_taken_for_bert(changes, wanted, said, tmp_path):
    save_by_transformers("roberta", tmp_path).roberta.save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    check(tmp_path, said, kind=wanted)


def test_relatives_of_roberta(tmp_path):
    save_by_transformers("roberta", tmp_path).roberta.save_pretrained(tmp_path)
    for model_type, wanted in (("camembert", "auto"), ("gone", "roberta"), ("xlm-roberta", "auto")):
        change_config(tmp_path, model_type=model_type)
        lines = import_checkpoint(str(tmp_path), str(tmp_path / "out"), wanted, overwrite=True)
        assert "the first 2 rows of the position table stand for no position, and are left out" in lines
        assert stored_options(str(tmp_path / "out" / "model.pt"))["max_positions"] == 46


def test_keys_with_a_prefix_of_another_family(tmp_path):
    save_by_transformers("roberta", tmp_path)
    change_config(tmp_path, model_type="bert")
    check(tmp_path, "model_type is 'bert', but by its keys the checkpoint is roberta, which is roberta or xlm-roberta")


def test_unreadable_inputs_are_named(bert, monkeypatch):
    def deny(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    whole = (bert / "model.safetensors").read_bytes()
    (bert / "model.safetensors").write_bytes(pointer)
    check(bert, r"model\.safetensors is a Git LFS pointer")
    (bert / "model.safetensors").write_bytes(whole)
    torch.save(load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    os.remove(bert / "model.safetensors")
    with monkeypatch.context() as patch:  # whoever runs this may be allowed to read everything
        patch.setattr("fairseq_pmlm.conversion.files.torch_load", deny)
        check(bert, r"^cannot read .*pytorch_model\.bin: Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr("fairseq_pmlm.checkpoints.safe_load.open", deny, raising=False)
        check(bert, r"^cannot read .*pytorch_model\.bin: Permission denied")
    torch.save({1: torch.zeros(1)}, bert / "pytorch_model.bin")
    check(bert, "holds a dictionary with 1 instead of named tensors")
    (bert / "vocab.txt").write_bytes(pointer)
    torch.save({"bert.a": torch.zeros(1)}, bert / "pytorch_model.bin")
    check(bert, r"vocab\.txt is a Git LFS pointer")


def test_relative_positions_need_their_distance(tmp_path):
    write_unilm(tmp_path, True)
    os.rename(tmp_path / "unilm2.bin", tmp_path / "pytorch_model.bin")
    change_config(tmp_path, max_rel_pos="gone")
    check(tmp_path, r"config\.json has no max_rel_pos")
    change_config(tmp_path, max_rel_pos=10**8)
    check(tmp_path, "max_rel_pos is 100000000, not a whole number from 1 to 1000000")
    change_config(tmp_path, max_rel_pos=20, num_attention_heads=8)
    check(tmp_path, r"rel_pos_bias\.weight' is \(4, 32\) in the checkpoint, and config\.json asks for \(8, 32\)")


def test_a_command_ends_in_one_line(bert):
    done = pmlm("import", bert, "--vocab", "x", "--save-dir", bert / "out", check=False)
    refused(done, "--vocab x: no such file")


def given(**options):
    """What fairseq passes to the function of an architecture: what was given on the command line, and no default."""
    return Namespace(arch="pmlm", **options)


def test_architecture_from_a_checkpoint(tmp_path):
    write_unilm(tmp_path, True, segments=6, source_type_id=4, target_type_id=5)
    import_checkpoint(str(tmp_path / "unilm2.bin"), str(tmp_path / "out"))
    path = str(tmp_path / "out" / "model.pt")
    fill = architecture(*ARCHITECTURES["pmlm_base"])
    args = given(arch_from=path, dropout=0.3, max_positions=90)
    fill(args)
    stored = stored_options(path)
    for name in OPTIONS:
        assert getattr(args, name) == (90 if name == "max_positions" else stored[name]), name
    assert (args.dropout, args.arch_from, args.encoder_layers, args.target_segment) == (0.3, None, 2, 5)
    for option, value, said in (
        ("encoder_attention_heads", 2, "--encoder-attention-heads is 4, and the command line gives 2"),
        ("layer_norm_eps", 1e-12, "--layer-norm-eps is 1e-05, and the command line gives 1e-12"),
        ("max_positions", 40, "--max-positions is 48, and the command line gives 40"),
        ("activation_fn", "relu", "--activation-fn is gelu, and the command line gives relu"),
        ("arch", "pmlm_base", "--encoder-layers is 2, and --arch pmlm_base means 12; --arch pmlm leaves it open"),
    ):
        args = Namespace(**vars(given(arch_from=path)) | {option: value})
        with pytest.raises(PMLMError, match=said):
            fill(args)
    for bad, said in ((tmp_path / "none.pt", "does not exist"), (tmp_path / "unilm2.bin", "is truncated, or not a")):
        with pytest.raises(PMLMError, match=said):
            fill(given(arch_from=str(bad)))
    printed = flags(stored, ARCHITECTURES, PMLMConfig())
    assert printed == (
        "--arch pmlm_base --encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 40 "
        "--encoder-attention-heads 4 --layer-norm-eps 1e-05 --max-positions 48 --num-segments 6 --relative-positions "
        "--relative-position-max-distance 20 --source-segment 4 --target-segment 5"
    )


@pytest.mark.slow
def test_training_goes_on_from_an_imported_checkpoint(tmp_path):
    write_unilm(tmp_path, True, segments=6, source_type_id=4, target_type_id=5)
    import_checkpoint(str(tmp_path / "unilm2.bin"), str(tmp_path / "out"))
    path, data = tmp_path / "out" / "model.pt", tmp_path / "data"
    shutil.copytree(tmp_path / "out", data)
    os.remove(data / "model.pt")
    (tmp_path / "t.txt").write_text("the cat ##s sat . the cat sat , the cat\n" * 40)
    binarize = ["--only-source", "--srcdict", data / "dict.txt", "--trainpref", tmp_path / "t.txt"]
    command("preprocess", *binarize, "--validpref", tmp_path / "t.txt", "--destdir", data)
    options = [data, *USER_DIR, "--task", "pmlm", "--criterion", "pmlm", "--arch", "pmlm", "--arch-from", path]
    options += [*OPTIMIZER, "--tokens-per-sample", 24, "--max-tokens", 400, "--max-update", 3]
    options += ["--save-dir", tmp_path / "trained", "--finetune-from-model", path, "--max-positions", 60]
    command("train", *options)
    model = load(tmp_path / "trained" / "checkpoint_last.pt")[0]
    stored = stored_options(str(path))
    for name in OPTIONS:
        assert getattr(model.cfg, name) == (60 if name == "max_positions" else stored[name]), name
    os.rename(path, tmp_path / "moved.pt")  # nobody needs it any more
    load(tmp_path / "trained" / "checkpoint_last.pt")
    refused(command("train", *options, "--encoder-attention-heads", 2, check=False), "model.pt does not exist")
    os.rename(tmp_path / "moved.pt", path)
    done = command("train", *options, "--encoder-attention-heads", 2, check=False)
    refused(done, "its --encoder-attention-heads is 4, and the command line gives 2")
