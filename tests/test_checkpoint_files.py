"""checkpoint_files: writing that fails in every way, and which checkpoint is resumed."""

import errno
import io
import os
import random
import subprocess
import sys

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_pmlm.checkpoints.safe_load import torch_load
from fairseq_pmlm.fairseq_patches import checkpoint_files
from fairseq_pmlm.utils.errors import PMLMError


def state(updates: int) -> dict:
    """What is in a checkpoint of fairseq, as far as it matters which one that is."""
    return {
        "model": {"weight": torch.full((1000,), float(updates))},
        "optimizer_history": [{"num_updates": updates}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": updates}},
    }


def save(directory, name: str, updates: int) -> str:
    path = str(directory / name)
    checkpoint_utils.torch_persistent_save(state(updates), path)
    return path


class FullDisk:
    """``open``, for a disk on which only *room* bytes are free."""

    def __init__(self, room: int, error: int = errno.ENOSPC):
        self.room, self.error, self.opened = room, error, 0

    def __call__(self, path, mode):
        if mode == "rb":
            return open(path, mode)
        self.opened += 1
        file, disk = open(path, mode, buffering=0), self  # noqa: SIM115

        class File(io.RawIOBase):
            def write(self, data):
                disk.room -= len(data)
                if disk.room < 0:
                    file.write(bytes(data)[: len(data) // 2])
                    raise OSError(disk.error, os.strerror(disk.error))
                return file.write(data)

            def writable(self):
                return True

            def fileno(self):
                return file.fileno()

            def close(self):
                file.close()
                super().close()

        return File()


@pytest.mark.parametrize("room", [0, 1, 700, 3000])
@pytest.mark.parametrize("write", ["save", "copy"])
def test_a_full_disk_keeps_what_is_there(tmp_path, monkeypatch, room, write):
    last, other = save(tmp_path, "checkpoint_last.pt", 20), save(tmp_path, "checkpoint_1_40.pt", 40)
    before = sorted(os.listdir(tmp_path))
    disk = FullDisk(room)
    monkeypatch.setattr(checkpoint_files, "open", disk, raising=False)
    with pytest.raises(PMLMError) as error:
        checkpoint_utils.torch_persistent_save(state(40), last) if write == "save" else PathManager.copy(other, last)
    told = "cannot be written: No space left on device; the file of that name is still the one before"
    assert str(error.value) == f"checkpoint {last}: {told}"
    assert disk.opened == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert torch_load(last)["optimizer_history"] == [{"num_updates": 20}]


def test_a_disk_that_thinks_better_of_it(tmp_path, monkeypatch):
    disk, waited = FullDisk(700, errno.EIO), []
    monkeypatch.setattr(checkpoint_files, "open", disk, raising=False)

    def sleep(seconds):
        waited.append(seconds)
        disk.room = 10**6 if len(waited) == 2 else 700

    monkeypatch.setattr(checkpoint_files.time, "sleep", sleep)
    path = save(tmp_path, "checkpoint_last.pt", 20)
    assert waited == [2.5, 2.5]
    # nothing of the first attempts is in it
    assert checkpoint_files.damage(path) is None
    assert torch_load(path)["optimizer_history"] == [{"num_updates": 20}]


def test_a_directory_that_cannot_be_written(tmp_path):
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "new" / "one"))
    assert os.listdir(tmp_path / "new" / "one") == []
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", "/proc/none"):
        with pytest.raises(PMLMError, match=rf"^--save-dir {wrong} cannot be written: "):
            checkpoint_utils.verify_checkpoint_directory(str(wrong))


def test_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda file, fsync=os.fsync: (done.append("sync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *a, replace=os.replace: (done.append("rename"), replace(*a)))
    one = save(tmp_path, "checkpoint_1_20.pt", 20)
    assert PathManager.copy(one, str(tmp_path / "checkpoint_last.pt"), overwrite=True)
    assert done == ["sync", "rename", "sync"] * 2
    assert (tmp_path / "checkpoint_last.pt").stat().st_nlink == 1


def test_one_training_a_directory(tmp_path):
    other = "import sys, fcntl; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{other}; sys.stdin.read()", tmp_path / ".lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(PMLMError, match=f"^another training writes into --save-dir {tmp_path}; give another one$"):
            checkpoint_files.hold(str(tmp_path), seconds=0)
        checkpoint_files.hold(str(tmp_path), "-other", seconds=0)
        process.kill()
        checkpoint_files.hold(str(tmp_path))  # waits for it
    checkpoint_files.hold(str(tmp_path), seconds=0)  # ours
    again = [sys.executable, "-c", other.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB"), tmp_path / ".lock"]
    assert b"BlockingIOError" in subprocess.run(again, capture_output=True).stderr
    checkpoint_files.hold(str(tmp_path / "none"))  # no disk of ours


def test_every_truncation_and_torn_page_is_found(tmp_path):
    path = save(tmp_path, "checkpoint_last.pt", 20)
    with open(path, "rb") as file:
        content = file.read()
    assert checkpoint_files.damage(path) is None
    offsets = random.Random(1).sample(range(1, len(content)), 40)
    for offset in (0, 1, len(content) - 1, len(content) - 30, *offsets):
        (tmp_path / "checkpoint_last.pt").write_bytes(content[:offset])
        found = checkpoint_files.damage(path)
        assert found, offset
        assert found.startswith(("is ", "cannot be read ")), found
        assert "\n" not in found
    # pages that never reached the disk: torch loads this, and says nothing
    start = content.index(torch.full((1000,), 20.0).numpy().tobytes()) + 512
    (tmp_path / "checkpoint_last.pt").write_bytes(content[:start] + bytes(1024) + content[start + 1024 :])
    assert not torch_load(path)["model"]["weight"].eq(20).all()
    assert checkpoint_files.damage(path) == "is damaged (in archive/data/0)"


def test_old_format_is_whole_too(tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    torch.save(state(3), path, _use_new_zipfile_serialization=False)
    assert checkpoint_files.damage(str(path)) is None
    assert checkpoint_files._updates(str(path)) == 3


def test_the_newest_whole_one_is_found(tmp_path):
    directory = str(tmp_path)
    assert checkpoint_files.last_whole(directory) is None
    assert checkpoint_files.last_whole(str(tmp_path / "none")) is None
    last = save(tmp_path, "checkpoint_last.pt", 60)
    for name, updates in (("checkpoint1.pt", 9), ("checkpoint_1_40.pt", 40), ("checkpoint_best.pt", 5)):
        save(tmp_path, name, updates)
    save(tmp_path, "checkpoint.best_loss_2.125.pt", 7)
    for name in ("model.pt", "checkpoint_last-shard0.pt", "crash.pt", "checkpoint_2_99.77.tmp.pt"):
        save(tmp_path, name, 1000)
    assert checkpoint_files.last_whole(directory) is None  # as checkpoint_last.pt is whole
    os.truncate(last, 0)
    assert checkpoint_files.last_whole(directory) == (str(tmp_path / "checkpoint_1_40.pt"), 40, "is empty")
    os.truncate(tmp_path / "checkpoint_1_40.pt", 100)
    assert checkpoint_files.last_whole(directory)[:2] == (str(tmp_path / "checkpoint1.pt"), 9)
    os.remove(last)
    assert checkpoint_files.last_whole(directory) == (str(tmp_path / "checkpoint1.pt"), 9, "is missing")
    assert checkpoint_files.last_whole(directory, besides=str(tmp_path / "checkpoint1.pt")).updates == 7
    assert checkpoint_files.last_whole(directory, "-shard0") is None
    for name in ("checkpoint1.pt", "checkpoint_best.pt", "checkpoint.best_loss_2.125.pt"):
        torch.save({"model": {}}, tmp_path / name)  # parameters alone are no training
    with pytest.raises(PMLMError, match=r"checkpoint_last\.pt is missing, and none of the 4 other checkpoints in"):
        checkpoint_files.last_whole(directory)


def test_none_is_whole(tmp_path):
    os.truncate(save(tmp_path, "checkpoint_last.pt", 60), 300)
    with pytest.raises(PMLMError) as error:
        checkpoint_files.last_whole(str(tmp_path))
    assert "checkpoint_last.pt is cut short (after 300 bytes); to start anew" in str(error.value)
    assert str(error.value).endswith("; to start anew, move them away or give another --save-dir")


def test_what_was_not_finished_is_removed(tmp_path):
    names = ["checkpoint_last.pt", "checkpoint_last.4711.tmp.pt", "checkpoint_1_20.pt.tmp", "other.12.tmp.pt", "a.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    others = ["checkpoint_last-b.7.tmp.pt", "checkpoint3-b.pt.tmp", "checkpoint.best_loss_1.25-b.7.tmp.pt"]
    mine = ["checkpoint12.7.tmp.pt", "checkpoint_best.7.tmp.pt", "checkpoint.best_loss_1.25.7.tmp.pt"]
    for name in (*others[:2], *mine):
        (tmp_path / name).write_bytes(b"x")
    checkpoint_files.remove_unfinished(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(["a.tmp", "checkpoint_last.pt", "other.12.tmp.pt", *others[:2]])
    (tmp_path / others[2]).write_bytes(b"x")
    checkpoint_files.remove_unfinished(str(tmp_path), "-b")
    assert sorted(os.listdir(tmp_path)) == ["a.tmp", "checkpoint_last.pt", "other.12.tmp.pt"]
    checkpoint_files.remove_unfinished(str(tmp_path / "none"))
