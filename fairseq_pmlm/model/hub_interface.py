"""A trained model from Python: ``PMLMModel.from_pretrained(dir)``, with the methods that fairseq's hub interfaces have.

model = PMLMModel.from_pretrained("checkpoints/reviews", data_name_or_path="data-bin/reviews")
model.extract_features(model.encode("A text."))
"""

import contextlib
import os
import re
from dataclasses import fields
from typing import Iterable, Optional, Sequence, Union

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

from ..data.masking import ordinary_types
from ..tasks.base import load_dictionary
from ..tasks.pmlm_seq2seq import PMLMSeq2SeqConfig, PMLMSeq2SeqTask
from ..tokenizers import files as tokenizer_files
from ..utils.batching import batches
from ..utils.errors import PMLMError
from .kernels.linear import PackableLinear

CHECKPOINTS = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
ARCHIVE = re.compile(r"\.(tar|tgz|zip|gz|bz2|xz)$")
SEARCH = ("length_penalty_type", "early_stop", "no_repeat_ngram_ignore")  # options that belong to the task

Texts = Union[str, tuple[str, str]]  # a text, or a pair


def load(folder: str, checkpoint_file: Optional[str] = None, data: Optional[str] = None) -> "PMLMHubInterface":
    """Load a checkpoint for use; see :meth:`fairseq_pmlm.model.pmlm.PMLMModel.from_pretrained`.

    Args:
        folder: directory with the checkpoint.
        checkpoint_file: its name there (default: the first that exists of :data:`CHECKPOINTS`).
        data: directory with dict.txt and the tokenizer file (default: *folder*).

    Raises:
        PMLMError: *folder* is no local directory, something is missing in it, or the files do not belong together.
    """
    if "://" in folder or ARCHIVE.search(folder):
        raise PMLMError(f"{folder}: only a local directory can be loaded, no address and no archive; unpack it first")
    if not os.path.isdir(folder):
        raise PMLMError(f"{folder}: there is no such directory")
    names = [checkpoint_file] if checkpoint_file else CHECKPOINTS
    path = next((p for p in (os.path.join(folder, name) for name in names) if os.path.isfile(p)), None)
    if path is None:
        if checkpoint_file and os.path.isdir(os.path.join(folder, checkpoint_file)):
            raise PMLMError(f"{os.path.join(folder, checkpoint_file)} is a directory; give a checkpoint in it")
        raise PMLMError(f"{folder}: there is no {' or '.join(names)}")
    data = folder if data is None else data
    dictionary = load_dictionary(data)
    tokenizer = tokenizer_files.find(data)
    if tokenizer is None:
        raise PMLMError(f"{data}: there is no {' or '.join(tokenizer_files.KINDS)} beside dict.txt")
    # Of the tasks, the one that says how to generate; heads come from the checkpoint, whatever task has made them.
    task = PMLMSeq2SeqTask(PMLMSeq2SeqConfig(data=data, seed=1, fp16=False, bf16=False), dictionary)
    state = checkpoint_utils.load_checkpoint_to_cpu(path)
    if not state.get("model") or not (state.get("cfg") or {}).get("model"):
        raise PMLMError(f"checkpoint {path} does not hold a fairseq_pmlm model")
    model = task.build_model(state["cfg"]["model"], from_checkpoint=True)
    model.load_state_dict(state["model"], strict=True)
    for module in model.modules():
        if isinstance(module, PackableLinear):
            module.make_generation_fast_()
    interface = PMLMHubInterface(task, model, tokenizer_files.load(tokenizer)).eval()
    interface.trained_for = dict(state["cfg"].get("task") or {})
    return interface


