"""Slow, obvious references, written from the description of the method and not from the package's code."""

import math
from types import SimpleNamespace

import torch
from fairseq.data import Dictionary


def small_dictionary(types: int = 30) -> Dictionary:
    """<s> <pad> </s> <unk>, ordinary types w0, w1, ..., then <mask> and <pseudo>."""
    dictionary = Dictionary()
    for i in range(types):
        dictionary.add_symbol(f"w{i}")
    dictionary.add_symbol("<mask>")
    dictionary.add_symbol("<pseudo>")
    return dictionary


def small_model(
    relative: bool = False, seed: int = 0, dictionary=None, dtype=torch.float32, layers: int = 3, **options
):
    """A small model in evaluation mode, whose weights are large enough to make every difference show."""
    from fairseq_pmlm.model.config import PMLMConfig
    from fairseq_pmlm.tasks.model import FairseqPMLM

    torch.manual_seed(seed)
    settings = {
        "encoder_layers": layers,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 32,
        "encoder_attention_heads": 2,
        "max_positions": 64,
        "relative_positions": relative,
        **options,
    }
    cfg = PMLMConfig(**settings)
    model = FairseqPMLM.build_model(
        cfg, SimpleNamespace(source_dictionary=dictionary or small_dictionary(), cfg=SimpleNamespace(data=""))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.to(dtype).eval()


def may_see(query, key) -> bool:
    """The rule in words. A slot is ("context", 0), ("original", step) or ("pseudo", step).

    Context sees the context. Originals of step i see the context and the originals of steps 1..i. [P] of step i sees
    the context, the originals of the steps before i, and the [P] of step i.
    """
    (query_kind, query_step), (key_kind, key_step) = query, key
    if query_kind == "context":
        return key_kind == "context"
    if query_kind == "original":
        return key_kind == "context" or (key_kind == "original" and key_step <= query_step)
    return (
        key_kind == "context"
        or (key_kind == "original" and key_step < query_step)
        or (key_kind == "pseudo" and key_step == query_step)
    )


def kind(step: int):
    """The kind of a slot from its signed step."""
    return ("context" if step == 0 else "original" if step > 0 else "pseudo", abs(step))


def bucket(distance: int, bins: int, max_distance: int) -> int:
    """T5's bucket of a distance = position of key - position of query."""
    half = bins // 2
    offset = half if distance > 0 else 0
    distance = abs(distance)
    exact = half // 2
    if distance < exact:
        return offset + distance
    # T5 computes this in single precision, which decides on which side of a boundary a distance falls
    ratio = torch.log(torch.tensor(distance / exact, dtype=torch.float32)) / math.log(max_distance / exact)
    return offset + min(half - 1, exact + int(ratio * (half - exact)))


def forward(model, tokens, positions, segments, sees) -> torch.Tensor:
    """Hidden states (slots, dim) of one example, by loops over layers, heads and queries.

    Args:
        model: a PMLM; its weights are used, none of its code.
        tokens, positions, segments: lists of integers.
        sees: sees[q] is the list of the keys that query q may attend.
    """
    backbone, cfg = model.backbone, model.cfg
    dim, heads = cfg.encoder_embed_dim, cfg.encoder_attention_heads
    size = dim // heads

    def norm(x, module):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + cfg.layer_norm_eps) * module.weight + module.bias

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    x = torch.stack(
        [
            backbone.embed_tokens.weight[t] + backbone.embed_positions.weight[p] + backbone.embed_segments.weight[s]
            for t, p, s in zip(tokens, positions, segments, strict=True)
        ]
    )
    x = norm(x, backbone.layernorm_embedding)
    for layer in backbone.layers:
        weight, bias = layer.self_attn.qkv_proj.weight, layer.self_attn.qkv_proj.bias
        q, k, v = (x @ weight[i * dim : (i + 1) * dim].T + bias[i * dim : (i + 1) * dim] for i in range(3))
        rows = []
        for i in range(len(tokens)):
            keys = list(sees[i])
            parts = []
            for h in range(heads):
                column = slice(h * size, (h + 1) * size)
                scores = k[keys][:, column] @ q[i, column] / math.sqrt(size)
                if cfg.relative_positions:
                    table = backbone.relative_bias.weight
                    buckets = [
                        bucket(
                            positions[j] - positions[i], cfg.relative_position_bins, cfg.relative_position_max_distance
                        )
                        for j in keys
                    ]
                    scores = scores + table[buckets, h]
                parts.append(torch.softmax(scores, dim=0) @ v[keys][:, column])
            rows.append(torch.cat(parts))
        attended = torch.stack(rows) @ layer.self_attn.out_proj.weight.T + layer.self_attn.out_proj.bias
        x = norm(x + attended, layer.self_attn_layer_norm)
        hidden = gelu(x @ layer.fc1.weight.T + layer.fc1.bias)
        x = norm(x + hidden @ layer.fc2.weight.T + layer.fc2.bias, layer.final_layer_norm)
    return x


def logits(model, x) -> torch.Tensor:
    """Scores (slots, types) of hidden states (slots, dim): transform, then the tied softmax layer."""
    head = model.output_layer
    x = x @ head.dense.weight.T + head.dense.bias
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + model.cfg.layer_norm_eps) * head.layer_norm.weight + head.layer_norm.bias
    return x @ model.backbone.embed_tokens.weight.T + head.bias
