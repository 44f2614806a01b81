"""The readers of checkpoints among those that ``fuzz_readers.py`` feeds: other people's, and fairseq's."""

import argparse
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable

import numpy as np
import torch
from fairseq import checkpoint_utils
from fuzz_seeds import PIECES, Reader, folder_of, reader
from safetensors.torch import save

from fairseq_pmlm.conversion.importing import import_checkpoint
from fairseq_pmlm.interface import from_pretrained

WIDTH, INNER, POSITIONS = 8, 12, 16


def bert():
    """A BERT of one layer."""
    generator = torch.Generator().manual_seed(1)
    shapes = {f"embeddings.{kind}_embeddings.weight": (n, WIDTH) for kind, n in
              (("word", len(PIECES)), ("position", POSITIONS), ("token_type", 2))}  # fmt: skip
    pairs_of = {"embeddings.LayerNorm": (WIDTH,)}
    layer = "encoder.layer.0."
    pairs_of |= {f"{layer}attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    pairs_of |= {f"{layer}attention.output.dense": (WIDTH, WIDTH), f"{layer}attention.output.LayerNorm": (WIDTH,)}
    pairs_of |= {f"{layer}intermediate.dense": (INNER, WIDTH), f"{layer}output.dense": (WIDTH, INNER)}
    pairs_of |= {f"{layer}output.LayerNorm": (WIDTH,)}
    for part, shape in pairs_of.items():
        shapes |= {f"{part}.weight": shape, f"{part}.bias": shape[:1]}
    return {f"bert.{part}": torch.randn(shape, generator=generator) for part, shape in shapes.items()}


CONFIG = {
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "vocab_size": len(PIECES),
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
}


def foreign(weights: dict[str, bytes]) -> dict[str, bytes]:
    vocab = "".join(f"{piece}\n" for piece in PIECES).encode()
    return {"config.json": json.dumps(CONFIG).encode(), "vocab.txt": vocab, **weights}


def import_folder(folder):
    with tempfile.TemporaryDirectory() as out:
        import_checkpoint(folder, os.path.join(out, "x"))


def saved(content, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def unpickled(archive: bytes) -> bytes:
    """The pickle in a checkpoint."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return next(opened.read(name) for name in opened.namelist() if name.endswith("data.pkl"))


def repacked(archive: bytes) -> Callable[[bytes], bytes]:
    """A function that puts another pickle into a checkpoint."""

    def pack(pickled):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
        return out.getvalue()

    return pack


@reader("import, config.json")
def import_config(name):
    files = foreign({"model.safetensors": save(bert())})
    return Reader(name, files, ("config.json",), import_folder, "json", 400)


@reader("import, vocab.txt")
def import_vocabulary(name):
    return Reader(name, foreign({"model.safetensors": save(bert())}), ("vocab.txt",), import_folder, "text", 200)


@reader("import, .safetensors")
def import_safetensors(name):
    files = foreign({"model.safetensors": save(bert())})
    return Reader(name, files, ("model.safetensors",), import_folder, "bytes", 300)


@reader("import, header of .safetensors")
def import_header(name):
    whole = save(bert())
    end = 8 + int.from_bytes(whole[:8], "little")
    files = foreign({"model.safetensors": whole[8:end].rstrip(b" ")})

    def pack(header):
        return len(header).to_bytes(8, "little") + header + whole[end:]

    return Reader(name, files, ("model.safetensors",), import_folder, "json", 400, pack)


@reader("import, index of shards")
def import_index(name):
    tensors = bert()
    names = list(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
    files = foreign({part: save({key: tensors[key] for key in keys}) for part, keys in parts.items()})
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    return Reader(name, files, ("model.safetensors.index.json",), import_folder, "json", 200)


@reader("import, .bin")
def import_bin(name):
    files = foreign({"pytorch_model.bin": saved(bert())})
    return Reader(name, files, ("pytorch_model.bin",), import_folder, "bytes", 300)


@reader("import, pickle in .bin")
def import_pickle(name):
    whole = saved(bert())
    files = foreign({"pytorch_model.bin": unpickled(whole)})
    return Reader(name, files, ("pytorch_model.bin",), import_folder, "bytes", 500, repacked(whole))


def fairseq_folder(folder):
    """What importing writes: a checkpoint of ours, with its dictionary and tokenizer."""
    with tempfile.TemporaryDirectory() as source:
        for name, content in foreign({"model.safetensors": save(bert())}).items():
            with open(os.path.join(source, name), "wb") as f:
                f.write(content)
        import_checkpoint(source, os.path.join(folder, "x"))
    for name in os.listdir(os.path.join(folder, "x")):
        os.replace(os.path.join(folder, "x", name), os.path.join(folder, name))
    state = checkpoint_utils.load_checkpoint_to_cpu(os.path.join(folder, "model.pt"))
    options = argparse.Namespace(arch="pmlm", lr=[0.1])
    state["extra_state"] |= {"best": np.float64(1.5), "val_loss": np.float32(2), "old": options, "a": [("b", 1)]}
    torch.save(state, os.path.join(folder, "model.pt"))


def load_for_use(folder):
    from_pretrained(folder)


@reader("checkpoint")
def checkpoint(name):
    return Reader(name, folder_of(fairseq_folder), ("model.pt",), load_for_use, "bytes", 300)


@reader("checkpoint, older format")
def old_checkpoint(name):
    files = folder_of(fairseq_folder)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.pt")
        with open(path, "wb") as f:
            f.write(files["model.pt"])
        state = checkpoint_utils.load_checkpoint_to_cpu(path)
    files["model.pt"] = saved(state, _use_new_zipfile_serialization=False)
    return Reader(name, files, ("model.pt",), load_for_use, "bytes", 300)


@reader("checkpoint, pickle")
def pickle_in_checkpoint(name):
    files = folder_of(fairseq_folder)
    whole = files["model.pt"]
    files["model.pt"] = unpickled(whole)
    return Reader(name, files, ("model.pt",), load_for_use, "bytes", 600, repacked(whole))
