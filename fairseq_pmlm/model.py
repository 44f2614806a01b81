"""The model: one backbone that knows only slots, its output layer, and what fairseq needs to train and decode with it.

Post-LN BERT (paper, section 2.2): token + learned position + segment embeddings, LayerNorm, dropout; layers of
self-attention and GELU feed-forward; a softmax tied to the token embedding behind a transform.
"""

from contextlib import nullcontext
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.models import ARCH_CONFIG_REGISTRY, BaseFairseqModel, register_model, register_model_architecture
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import decoding, heads, identity, state, tokenizer_files
from .attention import RelativePositionBias, SelfAttention, Visibility, gather_slots, visibility
from .dropout import Dropout
from .errors import PMLMError, describe
from .layer_decay import mark_layers
from .linear import PackableLinear
from .options import ARCHITECTURES, PMLMConfig, architecture, check, seq2seq_limits
from .projection_loss import CHUNK, ONE_HOT, Distribution, Losses, projection_loss


def activation(cfg: PMLMConfig):
    """The activation function; GELU is torch's own, as fairseq's goes through fp32 whatever the precision."""
    name = str(cfg.activation_fn)
    return F.gelu if name == "gelu" else utils.get_activation_fn(name)


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
        self.activation_fn = activation(cfg)
        self.dropout = Dropout(cfg.dropout)
        self.activation_dropout = Dropout(cfg.activation_dropout)

    def forward(
        self,
        x: Tensor,
        seen: Visibility,
        context_length: int,
        queries: Optional[Tensor] = None,
        context_queries: int = 0,
    ) -> Tensor:
        """(batch, slots, dim) -> (batch, slots, dim), or (batch, selected, dim) where *queries* selects slots."""
        attended = self.self_attn(x, seen, context_length, queries, context_queries)
        return self.feed_forward(x if queries is None else gather_slots(x, queries), attended)

    def feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """All that follows the attention: residuals, LayerNorms and the feed-forward sublayer; one slot at a time."""
        x = self.self_attn_layer_norm(x + self.dropout(attended))
        hidden = self.activation_dropout(self.fc1(x, self.activation_fn))
        return self.final_layer_norm(x + self.dropout(self.fc2(hidden)))


def call(layer: nn.Module, *args) -> Tensor:
    """*layer* of *args*: a function, so that compiling it serves all layers."""
    return layer(*args)


class Backbone(nn.Module):
    """The Transformer over slots; it does not know what they are for."""

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

    def embed(self, tokens: Tensor, positions: Tensor, segments: Tensor, sparse: bool = False) -> Tensor:
        """int64 (batch, slots) each -> (batch, slots, dim); *sparse*: of few types, as the gradient will say."""
        x = F.embedding(tokens, self.embed_tokens.weight, self.padding_idx, sparse=sparse)
        x = x + self.embed_positions(positions) + self.embed_segments(segments)
        return self.dropout(self.layernorm_embedding(x))

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Tensor,
        steps: Tensor,
        context_length: int,
        queries: Optional[Tensor] = None,
        context_queries: int = 0,
        sparse: bool = False,
    ) -> Tensor:
        """Hidden states of the last layer.

        Args:
            tokens, positions, segments, steps: int64 (batch, slots), see :mod:`fairseq_pmlm.layout`; context slots
                first, padded on the right. Context positions are the same in every row.
            context_length: number of leading slots that are context (w == 0).
            queries: int64 (batch, selected), slots whose output is wanted, context slots first; None for all. Keys and
                values are all that the last layer computes for the others.
            context_queries: how many leading columns of *queries* name context slots.
            sparse: give the token embedding a sparse gradient, for one who adds it to a dense one.

        Returns:
            (batch, slots or selected, dim)
        """
        padding = tokens.eq(self.padding_idx)
        x = self.embed(tokens, positions, segments, sparse)
        seen = visibility(padding, positions, steps, context_length, self.relative_bias, x.dtype)
        for layer in self.layers[:-1]:
            x = self.run(layer, x, seen, context_length)
        return self.run(self.layers[-1], x, seen, context_length, queries, context_queries)

    def run(self, layer: Layer, *args) -> Tensor:
        """*layer* of *args*, compiled and with its activations computed anew where that is asked for."""
        if not self.training:
            return layer(*args)
        if not self.checkpoint_activations:
            return self.compiled(layer, *args)
        # what is saved for the backward pass is the input alone, so that is what goes to the host
        offload = torch.autograd.graph.save_on_cpu(args[0].is_cuda) if self.offload_activations else nullcontext()
        with offload:
            return checkpoint(self.compiled, layer, *args, use_reentrant=False)


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
        self.activation_fn = activation(cfg)
        init_bert_weights(self.dense, cfg.init_std)

    def forward(self, x: Tensor) -> Tensor:
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


