"""The registered model: what fairseq needs to train the backbone and decode with it."""

from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.models import ARCH_CONFIG_REGISTRY, BaseFairseqModel, register_model, register_model_architecture
from torch import Tensor, nn

from ..checkpoints import metadata as identity
from ..tokenizers import files as tokenizer_files
from ..utils.errors import PMLMError, describe
from . import heads
from . import incremental as decoding
from . import loading as state
from .config import ARCHITECTURES, PMLMConfig, architecture, check, seq2seq_limits
from .kernels.projection_loss import CHUNK, ONE_HOT, Distribution
from .transformer import Backbone, OutputLayer, init_bert_weights


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
        from .hub_interface import load  # needs the tasks, which need this module

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
        if src_tokens is None:
            x = self.backbone(tokens, positions, segments, steps, context_length, queries, context_queries)
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
        x = self.backbone(**slots)
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
