"""A module of ours that is imported as soon as somebody imports another package."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class AfterImport:
    """A finder for :data:`sys.meta_path` that imports *follower* behind *package*, once, whoever imports that.

    What a missing or broken *package* raises is left as it is.
    """

    def __init__(self, package: str, follower: str):
        self.package, self.follower = package, follower

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """The spec that the other finders have of *package*, with *follower* imported when it has been executed."""
        if name != self.package:
            return None
        sys.meta_path.remove(self)  # so that the others are asked now
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(self.follower)

        setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 (of this loader alone; mypy minds the assignment)
        return spec
