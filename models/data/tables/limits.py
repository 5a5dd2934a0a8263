"""How large a table may be: its file, cells, lines and rows, and what a compressed file expands to."""

from __future__ import annotations

from typing import Final

from models.files.regular_file import MIB

# A table is held in memory several times over while it is checked; RouterBench's is 0.4 GiB.
MOST_BYTES: Final = 1024 * MIB
# 100,000 queries answered by 50 LLMs.
MOST_ROWS: Final = 5_000_000
# Lines of a text file; a query may span many.
MOST_LINES: Final = 10 * MOST_ROWS
# One cell or one line of JSON; a million tokens of text are about 4 MiB.
MOST_CELL: Final = 16 * MIB
# RouterBench has three an LLM.
MOST_COLUMNS: Final = 2_000
# Elements of any list in a Parquet file's footer: columns of some levels, row groups. Arrow reads a
# schema by recursion, and tens of thousands of levels overflow its stack.
MOST_ELEMENTS: Final = 4_000
# Conversations nest 4 deep.
MOST_DEPTH: Final = 32
