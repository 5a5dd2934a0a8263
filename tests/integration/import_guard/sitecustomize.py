"""Put on PYTHONPATH: every process it reaches fails to import what only training needs."""

import sys
from importlib.abc import MetaPathFinder

FORBIDDEN = {"torch", "transformers", "sklearn", "prefect", "evidently", "matplotlib", "pandera"}


class Guard(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"the import guard forbids {name}")
        return None


sys.meta_path.insert(0, Guard())
