"""The model that fairseq registers: the plain model, in fairseq's words.

Pre-training passes slots; everything else passes fairseq's ``src_tokens, src_lengths, prev_output_tokens``, which
:meth:`FairseqPMLM.lay_out` translates. ``encoder`` and ``decoder`` are views of the same weights, for generators of
fairseq's own.
"""

from dataclasses import field, fields, make_dataclass
from typing import Any, Optional

import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    BaseFairseqModel,
    FairseqIncrementalDecoder,
    register_model,
    register_model_architecture,
)
from torch import Tensor

from ..checkpoints import context
from ..checkpoints.architecture import take_from
from ..interface import PMLMModel
from ..model import config, loading
from ..model.batch_layout import causal_slots, seq2seq_slots, text_slots
from ..model.cache import Cache
from ..model.config import ARCHITECTURES, PMLMConfig
from ..model.incremental import encode_source, next_logits
from ..model.kernels.projection_loss import Losses
from ..model.pmlm import HIDDEN, LOGITS, Predict, Symbols
from ..tokenizers import files as tokenizer_files
from ..tokenizers.dictionary import label_names
from ..utils.errors import PMLMError

CACHE = "pmlm"  # key of fairseq's incremental state


# The model's options as options of fairseq's commands, which offer choices by enums. Spawned trainers get them as a
# pickle, which finds the class by its module.
FairseqPMLMConfig = make_dataclass(
    "FairseqPMLMConfig",
    [
        (
            option.name,
            ChoiceEnum(list(config.CHOICES[option.name])),
            field(default=option.default, metadata=option.metadata),
        )
        for option in fields(PMLMConfig)
        if option.name in config.CHOICES
    ],
    bases=(PMLMConfig, FairseqDataclass),
    namespace={"__module__": __name__},
)


@register_model("pmlm", dataclass=FairseqPMLMConfig)
class FairseqPMLM(PMLMModel, BaseFairseqModel):
    """A pseudo-masked language model for all of fairseq's entry points; its parameters are those of the plain model."""

    def __init__(self, cfg: PMLMConfig, dictionary: Symbols, tokenizer: Optional[str] = None):
        super().__init__(cfg, dictionary, tokenizer)
        self.labels: Optional[list[str]] = None  # names of the task's classes, if it has any
        # Views, not submodules: they own no parameters, and no key may appear twice in the state dict.
        object.__setattr__(self, "encoder", SourceEncoder(self))
        object.__setattr__(self, "decoder", IncrementalDecoder(self))

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
        config.check(cfg)
        labels = task_labels(task)
        tokenizer = tokenizer_files.find(getattr(task.cfg, "data", "") or "")
        model = cls(cfg, task.source_dictionary, tokenizer and tokenizer_files.fingerprint(tokenizer))
        model.labels = labels
        return model

    def register_classification_head(self, name, num_classes, inner_dim=None, labels=None, **_) -> None:
        """Add ``classification_heads.NAME``, as fairseq's ``sentence_prediction`` does; its classes are the task's."""
        super().register_classification_head(name, num_classes, inner_dim, labels or self.labels)

    def forward(self, predict: Predict = LOGITS, **net_input):  # type: ignore[override]  # fairseq's words
        """Predict, from a batch in fairseq's words.

        Args:
            predict: what to predict.
            net_input: slots, as :func:`fairseq_pmlm.data.collate.collate` makes them, or the arguments of
                :meth:`lay_out`.

        Returns:
            for slots, or where *predict* has targets, what :meth:`PMLM.forward` returns; otherwise a tuple of that and
            None, as fairseq expects.
        """
        if "src_tokens" not in net_input:
            select = net_input.pop("select", predict.select)
            return super().forward(net_input, predict._replace(select=select))
        output = super().forward(*self.lay_out(predict, **net_input))
        return output if isinstance(output, Losses) else (output, None)

    def lay_out(
        self,
        predict: Predict,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        prev_output_tokens: Optional[Tensor] = None,
        pseudo_tokens: Optional[Tensor] = None,
        shown_target: Optional[Tensor] = None,
        shown_source: Optional[Tensor] = None,
        features_only: bool = False,
        classification_head_name: Optional[str] = None,
    ) -> tuple[dict[str, Any], Predict]:
        """Lay out a batch of texts or pairs in slots.

        Args:
            predict: what to predict; *features_only* and *classification_head_name*, fairseq's words for texts, take
                its place.
            src_tokens: int64 (batch, source), ``<s> ... </s>``, padded on the right.
            src_lengths: int64 (batch,), lengths without padding.
            prev_output_tokens: int64 (batch, target), ``</s> x1 x2 ...``, the target shifted by one, right-padded;
                None for texts.
            pseudo_tokens: int64 (batch, target), what the [P] slots show in training, or None for [P].
            shown_target, shown_source: what training shows in place of *prev_output_tokens* and *src_tokens*, or None.
            features_only: predict hidden states (batch, source, dim).
            classification_head_name: predict with this head.

        Returns:
            slots, and what to predict.
        """
        if features_only or classification_head_name is not None or prev_output_tokens is None:
            if classification_head_name is not None:
                predict = Predict(head=f"classification_heads.{classification_head_name}")
            elif features_only:
                predict = HIDDEN
            first_only = classification_head_name is not None
            return text_slots(src_tokens, self.dictionary.eos(), self.cfg.num_segments, first_only), predict
        if not self.training:  # corruption is for training, whatever the data set
            pseudo_tokens = shown_target = shown_source = None
        source = src_tokens if shown_source is None else shown_source
        target = prev_output_tokens if shown_target is None else shown_target
        assert src_lengths is not None
        pad, segments = self.dictionary.pad(), (self.cfg.source_segment, self.cfg.target_segment)
        if self.cfg.finetune_mode == "causal":
            return causal_slots(source, src_lengths, target, pad, segments), predict
        slots = seq2seq_slots(source, src_lengths, target, pad, self.pseudo_index, segments, pseudo_tokens)
        return slots, predict

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        """(Log-)probabilities in fp32 from what :meth:`forward` returned for a batch of pairs."""
        logits = net_output[0].float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)

    def upgrade_state_dict_named(self, state_dict, name):
        """Check a checkpoint against this model before fairseq loads it strictly; see :func:`loading.prepare`."""
        super().upgrade_state_dict_named(state_dict, name)
        reading = context.current()
        loading.prepare(self, state_dict, reading.where, reading.finetuning)


