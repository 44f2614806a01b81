"""A trained model in Python, without fairseq: texts in; texts, classes and features out.

from fairseq_pmlm import PMLMModel

model = PMLMModel.from_pretrained("checkpoints/reviews", data_name_or_path="data-bin/reviews")
model.extract_features(model.encode("A text."))
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from .data.cutting import cut
from .data.masking import ordinary_types
from .generation import gaps, infilling
from .generation.sequence_generator import SearchOptions, SequenceGenerator, find_symbols
from .model import loading
from .model.batch_layout import text_slots
from .model.config import seq2seq_limits
from .model.heads import ClassificationHead
from .model.pmlm import HIDDEN, PMLM, Predict
from .tokenizers import files as tokenizer_files
from .tokenizers.base import Tokenizer
from .tokenizers.dictionary import Dictionary, load_dictionary
from .utils.batching import batches
from .utils.errors import PMLMError

logger = logging.getLogger(__name__)

CHECKPOINTS = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
ARCHIVE = re.compile(r"\.(tar|tgz|zip|gz|bz2|xz)$")

Texts = Union[str, tuple[str, str]]  # a text, or a pair
Tokens = Union[Tensor, Sequence[Tensor]]


class PMLMModel(PMLM):
    """The model, with ``from_pretrained`` as fairseq's models have it."""

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: Optional[str] = None,
        data_name_or_path: Optional[str] = None,
    ) -> "PMLMInterface":
        """A trained model with its tokenizer, to be used from Python.

        Args:
            model_name_or_path: directory with the checkpoint; nothing is downloaded or unpacked.
            checkpoint_file: its name there (default: the first that exists of model.pt, checkpoint_best.pt and
                checkpoint_last.pt).
            data_name_or_path: directory with dict.txt and the tokenizer file (default: that of the checkpoint).

        Raises:
            PMLMError: see :func:`from_pretrained`.
        """
        return from_pretrained(model_name_or_path, checkpoint_file, data_name_or_path)


def from_pretrained(folder: str, checkpoint_file: Optional[str] = None, data: Optional[str] = None) -> "PMLMInterface":
    """Load a checkpoint for use; see :meth:`PMLMModel.from_pretrained`.

    Raises:
        PMLMError: *folder* is not a local directory, something is missing in it, or the files do not belong together.
    """
    folder = os.fspath(folder)
    if "://" in folder or ARCHIVE.search(folder):
        raise PMLMError(f"{folder}: only a local directory can be loaded, not an address or archive; unpack it first")
    if not os.path.isdir(folder):
        raise PMLMError(f"{folder}: no such directory")
    names = [checkpoint_file] if checkpoint_file else CHECKPOINTS
    path = next((p for p in (os.path.join(folder, name) for name in names) if os.path.isfile(p)), None)
    if path is None:
        if checkpoint_file and os.path.isdir(os.path.join(folder, checkpoint_file)):
            raise PMLMError(f"{os.path.join(folder, checkpoint_file)} is a directory; give a checkpoint in it")
        raise PMLMError(f"{folder}: the directory has no {' or '.join(names)}")
    data = folder if data is None else os.fspath(data)
    dictionary = load_dictionary(data)
    tokenizer_file = tokenizer_files.find(data)
    if tokenizer_file is None:
        raise PMLMError(f"{data}: the directory of dict.txt has no {' or '.join(tokenizer_files.KINDS)}")
    tokenizer = tokenizer_files.load(tokenizer_file)
    model, task = loading.load(path, dictionary, tokenizer.fingerprint(), PMLMModel)
    return PMLMInterface(model, dictionary, tokenizer, task).eval()


class Filled(NamedTuple):
    """A text whose gaps are filled.

    text: the whole text.
    spans: what fills each gap.
    logprob: of all that was filled in, in nats.
    """

    text: str
    spans: list[str]
    logprob: float


