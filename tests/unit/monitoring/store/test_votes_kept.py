"""A vote that is not on the disk is refused, with its reason."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException

from monitoring.store.inserter import Sink
from monitoring.store.journal import Journal

pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")
VOTE = {"id": "1", "llm": "a", "quality": None, "satisfied": True}


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, 507),
        (errno.EDQUOT, 507),
        (errno.EFBIG, 507),
        (errno.EIO, 503),
        (errno.EROFS, 503),
    ],
)
def test_the_client_learns_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    from serving.http.feedback import append

    journal = Journal(tmp_path, Sink(lambda _: None), 60, synced=True)
    state: Any = SimpleNamespace(journals={"feedback": journal})

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(HTTPException) as caught:
            append(state, [VOTE])
    assert caught.value.status_code == status
    assert os.strerror(number) in caught.value.detail
    assert str(tmp_path) not in caught.value.detail
    assert list(journal.files) == []
    append(state, [VOTE])
    assert list(journal.files) == [VOTE]
    journal.close()
