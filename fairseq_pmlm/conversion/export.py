"""A PMLM as a Hugging Face folder of BERT, or under the names that the authors' fine-tuning code reads."""

import json
import os
import re
import shutil
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..checkpoints import metadata
from ..checkpoints.architecture import stored_options
from ..checkpoints.safe_load import torch_load
from ..model import loading
from ..model.config import PMLMConfig
from ..tokenizers.base import Tokenizer
from ..tokenizers.byte_bpe import ByteBPE
from ..tokenizers.dictionary import load_vocabulary
from ..tokenizers.symbols import all_symbols
from ..tokenizers.wordpiece import WordPiece
from ..utils import directories
from ..utils.errors import PMLMError
from ..utils.io import read_json, write_bytes, write_text
from .config import ACTIVATIONS, OWN, OWN_OPTIONS
from .convert import PSEUDO_BIAS
from .vocabulary import MASK_KEY, PSEUDO_KEY, PSEUDO_PIECE, Vocabulary, row_symbols

FORMATS = ("auto", "bert", "unilm")
OURS = re.compile(
    r"config\.json|model\.safetensors|pytorch_model\.bin|vocab\.txt|tokenizer_config\.json|tokenizer\.json"
    r"|sentencepiece\.bpe\.model"
)


def export_checkpoint(path: str, vocab_from: str, save_dir: str, kind: str = "auto", overwrite: bool = False) -> str:
    """Write *save_dir*, complete or not at all.

    Args:
        path: a checkpoint of ours.
        vocab_from: directory with its dict.txt and its tokenizer file.
        save_dir: directory to write.
        kind: ``bert`` for ``transformers.BertForMaskedLM``, which has no relative positions; ``unilm`` for the authors'
            code; ``auto``: bert where it can be.
        overwrite: replace what an earlier export wrote.

    Returns:
        a line that says what was written.

    Raises:
        PMLMError: the checkpoint is not ours, has relative positions and *kind* is bert, or has other symbols;
            *save_dir* is there, and no export.
    """
    options = stored_options(path)
    options = vars(PMLMConfig()) | {name: value for name, value in options.items() if name in vars(PMLMConfig())}
    if kind == "bert" and options["relative_positions"]:
        raise PMLMError(f"checkpoint {path} has relative positions, which BERT has not; --format unilm keeps them")
    if kind == "auto":
        kind = "unilm" if options["relative_positions"] else "bert"
    _, tokenizer = load_vocabulary(vocab_from)
    words = Vocabulary(tokenizer, row_symbols(tokenizer, os.path.join(vocab_from, tokenizer.file_name)))
    state = torch_load(path, map_location="cpu")["model"]
    check_symbols(state, options, tokenizer, path)
    words, rows = own_rows(words, state, kind)
    tensors = to_bert(state, options, rows)
    config = to_config(options, words, kind, "<pseudo>" in words.symbols)
    check_is_ours(save_dir)
    with directories.building(save_dir, overwrite, OURS, "--save-dir", "an export") as folder:
        write_text(os.path.join(folder, "config.json"), json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_tokenizer(words, folder)
        if kind == "bert":
            file = os.path.join(folder, "model.safetensors")
            safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
            shutil.copymode(os.path.join(folder, "config.json"), file)  # safetensors lets nobody else read it
        else:
            file = os.path.join(folder, "pytorch_model.bin")
            if not options["separate_output"]:
                tensors["cls.predictions.decoder_weight"] = tensors["bert.embeddings.word_embeddings.weight"]
            torch.save(tensors, file, _use_new_zipfile_serialization=False)  # their torch is 1.2
    own = ", [P] in a row of its own" if "<pseudo>" in words.symbols else ", [P] in the row of [MASK]"
    own += "".join(f"; left out, as such files hold no heads of ours: {path}" for path in loading.find_heads(state))
    return f"{save_dir}: {kind}, {len(tensors)} tensors, {len(words.symbols):,} pieces{own}"


def check_is_ours(save_dir: str) -> None:
    """Raise PMLMError if *save_dir* holds the files of a model, as an export does, but none that we have exported."""
    if not os.path.isdir(save_dir):
        return
    present = os.listdir(save_dir)
    if not present or not all(OURS.fullmatch(name) for name in present):
        return  # empty, or refused by the name of another file
    config = os.path.join(save_dir, "config.json")
    if not os.path.isfile(config) or OWN not in read_json(config):
        raise PMLMError(
            f"--save-dir {save_dir} holds a model that is no export (its config.json has no {OWN!r}); "
            "choose a new directory"
        )


def check_symbols(state: dict[str, Tensor], options: dict[str, Any], tokenizer: Tokenizer, path: str) -> None:
    """Raise PMLMError unless the checkpoint was trained with this tokenizer and the dictionary made from it."""
    here = metadata.facts(SimpleNamespace(**options), all_symbols(tokenizer.symbols), tokenizer.fingerprint())
    metadata.check(metadata.from_tensor(state["identity"]), here, f"checkpoint {path}")


def own_rows(words: Vocabulary, state: dict[str, Tensor], kind: str) -> tuple[Vocabulary, list[int]]:
    """The vocabulary to write, and for each of its rows the row of our embedding.

    [P] has a row of its own, behind all others, unless it is what importing makes of [MASK]. The authors' code feeds
    [MASK] where we feed [P]: for it, the two change places.
    """
    ours = {symbol: i for i, symbol in enumerate(all_symbols(words.tokenizer.symbols))}
    mask, pseudo = ours["<mask>"], ours["<pseudo>"]
    bias = state["output_layer.bias"]
    copied = all(
        torch.equal(state[name][pseudo], state[name][mask])
        for name in ("backbone.embed_tokens.weight", "output_layer.weight")
    )
    if not copied or not torch.equal(bias[pseudo], bias[mask] + PSEUDO_BIAS):
        symbols = [*words.symbols, "<pseudo>"]
        if kind == "unilm":
            swap = {"<mask>": "<pseudo>", "<pseudo>": "<mask>"}
            symbols = [swap.get(symbol, symbol) for symbol in symbols]
        words = words._replace(symbols=symbols)
    return words, [ours[symbol] for symbol in words.symbols]


def to_bert(state: dict[str, Tensor], options: dict[str, Any], rows: list[int]) -> dict[str, Tensor]:
    """The parameters under Hugging Face's names for BERT: the inverse of :func:`convert.convert`."""
    table = state["backbone.embed_tokens.weight"][rows]
    tensors = {
        "bert.embeddings.word_embeddings.weight": table,
        "bert.embeddings.position_embeddings.weight": state["backbone.embed_positions.weight"],
        "bert.embeddings.token_type_embeddings.weight": state["backbone.embed_segments.weight"],
    }

    def put_pair(theirs: str, ours: str) -> None:
        tensors[f"{theirs}.weight"], tensors[f"{theirs}.bias"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    put_pair("bert.embeddings.LayerNorm", "backbone.layernorm_embedding")
    for i in range(options["encoder_layers"]):
        theirs, ours = f"bert.encoder.layer.{i}", f"backbone.layers.{i}"
        for end in ("weight", "bias"):
            parts = state[f"{ours}.self_attn.qkv_proj.{end}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                tensors[f"{theirs}.attention.self.{name}.{end}"] = part.clone()
        put_pair(f"{theirs}.attention.output.dense", f"{ours}.self_attn.out_proj")
        put_pair(f"{theirs}.attention.output.LayerNorm", f"{ours}.self_attn_layer_norm")
        put_pair(f"{theirs}.intermediate.dense", f"{ours}.fc1")
        put_pair(f"{theirs}.output.dense", f"{ours}.fc2")
        put_pair(f"{theirs}.output.LayerNorm", f"{ours}.final_layer_norm")
    if options["relative_positions"]:
        tensors["bert.rel_pos_bias.weight"] = state["backbone.relative_bias.weight"].t().contiguous()
    put_pair("cls.predictions.transform.dense", "output_layer.dense")
    put_pair("cls.predictions.transform.LayerNorm", "output_layer.layer_norm")
    tensors["cls.predictions.bias"] = state["output_layer.bias"][rows]
    if options["separate_output"]:
        tensors["cls.predictions.decoder.weight"] = state["output_layer.weight"][rows]
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    return tensors


def to_config(options: dict[str, Any], words: Vocabulary, kind: str, own_pseudo: bool) -> dict[str, Any]:
    """config.json, with what the authors' code reads, and under a key of our own what neither has words for."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    activation = str(options["activation_fn"])
    if activation not in names:
        raise PMLMError(f"--activation-fn {activation} has no name in BERT; there are {', '.join(names)}")
    row = {symbol: i for i, symbol in enumerate(words.symbols)}
    config = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": len(words.symbols),
        "hidden_size": options["encoder_embed_dim"],
        "num_hidden_layers": options["encoder_layers"],
        "num_attention_heads": options["encoder_attention_heads"],
        "intermediate_size": options["encoder_ffn_embed_dim"],
        "hidden_act": names[activation],
        "hidden_dropout_prob": options["dropout"],
        "attention_probs_dropout_prob": options["attention_dropout"],
        "initializer_range": options["init_std"],
        "layer_norm_eps": options["layer_norm_eps"],
        "max_position_embeddings": options["max_positions"],
        "type_vocab_size": options["num_segments"],
        "tie_word_embeddings": not options["separate_output"],
        "pad_token_id": row["<pad>"],
        "bos_token_id": row["<s>"],
        "eos_token_id": row["</s>"],
        "source_type_id": options["source_segment"],
        "target_type_id": options["target_segment"],
    }
    if kind == "unilm":
        relative = options["relative_positions"]
        config["rel_pos_bins"] = options["relative_position_bins"] if relative else 0
        config["max_rel_pos"] = options["relative_position_max_distance"] if relative else 0
    if own_pseudo:
        config |= {PSEUDO_KEY: row["<pseudo>"], MASK_KEY: row["<mask>"]}
    own = {name: options[name] for name in OWN_OPTIONS if str(options[name]) != str(getattr(PMLMConfig, name))}
    return config | {OWN: own}


def write_tokenizer(words: Vocabulary, folder: str) -> None:
    """The tokenizer's files as transformers looks for them."""
    tokenizer = words.tokenizer
    config: dict[str, Any]
    if isinstance(tokenizer, WordPiece):
        lines = [*tokenizer.vocabulary, PSEUDO_PIECE][: len(words.symbols)]
        write_text(os.path.join(folder, "vocab.txt"), "".join(f"{line}\n" for line in lines))
        config = {"tokenizer_class": "BertTokenizer", **tokenizer.settings._asdict()}
    elif isinstance(tokenizer, ByteBPE):
        tokenizer.save(folder)
        config = {"tokenizer_class": "RobertaTokenizer"}
    else:
        write_bytes(os.path.join(folder, "sentencepiece.bpe.model"), tokenizer.content)
        config = {"tokenizer_class": "XLMRobertaTokenizer"}
    write_text(os.path.join(folder, "tokenizer_config.json"), json.dumps(config, indent=2, sort_keys=True) + "\n")
