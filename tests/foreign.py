"""Small checkpoints of other people's formats: made by transformers itself, or by hand as the authors of UniLM do.

And the authors' sequence-to-sequence scheme on such a file, written from its description: no code of the package.
"""

import io
import json
import math

import sentencepiece
import torch
from test_wordpiece import PIECES
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,
    "layer_norm_eps": 1e-5,
}
LINES = ["the cats sat, singing", "안녕하세요 세계", "a café in the city", "xyz abc"] * 9
MODELS = {
    "bert": (BertConfig, BertForMaskedLM, {"type_vocab_size": 2}),
    "roberta": (RobertaConfig, RobertaForMaskedLM, {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaForMaskedLM, {"type_vocab_size": 1, "pad_token_id": 1}),
    "electra": (ElectraConfig, ElectraForMaskedLM, {"embedding_size": 16, "type_vocab_size": 2}),
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_tokenizer(kind, folder):
    """Write the tokenizer that models of that *kind* have; returns the number of pieces."""
    if kind == "roberta":
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(LINES, vocab_size=320, special_tokens=SPECIAL)
        trained.save_model(str(folder))
        return trained.get_vocab_size()
    if kind == "xlm-roberta":
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=model, vocab_size=60, minloglevel=2, hard_vocab_limit=False
        )
        (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
        return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).GetPieceSize() + 2
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    return len(PIECES)


def randomize(model, seed=0):
    """Weights, biases and LayerNorms large enough to make every difference show."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def save_by_transformers(kind, folder, **options):
    """A model of that *kind* and its tokenizer in *folder*; returns the model."""
    config, model, own = MODELS[kind]
    size = write_tokenizer(kind, folder)
    made = randomize(model(config(vocab_size=size, **SMALL | own | options)))
    made.save_pretrained(folder)
    return made


def unilm_tensors(relative, segments=2, seed=0):
    """The tensors of a UniLM 2 file: one stacked projection, biases of odd shapes, no bias of the keys."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, mean=0.0):
        return torch.randn(*shape, generator=generator) * 0.4 + mean

    types = len(PIECES)
    h, heads, inner = SMALL["hidden_size"], SMALL["num_attention_heads"], SMALL["intermediate_size"]
    tensors = {
        "bert.embeddings.word_embeddings.weight": draw(types, h),
        "bert.embeddings.position_embeddings.weight": draw(SMALL["max_position_embeddings"], h),
        "bert.embeddings.token_type_embeddings.weight": draw(segments, h),
    }

    def norm(name):
        tensors[f"{name}.gamma"], tensors[f"{name}.beta"] = draw(h, mean=1.0), draw(h)

    def linear(name, rows, columns):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = draw(rows, columns), draw(rows)

    norm("bert.embeddings.LayerNorm")
    if relative:
        tensors["bert.encoder.rel_pos_bias.weight"] = draw(heads, 32) * 3
    for i in range(SMALL["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        tensors[f"{layer}.attention.self.qkv_linear.weight"] = draw(3 * h, h)
        tensors[f"{layer}.attention.self.q_bias"] = draw(1, heads, 1, h // heads)
        tensors[f"{layer}.attention.self.v_bias"] = draw(1, 1, h)
        linear(f"{layer}.attention.output.dense", h, h)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", inner, h)
        linear(f"{layer}.output.dense", h, inner)
        norm(f"{layer}.output.LayerNorm")
    linear("cls.predictions.transform.dense", h, h)
    norm("cls.predictions.transform.LayerNorm")
    tensors["cls.predictions.bias"] = draw(types)
    tensors["cls.predictions.decoder_weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    return tensors


def write_unilm(folder, relative, segments=2, **config):
    """A UniLM 2 file in torch's old format, its config and vocabulary; returns the tensors and the config."""
    write_tokenizer("unilm", folder)
    tensors = unilm_tensors(relative, segments=segments)
    config = {**SMALL, "vocab_size": len(PIECES), "type_vocab_size": segments, "hidden_act": "gelu", **config}
    if relative:
        config |= {"rel_pos_bins": 32, "max_rel_pos": 20}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(tensors, folder / "unilm2.bin", _use_new_zipfile_serialization=False)
    return tensors, config


def bucket(distance, bins, max_distance):
    """T5's bucket of position of key - position of query."""
    half = bins // 2
    start, distance = (half if distance > 0 else 0), abs(distance)
    if distance < half // 2:
        return start + distance
    ratio = torch.log(torch.tensor(distance / (half // 2))) / math.log(max_distance / (half // 2))
    return start + min(half - 1, half // 2 + int(ratio * (half - half // 2)))


def authors_log_probs(tensors, config, source, target, mask_id):
    """Log-probabilities (target, vocabulary) of the authors' scheme, every slot in one pass with a mask for each pair.

    Args:
        tensors, config: a UniLM 2 checkpoint.
        source: ids with [CLS] and [SEP].
        target: ids with [SEP]; row t of the result depends on those before t alone.
        mask_id: the id that stands for [P].
    """
    s, t = len(source), len(target)
    ids = torch.tensor([*source, *target, *[mask_id] * t])
    positions = [*range(s), *range(s, s + t), *range(s, s + t)]
    types = [config.get("source_type_id", 0)] * s + [config.get("target_type_id", 1)] * (2 * t)
    # source 0, target +1, +2, ..., pseudo masks -1, -2, ...
    step = [0] * s + [i + 1 for i in range(t)] + [-i - 1 for i in range(t)]
    mask = torch.full((len(ids), len(ids)), -math.inf)
    for q, w in enumerate(step):
        for k, v in enumerate(step):
            if (w >= 0 and 0 <= v <= w) or (w < 0 and (0 <= v < -w or v == w)):
                mask[q, k] = 0.0
    h, heads = config["hidden_size"], config["num_attention_heads"]
    size = h // heads

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + config["layer_norm_eps"])
        return scaled * tensors[f"{name}.gamma"] + tensors[f"{name}.beta"]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    embeddings = "bert.embeddings."
    x = tensors[f"{embeddings}word_embeddings.weight"][ids]
    x = x + tensors[f"{embeddings}position_embeddings.weight"][positions]
    x = norm(x + tensors[f"{embeddings}token_type_embeddings.weight"][types], f"{embeddings}LayerNorm")
    bias = torch.zeros(heads, len(ids), len(ids))
    if config.get("rel_pos_bins"):
        table = tensors["bert.encoder.rel_pos_bias.weight"]
        for q, at in enumerate(positions):
            for k, key in enumerate(positions):
                bias[:, q, k] = table[:, bucket(key - at, config["rel_pos_bins"], config["max_rel_pos"])]
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        query, key, value = (x @ part.T for part in tensors[f"{layer}.attention.self.qkv_linear.weight"].split(h))
        query = query + tensors[f"{layer}.attention.self.q_bias"].reshape(h)
        value = value + tensors[f"{layer}.attention.self.v_bias"].reshape(h)
        parts = []
        for head in range(heads):
            columns = slice(head * size, (head + 1) * size)
            scores = query[:, columns] @ key[:, columns].T / math.sqrt(size) + mask + bias[head]
            parts.append(torch.softmax(scores, -1) @ value[:, columns])
        attended = linear(torch.cat(parts, -1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        x = norm(
            x + linear(gelu(linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense"),
            f"{layer}.output.LayerNorm",
        )
    x = norm(gelu(linear(x[s + t :], "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    logits = x @ tensors["cls.predictions.decoder_weight"].T + tensors["cls.predictions.bias"]
    return torch.log_softmax(logits, -1)


def authors_greedy(tensors, config, source, mask_id, end_id, limit, never=()):
    """The authors' greedy output, without [SEP]: a whole pass for each token."""
    chosen = []
    while len(chosen) < limit:
        scores = authors_log_probs(tensors, config, source, [*chosen, end_id], mask_id)[len(chosen)].clone()
        scores[list(never)] = -math.inf
        best = int(scores.argmax())
        if best == end_id:
            break
        chosen.append(best)
    return chosen
