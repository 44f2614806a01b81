"""The Transformer: one backbone that knows only slots, and its output layer.

Post-LN BERT (paper, section 2.2): token + learned position + segment embeddings, LayerNorm, dropout; layers of
self-attention and GELU feed-forward; a softmax tied to the token embedding behind a transform.
"""

import re
from contextlib import nullcontext
from functools import partial
from typing import Optional

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .activations import ACTIVATIONS
from .attention import RelativePositionBias, Rows, SelfAttention, Store, Visibility, select_slots, visibility
from .cache import Cache
from .config import PMLMConfig
from .kernels.dropout import Dropout
from .kernels.linear import PackableLinear
from .kernels.projection_loss import CHUNK, ONE_HOT, Distribution, Losses, projection_loss


class Layer(nn.Module):
    """One post-LN Transformer layer."""

    def __init__(self, cfg: PMLMConfig):
        super().__init__()
        dim = cfg.encoder_embed_dim
        self.self_attn = SelfAttention(dim, cfg.encoder_attention_heads, cfg.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.fc1 = PackableLinear(dim, cfg.encoder_ffn_embed_dim)
        self.fc2 = PackableLinear(cfg.encoder_ffn_embed_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.activation_fn = ACTIVATIONS[str(cfg.activation_fn)]
        self.dropout = Dropout(cfg.dropout)
        self.activation_dropout = Dropout(cfg.activation_dropout)

    def forward(
        self,
        x: Tensor,
        seen: Visibility,
        context_length: int,
        queries: Optional[Rows] = None,
        context_queries: int = 0,
        store: Optional[Store] = None,
    ) -> Tensor:
        """(batch, slots, dim) -> (batch, slots, dim), or (batch, selected, dim) where *queries* selects slots.

        Arguments are those of :meth:`SelfAttention.forward`.
        """
        attended = self.self_attn(x, seen, context_length, queries, context_queries, store)
        x = x if queries is None else select_slots(x, queries)
        return self.feed_forward(x, attended) if x.size(1) else x

    def feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """All that follows the attention: residuals, LayerNorms and the feed-forward sublayer; one slot at a time."""
        x = self.self_attn_layer_norm(x + self.dropout(attended))
        hidden = self.activation_dropout(self.fc1(x, self.activation_fn))  # (batch, slots, ffn_dim)
        return self.final_layer_norm(x + self.dropout(self.fc2(hidden)))


def call(layer: nn.Module, *args) -> Tensor:
    """*layer* of *args*: a function, so that compiling it serves all layers."""
    return layer(*args)


class Backbone(nn.Module):
    """The Transformer over slots, whatever they are for."""

    def __init__(self, cfg: PMLMConfig, num_types: int, padding_idx: int):
        super().__init__()
        self.padding_idx = padding_idx
        dim = cfg.encoder_embed_dim
        self.embed_tokens = nn.Embedding(num_types, dim, padding_idx)
        self.embed_positions = nn.Embedding(cfg.max_positions, dim)
        self.embed_segments = nn.Embedding(cfg.num_segments, dim)
        self.layernorm_embedding = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.dropout = Dropout(cfg.dropout)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.encoder_layers))
        self.relative_bias = None
        if cfg.relative_positions:
            self.relative_bias = RelativePositionBias(
                cfg.relative_position_bins,
                cfg.relative_position_max_distance,
                cfg.encoder_attention_heads,
                cfg.relative_position_slope,
            )
        self.apply(lambda module: init_bert_weights(module, cfg.init_std))
        mark_layers(self)
        self.checkpoint_activations = cfg.checkpoint_activations or cfg.offload_activations
        self.offload_activations = cfg.offload_activations
        self.compiled = torch.compile(call, dynamic=True, fullgraph=True) if cfg.compile else call

    def embed(self, tokens: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """int64 (batch, slots) each -> (batch, slots, dim)"""
        x = self.embed_tokens(tokens) + self.embed_positions(positions) + self.embed_segments(segments)
        return self.dropout(self.layernorm_embedding(x))

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Tensor,
        steps: Tensor,
        context_length: int,
        queries: Optional[Rows] = None,
        context_queries: int = 0,
        cache: Optional[Cache] = None,
    ) -> Tensor:
        """Hidden states of the last layer.

        Args:
            tokens, positions, segments: int64 (batch, slots), see :mod:`fairseq_pmlm.data.layout`; context slots
                first, padded on the right. Context positions are the same in every row.
            steps: int64 (batch, slots), signed steps; after cached slots (slots,), as they are the same in all rows.
            context_length: number of leading slots that are context (w == 0).
            queries: slots whose output is wanted, context slots first; None for all. For the others, the last layer
                computes only keys and values.
            context_queries: how many of *queries*, from the first, name context slots.
            cache: gets the keys and values of these slots. If it holds some already, the slots are appended ones that
                attend over those, too, in the order that :func:`fairseq_pmlm.model.incremental.extend` gives them.

        Returns:
            (batch, slots or selected, dim)
        """
        x = self.embed(tokens, positions, segments)
        if cache is None or not cache.keys:
            padding = tokens.eq(self.padding_idx)
            seen = visibility(padding, positions, steps, context_length, self.relative_bias, x.dtype)
        else:
            seen = cache.visibility(positions, steps, self.relative_bias)
        for i, layer in enumerate(self.layers):
            store = None if cache is None else partial(cache.put, i)
            last = (queries, context_queries) if i == len(self.layers) - 1 else (None, 0)
            x = self.run(layer, x, seen, context_length, *last, store)
        return x

    def run(self, layer: nn.Module, *args) -> Tensor:
        """*layer* of *args*; compiled, and with its activations computed again, where the options say so."""
        if not self.training:
            return layer(*args)
        if not self.checkpoint_activations:
            return self.compiled(layer, *args)
        # what is saved for the backward pass is the input alone, so that is what goes to the host
        offload = torch.autograd.graph.save_on_cpu(args[0].is_cuda) if self.offload_activations else nullcontext()
        with offload:
            return checkpoint(self.compiled, layer, *args, use_reentrant=False)


