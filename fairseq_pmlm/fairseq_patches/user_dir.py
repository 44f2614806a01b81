"""``--user-dir`` names this package, by whatever path."""

import os

from .replace import Patch

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def know_user_dir() -> list[Patch]:
    """Take ``--user-dir`` for done where it names this package, which is registered by the time that this is a patch.

    Why: fairseq compares paths as they are spelled. Where both are installed, it finds ``--user-dir fairseq_pmlm`` at
    ``fairseq/../fairseq_pmlm``, which is not how a process that it spawns, or a script that has imported the package
    itself, spells it; and it stops, as the name were "not globally unique".
    """
    from fairseq import utils

    def wrap(original):
        def patched(args):
            user_dir = getattr(args, "user_dir", None)
            if user_dir is None or not names_this_package(user_dir, os.path.dirname(utils.__file__)):
                original(args)

        return patched

    return [Patch(utils, "import_user_module", ["elif module_path in sys.modules[module_name].__path__:"], wrap)]


def names_this_package(user_dir: str, fairseq: str) -> bool:
    """Whether ``--user-dir`` is this package: as a path, or, where there is none, seen from the folder *fairseq*, or
    from the one around it."""
    places = (os.path.abspath(user_dir), os.path.join(fairseq, user_dir), os.path.join(fairseq, "..", user_dir))
    found = next((place for place in places if os.path.exists(place)), None)
    return found is not None and os.path.samefile(found, PACKAGE)
