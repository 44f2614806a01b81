"""pmlm report: logs of all forms to one page, in which nothing runs."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from commands import ROOT, call, pmlm
from test_scripts import one_error_line

from fairseq_pmlm.checkpoints.safe_load import torch_load
from fairseq_pmlm.reporting import logs
from fairseq_pmlm.reporting import page as report
from fairseq_pmlm.utils.errors import PMLMError

EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'> \" & $x^2$ \u202e"


def entries(updates=40, **more):
    for i in range(1, updates + 1):
        values = {"epoch": 1, "loss": f"{20 / i:.3f}", "ae_loss": f"{9 / i}", "par_loss": f"{8 / i}", "wpb": "100"}
        yield values | {"num_updates": str(10 * i), "lr": "1e-4", "gnorm": "2", "wps": "5000", "padding": "3"} | more


def valid(updates, **more):
    return {"epoch": 1, "valid_loss": "1.5", "valid_num_updates": str(updates), "valid_f1": "70.5"} | more


FORMS = {
    "output": "2026-01-01 00:00:00 | INFO | train_inner | {}",
    "--log-file": "{}",
    "hydra": "[2026-01-01 00:00:00,123][train_inner][INFO] - {}",
}


def write_log(path, form="output", lines=None, **more):
    lines = [*entries(**more), valid(200), valid(400)] if lines is None else lines
    text = [FORMS[form].format(json.dumps(line)) for line in lines]
    path.write_text("\n".join(["noise", *text, ""]))
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_log_is_read(form, tmp_path):
    log = logs.read(write_log(tmp_path / "train.log", form))
    assert log.curve("loss")[:2] == [(10, 20), (20, 10)]
    assert log.curve("f1", "valid") == [(200, 70.5), (400, 70.5)]
    assert log.tokens()[400] == 400 * 100
    assert (log.unreadable, log.trouble) == (0, {})


def test_a_resumed_run_counts_once(tmp_path):
    first, again = list(entries(30)), list(entries(40, loss="7"))[20:]
    log = logs.read(write_log(tmp_path / "train.log", lines=[*first, *again]))
    assert [u for u, _ in log.curve("loss")] == [10 * i for i in range(1, 41)]
    assert log.curve("loss")[20] == (210, 7)
    assert log.tokens()[400] == 40_000


def test_what_is_broken_is_counted_and_trouble_kept(tmp_path):
    path = tmp_path / "train.log"
    write_log(path)
    broken = ['{"loss": "x", "num_updates": "3"}', '{"loss": 1e999, "num_updates": "NaN"}', '{"a": [}', '{"loss": 1}']
    trouble = ["date | WARNING | fairseq.x | careful", "fairseq_pmlm: error: --x 1 is wrong", "[d][a.b][ERROR] - no"]
    with path.open("a") as f:
        f.write("\n".join([*broken, *trouble, trouble[0], '{"loss": "1.0", "num_upd']))
    log = logs.read(str(path))
    assert log.unreadable == 4
    assert log.trouble == {"warning: careful": 2, "error: --x 1 is wrong": 1, "error: no": 1}
    assert len(log.train) == 40


def test_nan_is_a_gap(tmp_path):
    lines = [
        *entries(5),
        *({"loss": "nan", "num_updates": str(u)} for u in (60, 70)),
        {"loss": "inf", "num_updates": "80"},
    ]
    write_log(tmp_path / "train.log", lines=lines)
    assert "<svg" in report.page(report.find_runs([str(tmp_path)]), 5)


class Page(HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_nothing_in_a_page_runs_or_is_fetched(tmp_path):
    folder = tmp_path / f"run {EVIL.replace('/', '')}"
    folder.mkdir()
    write_log(folder / "train.log", **{"<script>alert(3)</script>": "1", "valid": "2"})
    with (folder / "train.log").open("a") as f:
        f.write(f"date | WARNING | x | {EVIL}\n")
    lines = [f"S-{i}\t{EVIL} source\nT-{i}\t{EVIL}\nD-{i}\t-0.5\t{EVIL} hypothesis {i}" for i in range(3)]
    (folder / "generate.txt").write_text("\n".join(lines) + "\n")
    (folder / "scores.json").write_text(json.dumps({EVIL: {"mean": 17.3}}))
    (folder / "broken.json").write_text("{")
    call("report", folder)
    page = (folder / "report.html").read_text()
    parsed = Page(page)
    assert not {"script", "img", "iframe", "object", "embed", "link", "form", "a", "foreignobject"} & set(
        parsed.elements
    )
    assert {"svg", "table", "h1"} <= set(parsed.elements)
    for name, value in parsed.attributes:
        assert not name.startswith("on"), (name, value)
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("#"), (name, value)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page
    # and all of it is there, to be read
    assert parsed.text.count("<script>alert(1)</script>") >= 3 * 3 + 2
    assert f"{EVIL} hypothesis 2 (-0.50)" in parsed.text
    assert f"warning: {EVIL}" in parsed.text
    assert "17.3" in parsed.text


def test_runs_side_by_side(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_log(tmp_path / name / "train.log", loss="3" if name == "a" else "4")
        (tmp_path / name / "out.txt").write_text(f"S-0\tsource\nT-0\tref\nD-0\t-1\tsaid by {name}\n")
    write_log(tmp_path / "a" / "output.txt", "hydra", loss="3")  # the same run again: fairseq writes both
    runs = report.find_runs([str(tmp_path / "a"), str(tmp_path / "b" / "train.log")])
    assert [run.name for run in runs] == ["a", "train.log"]
    runs = report.find_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    page = report.page(runs, 5)
    for text in ("said by a", "said by b", "Validation: f1", "AE and PAR", "Learning rate"):
        assert text in page
    assert page == report.page(runs, 5)  # no date, no random names
    # a run that has not come to its first validation, and whose name matplotlib would not put into a legend
    (tmp_path / "_new").mkdir()
    (tmp_path / "_new" / "train.log").write_text('{"epoch": 1, "loss": "5", "num_updates": "2"}\n')
    os.mkfifo(tmp_path / "_new" / "pipe.log")  # nobody writes into it
    page = report.page(report.find_runs([str(tmp_path / "a"), str(tmp_path / "_new")]), 5)
    assert Page(page).text.count(" _new") == 2  # in the heading, and in the legend of the loss


def outputs(count, said="words", source="source"):
    return "".join(f"S-{i}\t{source} {i}\nT-{i}\tref\nD-{i}\t-1\t{said} {i}\n" for i in range(count))


@pytest.mark.parametrize(("count", "shown"), [(39, 20), (41, 20), (5, 20), (20, 20), (7, 3)])
def test_samples_are_spread_over_all_of_the_data(count, shown, tmp_path):
    write_log(tmp_path / "train.log")
    (tmp_path / "out.txt").write_text(outputs(count))
    (run,) = report.find_runs([str(tmp_path)])
    text = Page(report.sample_table([run], shown)).text
    numbers = [int(number) for number in re.findall(r"words (\d+)", text)]
    assert len(numbers) == min(count, shown)
    assert f"{len(numbers)} of {count}" in text
    assert set(np.diff([*numbers, count])) <= {count // len(numbers), -(-count // len(numbers))}


def test_only_hypotheses_for_the_same_sources_stand_side_by_side(tmp_path):
    for name, source in (("a", "source"), ("b", "another"), ("c", "source")):
        (tmp_path / name).mkdir()
        write_log(tmp_path / name / "train.log")
        (tmp_path / name / "out.txt").write_text(outputs(2, f"said by {name}", source))
    page = report.page(report.find_runs([str(tmp_path / name) for name in "abc"]), 5)
    rows = [row for row in page.split("<tr>") if "said by" in row]
    assert [re.findall(r"(source|another) \d|said by (\w)", row) for row in rows] == [
        *([("source", ""), ("", "a"), ("", "c")],) * 2,
        *([("another", ""), ("", "b")],) * 2,
    ]


def test_one_run_is_one_whatever_it_lost(tmp_path):
    """--log-file, which does not say what is a warning, beside the output; losses that are NaN are the same in both."""
    lines = [*entries(3), {"loss": "nan", "num_updates": "60"}]
    write_log(tmp_path / "a.log", "--log-file", lines=lines)
    write_log(tmp_path / "b.out", "output", lines=lines)
    with (tmp_path / "b.out").open("a") as f:
        f.write("date | WARNING | x | careful\n")
    (run,) = report.find_runs([str(tmp_path)])
    assert run.log.trouble == {"warning: careful": 1}


def test_many_points_are_averaged():
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    thinned = report.thin(points)
    assert len(thinned) <= report.POINTS
    assert all(0.3 < y < 0.7 for _, y in thinned)
    assert report.thin(points[:100]) == points[:100]
    assert report.thin([]) == []


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(PMLMError, match="none: no such file or directory"):
        report.find_runs([str(tmp_path / "none")])
    (tmp_path / "x.log").write_text("nothing\n")
    with pytest.raises(PMLMError, match=r"nothing logged by fairseq-train --log-format json in any file that ends in"):
        report.find_runs([str(tmp_path)])


@pytest.mark.slow
def test_hydra_trains_by_a_yaml_file_and_the_report_reads_what_it_logs(work, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2}
    values = {f"model.{name}": value for name, value in sizes.items()} | {"model.max_positions": 64}
    values |= {"task.data": work / "text", "task.tokens_per_sample": 32, "common.user_dir": ROOT / "fairseq_pmlm"}
    values |= {"common.cpu": "true", "common.bf16": "false", "common.log_interval": 2, "dataset.max_tokens": 600}
    values |= {"dataset.num_workers": 0, "optimization.update_freq": "[1]", "optimization.max_update": 6}
    values |= {"checkpoint.patience": 9}
    command = "import sys; from fairseq_cli.hydra_train import cli_main; sys.exit(cli_main())"
    options = ["--config-dir", ROOT / "examples", "--config-name", "pretrain", *(f"{k}={v}" for k, v in values.items())]
    done = subprocess.run(
        [sys.executable, "-c", command, *map(str, options)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch_load(str(tmp_path / "checkpoints" / "pretrained" / "checkpoint_last.pt"))
    assert saved["extra_state"]["patience"][1] == 0  # the best is the last
    log = logs.read(str(tmp_path / "pretrain.log"))
    assert [updates for updates, _ in log.curve("par_loss")] == [2, 4, 6]
    wanted = {"loss", "ae_loss", "par_loss", "masked_per_second", "slots_per_second", "padding", "gnorm", "lr", "wps"}
    assert wanted <= log.train[6].keys()
    assert wanted - {"gnorm", "lr"} <= log.parts["valid"][6].keys()
    events = EventAccumulator(str(tmp_path / "checkpoints" / "pretrained" / "tensorboard" / "train_inner"))
    events.Reload()
    assert wanted <= set(events.Tags()["scalars"])
    assert [round(event.value, 2) for event in events.Scalars("par_loss")] == [
        pytest.approx(value, abs=0.01) for _, value in log.curve("par_loss")
    ]
    pmlm("report", tmp_path)
    assert "AE and PAR" in (tmp_path / "report.html").read_text()


def test_one_clear_line(tmp_path):
    one_error_line(pmlm("report", tmp_path / "none", check=False), "none: no such file or directory")


def test_numbers_left_out_are_counted(tmp_path, capsys):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({str(i): i for i in range(report.MOST_SCORES + 3)}))
    assert list(report.read_scores([str(path)]).values()) == list(range(report.MOST_SCORES))
    assert f"{report.MOST_SCORES + 3} numbers" in capsys.readouterr().out