def mark_layers(backbone: nn.Module) -> None:
    """Name the group of every parameter, for learning rates by layer: ``layer0``, ..., ``embeddings``.

    What belongs to no layer, the relative position bias among it, goes with the embeddings; parameters of heads have
    no such attribute, which fairseq calls the group ``default``.
    """
    for name, parameter in backbone.named_parameters():
        found = re.match(r"layers\.(\d+)\.", name)
        setattr(parameter, "param_group", f"layer{found[1]}" if found else "embeddings")  # noqa: B010 (torch's class)


class OutputLayer(PackableLinear):
    """Transform, then a softmax layer with a bias, tied to the token embedding unless it is to be separate."""

    def __init__(self, cfg: PMLMConfig, embed_tokens: nn.Embedding):
        dim = cfg.encoder_embed_dim
        super().__init__(dim, embed_tokens.num_embeddings, device="meta")
        self.weight = embed_tokens.weight
        if cfg.separate_output:
            self.weight = nn.Parameter(embed_tokens.weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(embed_tokens.num_embeddings))
        self.dense = PackableLinear(dim, dim)
        self.layer_norm = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.activation_fn = ACTIVATIONS[str(cfg.activation_fn)]
        init_bert_weights(self.dense, cfg.init_std)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # the activation comes before this product
        """(..., dim) -> logits (..., types)"""
        return super().forward(self.transform(x))

    def transform(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim), what the softmax layer multiplies."""
        return self.layer_norm(self.dense(x, self.activation_fn))

    def loss(self, x: Tensor, target: Tensor, distribution: Distribution = ONE_HOT, chunk: int = CHUNK) -> Losses:
        """Losses of predicting *target* (predictions,) from *x* (predictions, dim); see :func:`projection_loss`."""
        return projection_loss(self.transform(x), self.weight, self.bias, target, distribution, chunk)


def init_bert_weights(module: nn.Module, std: float) -> None:
    """BERT's initialization: N(0, std), biases zero, the embedding of <pad> zero."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