class PMLMInterface(nn.Module):
    """A model with its dictionary and tokenizer; nothing here records gradients.

    Args:
        model: in evaluation mode.
        dictionary: of the model.
        bpe: the tokenizer.
        trained_for: the options of the task that the model was trained for; "_name" is its name.
    """

    def __init__(
        self, model: PMLM, dictionary: Dictionary, bpe: Tokenizer, trained_for: Optional[dict[str, Any]] = None
    ):
        super().__init__()
        self.model, self.dictionary, self.bpe = model, dictionary, bpe
        self.trained_for = trained_for or {}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.device

    def encode(self, text: str, *more: str) -> Tensor:
        """``<s> text </s>``, and what *more* there is, each ending in </s>, as int64 (length,)."""
        symbols = " </s> ".join(self.bpe.encode(part) for part in (text, *more))
        line = self.dictionary.encode_line(f"<s> {symbols}", append_eos=True, add_if_not_exist=False)
        return line.long()

    def decode(self, tokens: Tensor) -> Union[str, list[str]]:
        """The text of int64 (length,); of several texts, each ending in </s>, a list of them."""
        if tokens.dim() != 1:
            raise PMLMError(f"decode() takes the tokens of one text, (length,), not {tuple(tokens.shape)}")
        ignored = {self.dictionary.bos(), self.dictionary.pad()}
        parts: list[list[str]] = [[]]
        for token in tokens.tolist():
            if token == self.dictionary.eos():
                parts.append([])
            elif token not in ignored:
                parts[-1].append(self.dictionary[token])
        if len(parts) > 1 and not parts[-1]:
            parts.pop()
        texts = [self.bpe.decode(" ".join(part)) for part in parts]
        return texts if len(texts) > 1 else texts[0]

    def collate(self, tokens: Tokens) -> Tensor:
        """Texts, int64 (length,) each, as a batch (texts, longest), padded on the right; one text is a batch of one.

        Raises:
            PMLMError: none are given; one is longer than the position table, or has a token beyond the dictionary.
        """
        lines = [tokens] if isinstance(tokens, Tensor) and tokens.dim() <= 1 else list(tokens)
        for line in lines:
            if not isinstance(line, Tensor) or line.dim() != 1 or line.is_floating_point() or not len(line):
                raise PMLMError(f"tokens are what encode() returns, int64 (length,), not {line!r:.80}")
            if not 0 <= line.min() <= line.max() < len(self.dictionary):
                raise PMLMError(
                    f"token {line[(line < 0) | (line >= len(self.dictionary))][0]}: the dictionary has "
                    f"{len(self.dictionary)} types"
                )
        if not len(lines):
            raise PMLMError("no texts were given")
        longest, limit = max(map(len, lines)), self.model.cfg.max_positions
        if longest > limit:
            raise PMLMError(f"a text of {longest} tokens is longer than the model's {limit} positions; cut it")
        return pad_sequence(lines, batch_first=True, padding_value=self.dictionary.pad()).to(self.device)

    @torch.no_grad()
    def extract_features(self, tokens: Tokens, return_all_hiddens: bool = False) -> Union[Tensor, list[Tensor]]:
        """Hidden states of the last layer, (batch, length, dim).

        Args:
            tokens: int64 (length,), or (batch, length) padded on the right, or a list of texts.
            return_all_hiddens: return a list instead: the embeddings, then what each layer makes of them.
        """
        batch = self.collate(tokens)
        states, backbone = [], self.model.backbone
        with contextlib.ExitStack() as stack:
            if return_all_hiddens:
                for module in (backbone.dropout, *backbone.layers):
                    handle = module.register_forward_hook(lambda module, inputs, output: states.append(output))
                    stack.callback(handle.remove)
            features = self.model(self.slots(batch), HIDDEN)
        return states if return_all_hiddens else features

    def slots(self, batch: Tensor, first_only: bool = False) -> dict[str, Any]:
        """Slots of texts, int64 (texts, longest), padded; see :func:`text_slots`."""
        return text_slots(batch, self.dictionary.eos(), self.model.cfg.num_segments, first_only)

    def find_head(self, name: str) -> ClassificationHead:
        """The classification head *name*.

        Raises:
            PMLMError: the model has no such head.
        """
        heads = self.model.classification_heads
        if name not in heads:
            there = ", ".join(heads) or "none; fine-tune with --task sentence_prediction"
            raise PMLMError(f"the checkpoint has no classification head {name!r}; its heads: {there}")
        head = heads[name]
        assert isinstance(head, ClassificationHead)
        return head

    @torch.no_grad()
    def predict(self, head: str, tokens: Tokens, return_logits: bool = False) -> Tensor:
        """Log-probabilities (batch, classes) of a classification head; of one for regression, its numbers (batch, 1).

        Args:
            head: its name; ``model.find_head(head).labels`` are the classes.
            tokens: as for :meth:`extract_features`.
            return_logits: return the outputs of the head as they are.
        """
        self.find_head(head)
        batch = self.collate(tokens)
        logits = self.model(self.slots(batch, first_only=True), Predict(head=f"classification_heads.{head}"))
        numbers = logits.size(-1) == 1
        return logits if return_logits or numbers else torch.log_softmax(logits.float(), dim=-1)

    def predict_texts(
        self, head: str, texts: Iterable[Texts], max_tokens: int = 4096, truncate: bool = False, progress: bool = False
    ) -> Tensor:
        """Outputs (texts, classes) of a head for any number of texts or pairs, in their order.

        Texts of similar length share a batch.

        Args:
            head: its name.
            texts: each a text, or a tuple of two.
            max_tokens: tokens of a batch, with padding.
            truncate: cut texts beyond the position table at their end, as ``--shorten-method truncate`` does.
            progress: show a progress bar, on a terminal.

        Raises:
            PMLMError: no such head; a text is too long.
        """
        if isinstance(texts, str):
            raise PMLMError("predict_texts() takes a list of texts, not one text")
        classes = self.find_head(head).out_proj.out_features
        limit = self.model.cfg.max_positions
        lines = [self.encode(*([text] if isinstance(text, str) else text)) for text in texts]
        long = [i for i, line in enumerate(lines) if len(line) > limit]
        if long and not truncate:
            raise PMLMError(
                f"{len(long):,} of {len(lines):,} texts are longer than the model's {limit} positions (the first is "
                f"number {long[0] + 1}, with {len(lines[long[0]])} tokens); cut them with --shorten-method truncate"
            )
        lines = [line[:limit] for line in lines]
        outputs = torch.empty(len(lines), classes)
        with tqdm(total=len(lines), unit=" texts", disable=None if progress else True) as bar:
            for rows in batches([len(line) for line in lines], max_tokens):
                outputs[rows] = self.predict(head, [lines[i] for i in rows], return_logits=True).float().cpu()
                bar.update(len(rows))
        return outputs

    @torch.no_grad()
    def fill_mask(self, text: str, topk: int = 5) -> list[tuple[str, float, str]]:
        """The best types for ``<mask>`` in *text*, which holds it once: (text with it, probability, symbol) each."""
        parts = text.split("<mask>")
        if topk < 1:
            raise PMLMError(f"fill_mask() takes a topk of 1 or more, not {topk}")
        if len(parts) != 2:
            raise PMLMError(f"fill_mask() takes a text with one <mask>, not {len(parts) - 1}: {text!r}")
        left, right = (self.bpe.encode(part) for part in parts)
        line = self.dictionary.encode_line(f"<s> {left} <mask> {right}", append_eos=True, add_if_not_exist=False).long()
        place = line.tolist().index(self.dictionary.index("<mask>"))
        features = self.model.outputs(self.slots(self.collate(line)), HIDDEN)
        probabilities = self.model.output_layer(features[0, place]).float().softmax(dim=-1)
        ordinary = torch.from_numpy(ordinary_types(self.dictionary))
        best = probabilities.cpu()[ordinary].topk(min(topk, len(ordinary))).indices
        found = []
        for index in ordinary[best].tolist():
            line[place] = index
            found.append((str(self.decode(line)), float(probabilities[index]), self.dictionary[index]))
        return found

    def infill(
        self,
        text: str,
        beam: int = 5,
        nbest: int = 1,
        steps: str = "token",
        order: str = "left-to-right",
        seed: int = 1,
    ) -> list[Filled]:
        """The best ways to fill the gaps of a text, the best one first; for a model trained with ``--task pmlm``.

        Args:
            text: with gaps: ``<mask>`` for one token, ``<mask:3>`` for three.
            beam: width of the search.
            nbest: how many to return, at most *beam*.
            steps: what is predicted at once: a ``token``, a ``span``, or ``all``; ``ae``: all, by autoencoding.
            order: of the steps: ``left-to-right``, ``right-to-left``, or ``random``.
            seed: of the random order.

        Raises:
            PMLMError: no gap, a text that is too long, or an option out of its range.
        """
        if not 1 <= nbest <= beam:
            raise PMLMError(f"infill() takes a beam of 1 or more, and an nbest of 1 to beam, not {beam} and {nbest}")
        if seed < 0:
            raise PMLMError(f"infill() takes a seed of 0 or more, not {seed}")
        if steps not in (*gaps.UNITS, "ae") or order not in gaps.ORDERS:
            raise PMLMError(
                f"infill() takes steps {', '.join(gaps.UNITS)} or ae, and order {', '.join(gaps.ORDERS)}, not "
                f"{steps!r} and {order!r}"
            )
        tokens, places = gaps.encode(text, self.bpe, self.dictionary, "infill()")
        if len(tokens) > self.model.cfg.max_positions:
            raise PMLMError(f"infill(): {len(tokens)} tokens; the model has {self.model.cfg.max_positions} positions")
        unit = "all" if steps == "ae" else steps
        mask = gaps.factorize(places, unit, order, np.random.default_rng(seed))
        gapped = infilling.Gapped(tokens, np.zeros_like(tokens), mask)
        (found,) = infilling.infill(self.model, [gapped], beam, autoencoding=steps == "ae")
        return [self.describe_filling(gapped, places, filling) for filling in found[:nbest]]

    def describe_filling(self, gapped: infilling.Gapped, places: Sequence[range], filling: infilling.Filling) -> Filled:
        """A filling as text; *places* are those of each gap."""
        tokens = gapped.tokens.copy()
        tokens[gapped.mask.positions] = filling.tokens
        symbols = [self.dictionary[token] for token in tokens.tolist()]
        spans = [self.bpe.decode(" ".join(symbols[gap.start : gap.stop])).strip() for gap in places]
        return Filled(self.bpe.decode(" ".join(symbols[1:-1])), spans, float(filling.logprobs.sum()))

    @torch.no_grad()
    def generate(
        self, sources: Union[str, Sequence[str]], beam: int = 5, batch_size: int = 32, **options: Any
    ) -> Union[str, list[str]]:
        """The best target of each source; for a model fine-tuned with ``--task pmlm_seq2seq``.

        Args:
            sources: texts; or one of them, for one result.
            beam: width of the search.
            batch_size: sources of a batch.
            options: those of :class:`~fairseq_pmlm.generation.sequence_generator.SearchOptions`, which
                ``fairseq-generate`` has as well, such as ``max_len_b=48, no_repeat_ngram_size=3``;
                ``no_repeat_ngram_ignore`` is words or signs, separated by spaces.

        Raises:
            PMLMError: no such option, or a wrong value; a source is too long, and the model does not say what to cut.
        """
        if isinstance(sources, str):
            return self.generate([sources], beam, batch_size, **options)[0]
        if batch_size < 1:
            raise PMLMError(f"generate() takes a batch_size of 1 or more, not {batch_size}")
        known = {field.name for field in fields(SearchOptions)}
        for name in options:
            if name not in known:
                raise PMLMError(f"generate() has no option {name!r}; its options: {', '.join(sorted(known))}")
        if "no_repeat_ngram_ignore" in options:
            options["no_repeat_ngram_ignore"] = find_symbols(self.dictionary, options["no_repeat_ngram_ignore"])
        generator = SequenceGenerator([self.model], SearchOptions(beam=beam, **options))
        lines = self.encode_sources(sources)
        results = [""] * len(lines)
        ignored = {self.dictionary.eos(), self.dictionary.pad()}
        order = np.argsort([-len(line) for line in lines], kind="stable").tolist()
        for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            batch = pad_sequence([lines[i] for i in rows], batch_first=True, padding_value=self.dictionary.pad())
            lengths = torch.tensor([len(lines[i]) for i in rows], device=self.device)
            for row, hypotheses in zip(rows, generator.generate(batch.to(self.device), lengths), strict=True):
                symbols = (self.dictionary[t] for t in hypotheses[0]["tokens"].tolist() if t not in ignored)
                results[row] = self.bpe.decode(" ".join(symbols))
        return results

    def encode_sources(self, sources: Sequence[str]) -> list[Tensor]:
        """``<s> source </s>`` of each, int64 (length,), cut as the model's options say.

        Raises:
            PMLMError: one is too long, and the options do not say what to cut.
        """
        limit, keep = seq2seq_limits(self.model.cfg)[0], str(self.model.cfg.cut_source)
        lines = [self.encode(source) for source in sources]
        empty = sum(len(line) == 2 for line in lines)
        if empty:
            logger.warning(f"{empty:,} of {len(lines):,} sources are empty; so will their targets be")
        long = [i for i, line in enumerate(lines) if len(line) > limit]
        if not long:
            return lines
        count = f"{len(long):,} of {len(lines):,} sources are longer than --max-source-positions {limit}"
        if keep == "none":
            raise PMLMError(
                f"{count} (the first is number {long[0] + 1}, the longest has {max(map(len, lines))} tokens), and the "
                "model was not told which part of such a source to keep; cut them"
            )
        logger.warning(f"{count}: cut to their {keep}")
        for i in long:
            lines[i] = torch.cat([lines[i][:1], cut(lines[i][1:], limit - 1, keep, self.dictionary.eos())])
        return lines
