"""A module that is imported as soon as another package is, whatever happens on the way."""

import importlib
import importlib.util
import sys

import pytest

from fairseq_pmlm.utils.after_import import AfterImport


@pytest.fixture
def finder(tmp_path, monkeypatch):
    """Waits for the package ``led``, to import ``following``; both lie in the folder that is returned with it."""
    (tmp_path / "following.py").write_text("import led\n\nbefore = led.executed\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [AfterImport("led", "following"), *sys.meta_path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield sys.meta_path[0], tmp_path
    for name in ("led", "led.part", "following"):
        sys.modules.pop(name, None)


def write(folder, content):
    (folder / "led").mkdir(exist_ok=True)
    (folder / "led" / "__init__.py").write_text(content)
    (folder / "led" / "part.py").touch()
    importlib.invalidate_caches()


@pytest.mark.parametrize("name", ["led", "led.part"])
def test_it_follows_the_package_or_any_part_of_it(finder, name):
    write(finder[1], "executed = True\n")
    importlib.import_module(name)
    assert sys.modules["following"].before
    assert finder[0] not in sys.meta_path


def test_to_ask_whether_the_package_is_there_changes_nothing(finder):
    assert importlib.util.find_spec("led") is None
    write(finder[1], "executed = True\n")
    for _ in range(2):
        assert importlib.util.find_spec("led").name == "led"
    assert "following" not in sys.modules
    importlib.import_module("led")
    assert "following" in sys.modules


def test_what_is_missing_or_broken_says_so_itself_and_may_be_imported_later(finder):
    with pytest.raises(ModuleNotFoundError, match="No module named 'led'"):
        importlib.import_module("led")
    write(finder[1], "raise ValueError('broken')\n")
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("led")
    assert "following" not in sys.modules
    write(finder[1], "executed = 'at last'\n")
    importlib.import_module("led")
    assert sys.modules["following"].before == "at last"


def test_two_of_them_for_one_package(finder):
    sys.meta_path.insert(0, AfterImport("led", "led.part"))
    write(finder[1], "executed = True\n")
    importlib.import_module("led")
    assert {"following", "led.part"} <= sys.modules.keys()
