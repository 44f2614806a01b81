"""Import a module of ours as soon as another package has been imported, by whatever code."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class AfterImport:
    """A finder for :data:`sys.meta_path` that imports *follower* right after *package*, once.

    Until then, asking where *package* lies (``importlib.util.find_spec``) changes nothing. What a missing or broken
    *package* raises is left as it is.
    """

    def __init__(self, package: str, follower: str):
        self.package, self.follower = package, follower

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """The spec that the other finders have of *package*; executing it imports *follower*, too."""
        if name != self.package:
            return None
        sys.meta_path.remove(self)  # ask the others
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                importlib.import_module(self.follower)

        setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 (of this loader alone; mypy minds the assignment)
        return spec
