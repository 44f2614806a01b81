"""fairseq_pmlm.checkpoints.safe_load: what a checkpoint may hold is loaded as it was, and nothing in it runs."""

import argparse
import collections
import contextlib
import os
import pickle
import re
import shlex
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.logging import meters
from omegaconf import OmegaConf

from fairseq_pmlm.checkpoints import safe_load, stand_ins
from fairseq_pmlm.fairseq_patches.checkpoint_reading import fairseq_types
from fairseq_pmlm.utils.errors import PMLMError

OLD = Path(__file__).parent / "old_checkpoints"
# what a pickle may name -> what is used in its place: ours, where fairseq reads its own classes, and without omegaconf
IN_PLACE = [
    *stand_ins.allowed_types().items(),
    *fairseq_types().items(),
    *stand_ins.plain_containers().items(),
]

NUMBERS = [
    np.float64(1.5),
    np.float32(-2),
    np.float16(0.5),
    np.int64(-3),
    np.uint8(7),
    np.bool_(True),
    np.complex64(1j),
]


@pytest.mark.parametrize("number", [*NUMBERS, np.array(258, ">i4")[()]], ids=lambda n: n.dtype.name)
def test_numpy_scalars_keep_type_and_value(number, tmp_path):
    for module in ("numpy._core", "numpy.core"):  # how numpy 2 and numpy 1 pickle
        pickled = pickle.dumps(number, protocol=2).replace(b"numpy._core.", f"{module}.".encode())
        loaded = load_pickle(pickled, tmp_path)
        assert loaded == number
        assert loaded.dtype == number.dtype


def test_omegaconf_containers_load(tmp_path):
    # what rank 0 broadcasts: the configuration as a container, with the model's options in it
    tree = {"a": 1, "b": [1.5, "x", None, True, {"c": b"d"}], "ref": "${a}", "model": argparse.Namespace(arch="m")}
    config = OmegaConf.create(tree, flags={"allow_objects": True})
    OmegaConf.set_struct(config, True)
    loaded = load_pickle(pickle.dumps(config, protocol=2), tmp_path)
    assert OmegaConf.is_struct(loaded)
    assert loaded == config
    assert loaded.ref == 1
    assert OmegaConf.to_container(loaded) == OmegaConf.to_container(config)


def other_data():
    """fairseq's own classes as the module's today and before 2020 write them, and what they hold."""
    dictionary = Dictionary()
    dictionary.add_symbol("word")
    average = meters.AverageMeter(round=2)
    average.update(3, 2)
    data = {"state": dictionary, "n": collections.Counter(a=1), "size": torch.Size([2]), "p": _TensorPlaceholder(4)}
    data["meter"] = average
    pickled = pickle.dumps(data, protocol=2)
    assert b"fairseq.logging.meters" in pickled
    return data, [pickled, pickled.replace(b"fairseq.logging.meters", b"fairseq.meters")]


def test_fairseq_reads_its_own_classes(tmp_path):
    data, pickles = other_data()
    for pickled in pickles:
        loaded = load_pickle(pickled, tmp_path, types=fairseq_types())
        meter = loaded.pop("meter")
        assert type(meter) is meters.AverageMeter
        assert meter.avg == 3
        assert loaded == {name: value for name, value in data.items() if name != "meter"}


def test_fairseq_s_reader_of_files_gives_its_own_classes(tmp_path):
    """What a broadcast needs is tried in test_distributed."""
    data, _ = other_data()
    path = str(tmp_path / "model.pt")
    torch.save({**safe_load.torch_load(OLD / "pretraining.pt"), "task_state": data}, path)
    found = checkpoint_utils.load_checkpoint_to_cpu(path)["task_state"]
    assert [type(found[name]) for name in data] == [type(value) for value in data.values()]


def test_others_get_the_attributes(tmp_path):
    data, pickles = other_data()
    for pickled in pickles:
        loaded = load_pickle(pickled, tmp_path)
        for name in ("state", "p", "meter"):
            assert isinstance(loaded[name], stand_ins.Attributes)
            assert type(loaded[name]).__name__ == type(data[name]).__name__
            assert vars(loaded[name]) == vars(data[name])
        assert (loaded["n"], loaded["size"]) == (data["n"], data["size"])
        assert (loaded["state"].symbols[-1], loaded["p"].index, loaded["meter"].sum) == ("word", 4, 6)


def test_a_class_of_fairseq_s_that_the_user_allows_is_the_real_one(tmp_path):
    _, (pickled, _) = other_data()
    with torch.serialization.safe_globals([Dictionary]):
        before = set(torch.serialization.get_safe_globals())
        loaded = load_pickle(pickled, tmp_path)
        assert set(torch.serialization.get_safe_globals()) == before
    assert type(loaded["state"]) is Dictionary
    assert isinstance(loaded["meter"], stand_ins.Attributes)


