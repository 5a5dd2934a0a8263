"""Tags on disk, so that no query is tagged twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from models.digest import digest_text
from models.domains.taggers import Tagger, Tags


class TagCache:
    """Tags on disk, by tagger and query digest: a JSON line a query in one file per tagger.

    A line that was not written whole is unused.
    """

    def __init__(self, folder: Path, tagger: Tagger) -> None:
        self.tagger = tagger
        self.path = folder / f"{tagger.digest[:16]}.jsonl"
        self._tags: dict[str, Tags] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                key, tags = json.loads(line)
            except ValueError:
                continue
            self._tags[key] = tuple(tags)

    def missing(self, queries: Sequence[str]) -> list[str]:
        """The distinct queries that the tagger would be asked for."""
        return list(self._new(queries).values())

    def _new(self, queries: Sequence[str]) -> dict[str, str]:
        pairs = ((digest_text(query), query) for query in queries)
        return {digest: query for digest, query in pairs if digest not in self._tags}

    def tag(
        self, queries: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Tags]:
        """Tags of each query; only those never seen are asked for."""
        new = self._new(queries)
        if progress is not None:
            progress(len(queries) - len(new))
        keys = list(new)
        chunk = 256  # what an interrupted run loses at most
        for start in range(0, len(keys), chunk):
            part = keys[start : start + chunk]
            self._append(part, self.tagger.tag([new[key] for key in part], progress))
        return [self._tags[digest_text(query)] for query in queries]

    def _append(self, keys: Sequence[str], tags: Sequence[Tags]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = dict(zip(keys, tags, strict=True))
        broken = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as handle:
            handle.write("\n" if broken else "")
            handle.writelines(json.dumps([key, value]) + "\n" for key, value in rows.items())
        self._tags |= rows