class SourceEncoder:
    """What fairseq's generators call the encoder: keys and values of the source in every layer of the backbone."""

    def __init__(self, model: FairseqPMLM):
        self.model = model

    def forward_torchscript(self, net_input: dict[str, Tensor]) -> Cache:
        """Encode ``src_tokens`` int64 (batch, source) of ``src_lengths`` int64 (batch,)."""
        return encode_source(self.model, net_input["src_tokens"], net_input["src_lengths"])

    def reorder_encoder_out(self, encoder_out: Cache, new_order: Tensor) -> Cache:
        """Keep the beams *new_order*, int64 (rows,), in place: of sources and of targets."""
        encoder_out.reorder(new_order)
        return encoder_out


class IncrementalDecoder(FairseqIncrementalDecoder):
    """What fairseq's generators call the decoder. It owns no parameters."""

    def __init__(self, model: FairseqPMLM):
        super().__init__(model.dictionary)
        object.__setattr__(self, "model", model)  # not a submodule: the model owns this view, not the other way round

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, **kwargs):
        """Logits for the token that follows *prev_output_tokens*.

        Args:
            prev_output_tokens: int64 (rows, step), </s> and the tokens chosen so far; rows = sentences x beams. Only
                the causal mode reads </s>.
            encoder_out: the :class:`Cache` that :class:`SourceEncoder` returned; the target's slots are added to it.
            incremental_state: dictionary that remembers between steps whose targets the cache holds. With another one,
                or with None, the targets start over.

        Returns:
            a tuple: logits (rows, 1, vocab_size), and None.
        """
        state = incremental_state if incremental_state is not None else {}
        if state.get(CACHE) is not encoder_out:
            encoder_out.forget_targets()
            state[CACHE] = encoder_out
        return next_logits(self.model, encoder_out, prev_output_tokens), None

    def max_positions(self):
        """Longest target, in tokens with </s>."""
        return self.model.max_decoder_positions()


def architecture(layers: int, width: int, heads: int):
    """A function that fills in what the command line (or a checkpoint) leaves open."""
    named = {"encoder_layers": layers, "encoder_embed_dim": width, "encoder_attention_heads": heads}

    def fill(args):
        if getattr(args, "arch_from", None):  # fairseq passes what was given, and no default
            take_from(args.arch_from, args, named if args.arch in ARCHITECTURES else {})
            args.arch_from = None  # not to be looked for again when this model is loaded
        args.encoder_layers = getattr(args, "encoder_layers", layers)
        args.encoder_embed_dim = getattr(args, "encoder_embed_dim", width)
        args.encoder_attention_heads = getattr(args, "encoder_attention_heads", heads)
        args.encoder_ffn_embed_dim = getattr(args, "encoder_ffn_embed_dim", 4 * args.encoder_embed_dim)

    return fill


for _name, _shape in ARCHITECTURES.items():
    register_model_architecture("pmlm", _name)(architecture(*_shape))
# register_model has given "pmlm" a function that does nothing: it is whatever the options say
ARCH_CONFIG_REGISTRY["pmlm"] = architecture(*ARCHITECTURES["pmlm_base"])


def task_labels(task) -> Optional[list[str]]:
    """Names of the classes of a ``sentence_prediction`` task; None for regression and for other tasks.

    Raises:
        PMLMError: it prepares texts in another way than PMLM reads them, or its classes are not ``--num-classes``.
    """
    dictionary = getattr(task, "label_dictionary", None)
    if dictionary is None:
        return None
    bos = task.source_dictionary.bos()
    if task.cfg.init_token != bos:
        raise PMLMError(
            f"a PMLM classifies at <s>, which --init-token {bos} puts first; given is {task.cfg.init_token}"
        )
    if task.cfg.separator_token is not None:
        raise PMLMError(
            f"--separator-token {task.cfg.separator_token}: a PMLM reads pairs as <s> a </s> b </s>; leave it out"
        )
    if str(task.cfg.shorten_method) == "random_crop":
        raise PMLMError("--shorten-method random_crop may cut off <s>, at which a PMLM classifies; use truncate")
    if task.cfg.regression_target:
        return None
    labels = label_names(dictionary)
    if len(labels) != task.cfg.num_classes:
        raise PMLMError(
            f"{task.cfg.data}/label/dict.txt has {len(labels)} classes ({', '.join(labels[:10])}), and the head has "
            f"{task.cfg.num_classes} (--num-classes)"
        )
    return labels