# no module of the package but those of the room and below is imported here
WITHOUT = """
    import pickle, sys, types

    for name in {blocked!r}:
        sys.modules[name] = None
    package = types.ModuleType("fairseq_pmlm")
    package.__path__ = [{package!r}]
    sys.modules["fairseq_pmlm"] = package

    from fairseq_pmlm.checkpoints import architecture, context, metadata, safe_load, stand_ins

    found = safe_load.torch_load({path!r}, map_location="cpu")
    """
BLOCKED = ("fairseq", "fairseq_cli", "omegaconf", "hydra")


def without_fairseq(path, code, blocked=BLOCKED):
    """What *code* prints about a checkpoint read where some packages are not to be had."""
    code = textwrap.dedent(WITHOUT).format(blocked=blocked, package=str(ROOT / "fairseq_pmlm"), path=str(path)) + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["pretraining", "seq2seq", "classification", "squad"])
def test_old_checkpoints_load_without_fairseq(name, tmp_path):
    """Everything in them, to the bit: parameters, state of the optimizer, options."""
    copy = tmp_path / "copy.pt"
    code = f"import torch; torch.save(found, {str(copy)!r}); architecture.check_sizes(found, 'it')\n"
    code += f"print(architecture.stored_options({str(OLD / f'{name}.pt')!r})['encoder_embed_dim'])"
    assert without_fairseq(OLD / f"{name}.pt", code) == "24\n"
    here, there = safe_load.torch_load(OLD / f"{name}.pt"), safe_load.torch_load(copy)
    assert equal(here, there)
    assert len(here["model"]) > 20
    assert here["last_optimizer_state"]


def equal(one, two):
    """Whether two contents of checkpoints are the same, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    if isinstance(one, argparse.Namespace):
        return equal(vars(one), vars(two))
    return type(one) is type(two) and one == two


def configured():
    tree = {"a": 1, "b": [1.5, "x", None, True, {"c": b"d"}], "ref": "${a}", "model": argparse.Namespace(arch="m")}
    return OmegaConf.create({**tree, "unknown": "???", "nothing": None}, flags={"allow_objects": True})


@pytest.mark.parametrize("blocked", [BLOCKED, ("fairseq", "fairseq_cli")], ids=["no omegaconf", "no fairseq"])
def test_meters_and_containers_load_without_fairseq(blocked, tmp_path):
    data, _ = other_data()
    data |= {"cfg": configured(), "args": argparse.Namespace(lr=[0.1]), "best": np.float64(1.5)}
    data |= {"none": OmegaConf.create({"a": None}), "w": torch.randn(50)}
    OmegaConf.update(data["none"], "a", OmegaConf.create(None))
    torch.save(data, tmp_path / "old.pt")
    found = without_fairseq(
        tmp_path / "old.pt",
        """
print(vars(found["meter"])["sum"], found["state"].symbols[-1], found["p"].index, found["args"].lr, found["best"])
cfg = found["cfg"] if not hasattr(found["cfg"], "_get_node") else {}
print(isinstance(found["cfg"], dict), {key: value for key, value in cfg.items() if key != "model"})
print(cfg["model"].arch if cfg else found["cfg"].model.arch, found["none"])
print(found["w"].numpy().tobytes().hex())
""",
        blocked,
    )
    numbers, container, model, weights = found.splitlines()
    assert numbers == "6 word 4 [0.1] 1.5"
    if "omegaconf" in blocked:
        expected = {"a": 1, "b": [1.5, "x", None, True, {"c": b"d"}], "ref": "${a}", "unknown": "???", "nothing": None}
        assert container == f"True {expected}"
    else:
        assert container == "False {}"
    assert model == "m {'a': None}"
    assert weights == data["w"].numpy().tobytes().hex()


class Call:
    """Pickles as a call of *function*."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


def load_pickle(pickled: bytes, tmp_path, **options):
    """Load a pickle as the content of a checkpoint."""
    path = tmp_path / "model.pt"
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    with path.open("rb") as file:
        return safe_load.torch_load(file, map_location="cpu", **options)


def call_by_name(function: str, argument: str = "touch x") -> bytes:
    module, name = function.rsplit(".", 1)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + pickle.dumps(argument, 2)[2:-1] + b"\x85R."


GADGETS = shlex.split("""
    os.system posix.system subprocess.Popen builtins.eval builtins.exec builtins.getattr builtins.__import__
    builtins.open builtins.map builtins.type builtins.object operator.attrgetter operator.methodcaller
    operator.getitem _operator.getitem functools.partial functools.reduce importlib.import_module pickle.loads
    codecs.decode enum.Enum torch.load torch.hub.load torch.jit.load numpy.load numpy.fromfile
    numpy._core.multiarray._reconstruct copyreg._reconstructor fairseq.utils.eval_str_list
    fairseq.utils.import_user_module fairseq.dataclass.constants.ChoiceEnum
    fairseq.logging.meters.MetersDict._DerivedMeter omegaconf.OmegaConf.load omegaconf.resolvers.oc.env
    typing.get_type_hints typing.ForwardRef pathlib.PosixPath hydra.utils.instantiate
""")


