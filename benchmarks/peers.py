"""What the benchmarks share: the models that are compared, with random weights, and runs that take turns."""

import statistics
import time
from argparse import Namespace

import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel, base_architecture

from fairseq_pmlm.model.config import PMLMConfig
from fairseq_pmlm.tasks.model import FairseqPMLM


def dictionary(types: int) -> Dictionary:
    """A dictionary of so many *types*, with <mask> and <pseudo>."""
    found = Dictionary()
    for i in range(types - 6):
        found.add_symbol(f"w{i}")
    found.add_symbol("<mask>")
    found.add_symbol("<pseudo>")
    return found


def build_ours(layers: int, width: int, symbols: Dictionary, **options) -> FairseqPMLM:
    """One stack of *layers* for source and target."""
    cfg = PMLMConfig(
        encoder_layers=layers,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=width // 64,
        **options,
    )
    return FairseqPMLM(cfg, symbols, None)


def build_fairseq(layers: int, width: int, symbols: Dictionary, positions: int = 1024) -> TransformerModel:
    """fairseq's Transformer, half of the *layers* in the encoder and half in the decoder."""
    options = Namespace(
        encoder_layers=layers // 2,
        decoder_layers=layers // 2,
        encoder_embed_dim=width,
        decoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        decoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        share_all_embeddings=True,
        attention_dropout=0.1,
        max_source_positions=positions,
        max_target_positions=positions,
    )
    base_architecture(options)
    task = Namespace(source_dictionary=symbols, target_dictionary=symbols)
    return TransformerModel.build_model(options, task)


def take_turns(systems: dict, rounds: int, clock=time.perf_counter) -> dict[str, list[float]]:
    """Seconds of each system, a function without arguments, in each round; systems run one after the other."""
    times = {name: [] for name in systems}
    for _ in range(rounds):
        for name, run in systems.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    return times


def print_table(times: dict[str, list[float]], amount: float, unit: str, reference: str = "ours") -> None:
    """Medians of *amount* per second, and the median over rounds of each system's time as a multiple of one's."""
    name_of = reference if reference in times else next(iter(times))
    ratios = ratios_of(times, name_of)
    print(f"| system | {unit}/s | time, as a multiple of {name_of} |\n|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {amount / statistics.median(seconds):,.2f} | {statistics.median(ratios[name]):.2f} |")


def ratios_of(times: dict[str, list[float]], reference: str) -> dict[str, list[float]]:
    """Each system's time as a multiple of the *reference*'s, in each round."""
    return {
        name: [x / own for x, own in zip(seconds, times[reference], strict=True)] for name, seconds in times.items()
    }


def print_ratios(ratios: dict[str, list[float]], what: str, reference: str) -> None:
    """Medians and ranges over rounds."""
    print(f"| {what} | time, as a multiple of {reference} | range |\n|---|---|---|")
    for name, found in ratios.items():
        print(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} to {max(found):.2f} |")


def draw_ratios(ratios: dict[str, list[float]], reference: str, title: str, path: str) -> None:
    """Medians as bars, with their ranges over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    middle = [statistics.median(found) for found in ratios.values()]
    ends = [[m - min(found) for m, found in zip(middle, ratios.values(), strict=True)]]
    ends.append([max(found) - m for m, found in zip(middle, ratios.values(), strict=True)])
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.35 * len(ratios)), layout="constrained")
    axes.barh(list(ratios), middle, xerr=ends, color=["#888888" if x == reference else "#4477aa" for x in ratios])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"time of a step, as a multiple of {reference}")
    axes.set_title(title, fontsize=9)
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def describe_machine() -> str:
    """For the line under a table."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"
