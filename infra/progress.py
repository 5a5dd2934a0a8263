"""Progress bars on standard error."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(label: str, total: int, unit: str = "query") -> Any:
    """A context whose value advances a progress bar on standard error."""
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def bar() -> Any:
        with tqdm(total=total, desc=label, unit=unit, file=sys.stderr) as shown:
            yield shown.update

    return bar()