class PMLMHubInterface(nn.Module):
    """A model with its dictionary and tokenizer; nothing here records gradients.

    Args:
        task: a ``pmlm_seq2seq`` task that has built the model.
        model: the :class:`~fairseq_pmlm.model.pmlm.PMLMModel`.
        bpe: the tokenizer.
    """

    def __init__(self, task: PMLMSeq2SeqTask, model, bpe):
        super().__init__()
        self.task, self.model, self.bpe = task, model, bpe
        self.dictionary = task.source_dictionary
        self.trained_for: dict = {}  # the options of the task that the checkpoint comes from; "_name" is its name

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.output_layer.bias.device

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
        parts = [[]]
        for token in tokens.tolist():
            if token == self.dictionary.eos():
                parts.append([])
            elif token not in ignored:
                parts[-1].append(self.dictionary[token])
        if len(parts) > 1 and not parts[-1]:
            parts.pop()
        texts = [self.bpe.decode(" ".join(part)) for part in parts]
        return texts if len(texts) > 1 else texts[0]

    def collate(self, lines: Sequence[Tensor]) -> Tensor:
        """Texts, int64 (length,) each, as a batch (texts, longest), padded on the right.

        Raises:
            PMLMError: there is none; one is longer than the position table, or holds what the dictionary does not.
        """
        for line in lines:
            if not isinstance(line, Tensor) or line.dim() != 1 or line.is_floating_point() or not len(line):
                raise PMLMError(f"tokens are what encode() returns, int64 (length,), not {line!r:.80}")
            if not 0 <= line.min() <= line.max() < len(self.dictionary):
                raise PMLMError(
                    f"token {line[(line < 0) | (line >= len(self.dictionary))][0]}: the dictionary has "
                    f"{len(self.dictionary)} types"
                )
        if not len(lines):
            raise PMLMError("there is no text")
        longest, limit = max(map(len, lines)), self.model.cfg.max_positions
        if longest > limit:
            raise PMLMError(f"a text of {longest} tokens is longer than the model's {limit} positions; cut it")
        return data_utils.collate_tokens(list(lines), self.dictionary.pad()).to(self.device)

    @torch.no_grad()
    def extract_features(
        self, tokens: Union[Tensor, Sequence[Tensor]], return_all_hiddens: bool = False
    ) -> Union[Tensor, list[Tensor]]:
        """Hidden states of the last layer, (batch, length, dim).

        Args:
            tokens: int64 (length,), or (batch, length) padded on the right, or a list of texts.
            return_all_hiddens: return a list instead: the embeddings, then what each layer makes of them.
        """
        batch = self.collate([tokens] if isinstance(tokens, Tensor) and tokens.dim() == 1 else tokens)
        states, backbone = [], self.model.backbone
        with contextlib.ExitStack() as stack:
            if return_all_hiddens:
                for module in (backbone.dropout, *backbone.layers):
                    handle = module.register_forward_hook(lambda module, inputs, output: states.append(output))
                    stack.callback(handle.remove)
            features, _ = self.model(src_tokens=batch, features_only=True)
        return states if return_all_hiddens else features

    def find_head(self, name: str) -> nn.Module:
        """The classification head *name*.

        Raises:
            PMLMError: there is none.
        """
        heads = self.model.classification_heads
        if name not in heads:
            there = ", ".join(heads) or "none; fine-tune with --task sentence_prediction"
            raise PMLMError(f"the checkpoint has no classification head {name!r}; there is {there}")
        return heads[name]

    @torch.no_grad()
    def predict(self, head: str, tokens: Union[Tensor, Sequence[Tensor]], return_logits: bool = False) -> Tensor:
        """What a classification head says: log-probabilities (batch, classes); for regression, numbers (batch, 1).

        Args:
            head: its name; ``model.find_head(head).labels`` are the classes.
            tokens: as for :meth:`extract_features`.
            return_logits: its outputs as they are.
        """
        self.find_head(head)
        batch = self.collate([tokens] if isinstance(tokens, Tensor) and tokens.dim() == 1 else tokens)
        logits, _ = self.model(src_tokens=batch, classification_head_name=head)
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
        probabilities = self.model.output_layer(self.extract_features(line)[0, place]).float().softmax(dim=-1)
        ordinary = torch.from_numpy(ordinary_types(self.dictionary))
        best = probabilities.cpu()[ordinary].topk(min(topk, len(ordinary))).indices
        found = []
        for index in ordinary[best].tolist():
            line[place] = index
            found.append((self.decode(line), probabilities[index].item(), self.dictionary[index]))
        return found

    @torch.no_grad()
    def generate(
        self, sources: Union[str, Sequence[str]], beam: int = 5, batch_size: int = 32, **options
    ) -> Union[str, list[str]]:
        """The best target of each source, of a model fine-tuned with ``--task pmlm_seq2seq``.

        Args:
            sources: texts; or one of them, for one result.
            beam: width of the search.
            batch_size: sources of a batch.
            options: of ``fairseq-generate``, such as ``max_len_b=48, no_repeat_ngram_size=3``, and of the task.

        Raises:
            PMLMError: no such option; a source is too long, and the model does not say what to cut.
        """
        if isinstance(sources, str):
            return self.generate([sources], beam, batch_size, **options)[0]
        known = {field.name for field in fields(GenerationConfig)}
        for name in options:
            if name not in known and name not in SEARCH:
                raise PMLMError(f"generate() has no option {name!r}")
        args = OmegaConf.structured(GenerationConfig(beam=beam))
        previous = {name: getattr(self.task.cfg, name) for name in SEARCH}
        for name, value in options.items():
            setattr(self.task.cfg if name in SEARCH else args, name, value)
        try:
            generator = self.task.build_generator([self.model], args)
        finally:
            for name, value in previous.items():
                setattr(self.task.cfg, name, value)
        lines = [
            self.dictionary.encode_line(self.bpe.encode(source), append_eos=True, add_if_not_exist=False).long()
            for source in sources
        ]
        results = [""] * len(lines)
        ignored = {self.dictionary.eos(), self.dictionary.pad()}
        order = np.argsort([-len(line) for line in lines], kind="stable").tolist()
        for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            batch = [lines[i] for i in rows]
            dataset = self.task.build_dataset_for_inference(batch, [len(line) for line in batch])
            sample = dataset.collater([dataset[i] for i in range(len(rows))])
            sample = utils.apply_to_sample(lambda tensor: tensor.to(self.device), sample)
            found = self.task.inference_step(generator, [self.model], sample)
            for place, hypotheses in zip(sample["id"].tolist(), found, strict=True):
                symbols = (self.dictionary[t] for t in hypotheses[0]["tokens"].tolist() if t not in ignored)
                results[rows[place]] = self.bpe.decode(" ".join(symbols))
        return results