@pytest.mark.parametrize("function", GADGETS)
def test_calls_in_a_checkpoint_are_refused_by_name(function, tmp_path):
    with pytest.raises(PMLMError) as error:
        load_pickle(call_by_name(function), tmp_path)
    assert f"holds {function}," in str(error.value)
    assert str(tmp_path / "model.pt") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("forced", ["", "1"], ids=["", "torch told to execute"])
def test_malicious_checkpoint_executes_nothing(zipped, forced, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    proof, path = tmp_path / "executed", tmp_path / "model.pt"
    attack = Call(os.system, f"touch {proof}")
    torch.save({"model": attack, "cfg": None}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PMLMError, match=r"model\.pt holds posix\.system, .* could run code"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not proof.exists()
    # the attack is real: this is what weights_only=False does
    torch.load(path, weights_only=False)
    assert proof.exists()


class Canary:
    """Tells when it is called. If nothing calls this, nothing calls what a checkpoint can hold instead."""

    called = False

    def __call__(self, *args, **kwargs):
        Canary.called = True


@pytest.mark.parametrize("kind", [kind for _, kind in IN_PLACE], ids=[name for name, _ in IN_PLACE])
def test_allowed_types_are_data(kind):
    """Whatever its arguments and state: no allowed type calls what it is given, evaluates, runs or opens anything."""
    canary, code, Canary.called = Canary(), "__import__('os').system('touch x')", False
    values = [
        canary,
        os.system,
        code,
        "${oc.env:HOME}",
        {"_target_": "os.system", "a": code},
        [canary],
        argparse.Namespace,
    ]
    states = [{"a": canary}, {"__class__": Canary}, {"__setstate__": canary}, {"_metadata": canary}, (3, canary, code)]
    states += [{"_content": content} for content in (None, code, canary, {canary: canary}, [canary])]
    ran = []

    def audit(event, args):  # an audit hook cannot be removed again
        if listening and event in ("exec", "compile", "open", "os.system", "subprocess.Popen", "socket.connect"):
            ran.append((event, args))

    listening = False
    sys.addaudithook(audit)
    # how a pickle makes an object: by a call, or empty
    makers = [kind, lambda *given: kind.__new__(kind, *given)] if isinstance(kind, type) else [kind]
    for make in makers:
        for arguments in [(), *((a,) for a in values), *((a, b) for a in values for b in values), (canary,) * 4]:
            for state in states:
                with contextlib.suppress(Exception):  # refusing is fine
                    listening = True
                    made = make(*arguments)
                    # how torch's unpickler sets a state
                    if hasattr(made, "__setstate__"):
                        made.__setstate__(state)
                    elif isinstance(state, dict):
                        made.__dict__.update(state)
                        for key, value in state.items():
                            setattr(made, key, value)
                listening = False
    assert not Canary.called
    assert ran == []


def test_dtype_stand_in_takes_numbers_only(tmp_path):
    for code in ("O8", "O", "V8", "f8,O", "S5", "M8[s]", "object"):
        with pytest.raises(PMLMError, match=re.escape(f"holds numpy.dtype({code!r})")):
            load_pickle(pickle.dumps(Call(np.dtype, code), 2), tmp_path)
    scalar = np.float64(1).__reduce__()[0]
    for data in (b"", b"1234567", b"123456789", "12345678"):  # not the size of a float64
        with pytest.raises(PMLMError, match="not the bytes of one number"):
            load_pickle(pickle.dumps(Call(scalar, np.dtype("f8"), data), 2), tmp_path)


class Unknown:
    pass


def test_unknown_type_is_named_and_can_be_allowed(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"extra_state": {"mine": Unknown()}}, path)
    with pytest.raises(PMLMError, match=rf"checkpoint {path} holds {__name__}\.Unknown, .* not loaded") as error:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert "\n" not in str(error.value)
    before = torch.serialization.get_safe_globals()
    mine = [Unknown, (argparse.Namespace, "argparse.Namespace")]  # the second is on our list as well
    with torch.serialization.safe_globals(mine):
        assert isinstance(safe_load.torch_load(path)["extra_state"]["mine"], Unknown)
        # nothing of ours stays, and nothing of the user's goes
        assert set(torch.serialization.get_safe_globals()) == {*before, *mine}


# ---------------------------------------------------------------------------------------------------------------------
# small files that claim much


def save_and_load(content, tmp_path, **options):
    path = tmp_path / "model.pt"
    torch.save(content, path, **options)
    return safe_load.torch_load(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_larger_than_the_file_are_refused(zipped, tmp_path):
    options = {"_use_new_zipfile_serialization": zipped}
    one = torch.ones(1)
    with pytest.raises(PMLMError, match=r"model\.pt: 'w' is not sound: a tensor of 4,000,000,000,000 bytes"):
        save_and_load({"model": {"w": one.expand(10**12)}}, tmp_path, **options)
    with pytest.raises(PMLMError, match=r"'w' is not sound"):
        save_and_load({"model": [argparse.Namespace(a={"w": one.expand(2, 2)})]}, tmp_path, **options)
    assert save_and_load({"a": one.expand(1, 1), "b": torch.zeros(0), "c": torch.ones(4, 4).t()}, tmp_path, **options)
    shared = torch.ones(1000)  # views of one storage count once
    assert len(save_and_load([shared[i : i + 500] for i in range(400)], tmp_path, **options)) == 400


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 20_000
    with pytest.raises(PMLMError, match=r"model\.pt is compressed: 4,\d+,\d+ bytes in a file of"):
        safe_load.torch_load(path)


def test_bytes_by_their_number_are_refused(tmp_path):
    for zipped in (True, False):
        with pytest.raises(PMLMError, match=r"holds builtins\.bytearray"):
            save_and_load({"a": Call(bytearray, 10**11)}, tmp_path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("kind", [str, bytes, list, dict, tuple, int, float, bool])
def test_types_of_python_cannot_be_called(kind, tmp_path):
    """str(lists within lists) and list(bytes(n)) fill any memory."""
    with pytest.raises(PMLMError, match="not a checkpoint"):
        load_pickle(pickle.dumps(Call(kind, 10**4), 2), tmp_path)


@pytest.mark.parametrize("kind", [*stand_ins.OMEGACONF, *stand_ins.FAIRSEQ])
@pytest.mark.parametrize("types", [{}, stand_ins.plain_containers()], ids=["", "no omegaconf"])
def test_types_of_omegaconf_and_fairseq_cannot_be_called(kind, types, tmp_path):
    with pytest.raises(PMLMError, match=re.escape(f"holds {kind}(...)")):
        load_pickle(call_by_name(kind, "x"), tmp_path, types=types)


def test_lists_within_lists_are_counted(tmp_path):
    nested = ["x"]
    for _ in range(40):
        nested = [nested] * 10
    with pytest.raises(PMLMError, match=r"not sound: lists within lists that stand for [\d,]+ values"):
        save_and_load({"cfg": nested}, tmp_path)
    nested = []
    for _ in range(400):  # deep, but small
        nested = [nested]
    assert save_and_load({"cfg": nested}, tmp_path)
    itself = [1]
    itself.append({"a": itself})
    with pytest.raises(PMLMError, match="a list in it holds itself"):
        save_and_load({"cfg": itself}, tmp_path)
    with pytest.raises(PMLMError, match="a list in it holds itself"):
        save_and_load({"args": argparse.Namespace(_parent=itself)}, tmp_path)


def test_what_stands_in_for_omegaconf_is_bounded_and_copies_nothing(tmp_path):
    plain = {"types": stand_ins.plain_containers()}
    config = OmegaConf.create({"a": [1, {"b": (2, 3)}]}, flags={"allow_objects": True})
    content = {"n": collections.Counter(a=2), "t": (config, torch.Size([2])), "c": config.a, "v": config._get_node("a")}
    loaded = load_pickle(pickle.dumps(content, 2), tmp_path, **plain)
    expected = [1, {"b": [2, 3]}]
    assert loaded == {"n": {"a": 2}, "t": ({"a": expected}, torch.Size([2])), "c": expected, "v": expected}
    assert type(loaded["n"]) is collections.Counter
    assert type(loaded["t"][0]) is dict
    assert type(loaded["c"]) is list
    # one state that many containers have, by its place in the pickle
    name = b"comegaconf.dictconfig\nDictConfig\n"
    state = pickle.dumps({"_content": dict.fromkeys(range(1000))}, 2)[2:-1] + b"q\x01"
    first, other = b"\x80\x02](" + name + b")\x81" + state + b"b", name + b")\x81h\x01b"
    loaded = load_pickle(first + 3 * other + b"e.", tmp_path, **plain)
    assert len(loaded) == 4
    assert all(one is loaded[0] for one in loaded)
    with pytest.raises(PMLMError, match="lists within lists that stand for"):
        load_pickle(first + 1000 * other + b"e.", tmp_path, **plain)
    nested = ["x"]
    for _ in range(40):
        nested = [nested] * 10
    config = OmegaConf.create({"a": 1})
    vars(config._get_node("a"))["_val"] = nested
    with pytest.raises(PMLMError, match="lists within lists that stand for"):
        load_pickle(pickle.dumps({"cfg": config}, 2), tmp_path, **plain)