@register_model("pmlm", dataclass=PMLMConfig)
class PMLMModel(BaseFairseqModel):
    """A pseudo-masked language model for all of fairseq's entry points.

    Pre-training passes slots; everything else passes fairseq's ``src_tokens, src_lengths, prev_output_tokens``, and the
    model lays the slots out itself. ``encoder`` and ``decoder`` are views of the same weights for fairseq's generator.
    """

    def __init__(self, cfg: PMLMConfig, dictionary, tokenizer: Optional[str] = None):
        super().__init__()
        self.cfg = cfg
        self.dictionary = dictionary
        self.pseudo_index = dictionary.index("<pseudo>")
        self.backbone = Backbone(cfg, len(dictionary), dictionary.pad())
        self.output_layer = OutputLayer(cfg, self.backbone.embed_tokens)
        self.classification_heads = nn.ModuleDict()
        self.labels = None  # of the classes, where the task has some
        self.register_buffer("identity", identity.to_tensor(identity.facts(cfg, dictionary.symbols, tokenizer)))
        # Views, not submodules: they own no parameters, and no key may stand twice in the state dict.
        object.__setattr__(self, "encoder", decoding.SourceEncoder(self))
        object.__setattr__(self, "decoder", decoding.IncrementalDecoder(self))

    @classmethod
    def build_model(cls, cfg, task):
        """Build the model for *task*, which has a ``source_dictionary`` with <mask> and <pseudo>.

        Raises:
            PMLMError: options that contradict each other.
        """
        if cfg.arch_from:
            raise PMLMError(
                f"--arch-from {cfg.arch_from} is for the command line of fairseq-train; it was not read here"
            )
        check(cfg)
        labels = heads.task_labels(task)
        model = cls(cfg, task.source_dictionary, tokenizer_files.find(getattr(task.cfg, "data", "") or ""))
        model.labels = labels
        return model

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: Optional[str] = None,
        data_name_or_path: Optional[str] = None,
    ):
        """A trained model with its tokenizer, to be used from Python: a :class:`hub.PMLMHubInterface`.

        Args:
            model_name_or_path: directory with the checkpoint; nothing is downloaded or unpacked.
            checkpoint_file: its name there (default: model.pt, checkpoint_best.pt or checkpoint_last.pt).
            data_name_or_path: directory with dict.txt and the tokenizer file (default: that of the checkpoint).

        Raises:
            PMLMError: see :func:`hub.load`.
        """
        from .hub import load  # needs the tasks, which need this module

        return load(model_name_or_path, checkpoint_file, data_name_or_path)

    def register_classification_head(self, name: str, num_classes: int, inner_dim: Optional[int] = None, **_):
        """Add ``classification_heads.NAME``, as fairseq's ``sentence_prediction`` does; its classes are the task's."""
        dim = self.cfg.encoder_embed_dim
        head = heads.ClassificationHead(dim, num_classes, inner_dim or dim, self.cfg.pooler_dropout, self.labels)
        self.register_head(f"classification_heads.{name}", head)

    def register_head(self, path: str, head: nn.Module) -> None:
        """Add *head*, with new weights, at *path*: one of :data:`heads.KINDS`, with a name where there can be several.

        Raises:
            PMLMError: no head can have that name.
        """
        head.apply(lambda module: init_bert_weights(module, self.cfg.init_std))
        parent, _, name = path.rpartition(".")
        try:
            self.get_submodule(parent).add_module(name, head.to(self.output_layer.bias))
        except (AttributeError, KeyError) as error:
            raise PMLMError(f"no head can be called {path!r} ({describe(error)})") from error

    def forward(
        self,
        tokens: Optional[Tensor] = None,
        positions: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
        steps: Optional[Tensor] = None,
        context_length: Optional[int] = None,
        queries: Optional[Tensor] = None,
        context_queries: int = 0,
        src_tokens: Optional[Tensor] = None,
        src_lengths: Optional[Tensor] = None,
        prev_output_tokens: Optional[Tensor] = None,
        pseudo_tokens: Optional[Tensor] = None,
        shown_target: Optional[Tensor] = None,
        shown_source: Optional[Tensor] = None,
        wanted: Optional[Tensor] = None,
        target: Optional[Tensor] = None,
        distribution: Distribution = ONE_HOT,
        chunk: int = CHUNK,
        features_only: bool = False,
        classification_head_name: Optional[str] = None,
        spans: bool = False,
    ):
        """Logits or losses of the predicting slots, or features.

        Either slots, as :meth:`Backbone.forward` takes them -> logits (batch, selected, types).

        Or a batch of pairs, as fairseq's trainer, scorer and validation pass them:

        Args:
            src_tokens: int64 (batch, source), ``<s> ... </s>``, padded on the right.
            src_lengths: int64 (batch,), lengths without padding.
            prev_output_tokens: int64 (batch, target), ``</s> x1 x2 ...``, the target shifted by one, right-padded.
            pseudo_tokens: int64 (batch, target), what the [P] slots show in training, or None for [P].
            shown_target, shown_source: what training shows in place of *prev_output_tokens* and *src_tokens*, or None.

        Returns:
            a tuple: logits for the target that *prev_output_tokens* was made from, (batch, target, types); and None.

        Of both, not all that could be predicted need be:

        Args:
            wanted: int64 (predictions,), which of the (batch x selected) or (batch x target) places; logits are
                (predictions, types) then. None for all.
            target: int64 (predictions,), what these are to predict: losses are returned and not logits.
            distribution, chunk: as for :func:`projection_loss`.

        Or texts that are only read (*src_tokens*, and *features_only*, the name of a head, or *spans*) -> a tuple:
        features (batch, source, dim), what the head says of each text, (batch, classes), or what the span head says of
        each slot, (batch, source, 2); and None.
        """
        # The loss gives the tied embedding a dense gradient; on a CPU another one takes longer to allocate than to use.
        tied = self.output_layer.weight is self.backbone.embed_tokens.weight
        sparse = target is not None and tied and self.output_layer.weight.device.type == "cpu"
        if src_tokens is None:
            x = self.backbone(
                tokens, positions, segments, steps, context_length, queries, context_queries, sparse=sparse
            )
            x = x if wanted is None else x.flatten(0, 1)[wanted]
            return self.output_layer(x) if target is None else self.output_layer.loss(x, target, distribution, chunk)
        if spans:
            return self.span_head(self.read(src_tokens)), None
        if features_only or classification_head_name is not None:
            return self.read(src_tokens, classification_head_name), None
        if not self.training:  # corruption is for training, whatever the data set
            pseudo_tokens = shown_target = shown_source = None
        src_tokens = src_tokens if shown_source is None else shown_source
        prev_output_tokens = prev_output_tokens if shown_target is None else shown_target
        pad = self.dictionary.pad()
        if self.cfg.finetune_mode == "causal":
            slots = decoding.causal_slots(src_tokens, src_lengths, prev_output_tokens, pad)
        else:
            slots = decoding.seq2seq_slots(
                src_tokens, src_lengths, prev_output_tokens, pad, self.pseudo_index, pseudo_tokens
            )
        source = slots["segments"].eq(0)
        slots["segments"] = torch.where(source, self.cfg.source_segment, self.cfg.target_segment)
        x = self.backbone(**slots, sparse=sparse)
        x = x if wanted is None else x.flatten(0, 1)[wanted]
        if target is not None:
            return self.output_layer.loss(x, target, distribution, chunk)
        return self.output_layer(x), None

    def read(self, tokens: Tensor, head: Optional[str] = None) -> Tensor:
        """Features (batch, length, dim) of texts, int64 (batch, length), or what a classification head says of them."""
        slots = heads.encoder_slots(tokens, self.dictionary.eos(), self.cfg.num_segments)
        if head is None:
            return self.backbone(**slots)
        first = torch.zeros_like(tokens[:, :1])  # all that the head looks at
        return self.classification_heads[head](self.backbone(**slots, queries=first, context_queries=1))

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        """(Log-)probabilities in fp32 from what :meth:`forward` returned for a batch of pairs."""
        logits = net_output[0].float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)

    def max_positions(self):
        """Rows of the position table."""
        return self.cfg.max_positions

    def max_decoder_positions(self):
        """Longest target, in tokens with </s>."""
        return seq2seq_limits(self.cfg)[1]

    def upgrade_state_dict_named(self, state_dict, name):
        """Check a checkpoint against this model before fairseq loads it strictly; see :func:`state.prepare`."""
        super().upgrade_state_dict_named(state_dict, name)
        state.prepare(self, state_dict)


for _name, _shape in ARCHITECTURES.items():
    register_model_architecture("pmlm", _name)(architecture(*_shape))
# register_model has given "pmlm" a function that does nothing: it is whatever the options say
ARCH_CONFIG_REGISTRY["pmlm"] = architecture(*ARCHITECTURES["pmlm_base"])
