"""Files as users have them: every kind either reads, or is refused by name and place."""

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.data.tables import limits
from models.data.tables.raw_table import as_written
from models.data.tables.read import SUFFIXES, read_table_file
from models.errors import EvaluationSetError

ROWS = [("1", "a b", "x"), ("2", "c\nd", "")]


def lines(delimiter: str = ",", end: str = "\n") -> str:
    head = delimiter.join(("id", "text", "note"))
    return end.join((head, *(delimiter.join(f'"{c}"' for c in row) for row in ROWS))) + end


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", lines().encode()),
        ("t.csv", lines().encode("utf-8-sig")),
        ("t.csv", lines().encode("utf-16")),
        ("t.csv", lines(end="\r\n").encode()),
        ("t.csv", lines(";").encode()),
        ("t.csv", lines("\t").encode()),
        ("t.csv", ("\n\n" + lines() + "\n\n").encode()),
        ("t.csv", lines().rstrip("\n").encode()),
        ("t.csv", lines().replace("note\n", "note,\n").replace('""\n', '"",,\n').encode()),
        ("t.csv", lines().replace("id,text", " id , text").encode()),
        ("t.csv.gz", gzip.compress(lines().encode(), mtime=0)),
    ],
)
def test_every_kind_of_csv_reads_the_same(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    table = read_table_file(tmp_path / name)
    assert {k: list(v) for k, v in table.columns.items()} == {
        "id": ["1", "2"],
        "text": ["a b", "c\nd"],
        "note": ["x", ""],
    }


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\nid,text\n1,"a\nb\nc"\n\n2,d\n3,e,f\n4\n5,g\n')
    table = read_table_file(path)
    assert list(table.places) == [3, 7, 10]
    assert [(bad.place, bad.problem) for bad in table.bad] == [
        (8, "has 3 cells, the header 2"),
        (9, "has 1 cell, the header 2"),
    ]
    path = tmp_path / "t.jsonl"
    path.write_text(
        '\n{"id": 1}\n\n{"id": 2, "x": [1, {"é": null}]}\n{"id"\n[1]\n{"id":1,"id":2}\n'
    )
    table = read_table_file(path)
    assert list(table.places) == [2, 4]
    assert table.columns["x"] == [None, '[1, {"é": null}]']
    assert [(bad.place, bad.content) for bad in table.bad] == [
        (5, '{"id"'),
        (6, "[1]"),
        (7, '{"id":1,"id":2}'),
    ]


def test_every_kind_of_arrow_column_is_read_as_written(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": "hi"}], None]
    table = pa.table(
        {
            "int8": pa.array([1, None], pa.int8()),
            "uint64": pa.array([2**64 - 1, 1], pa.uint64()),
            "half": pa.array([0.5, None], pa.float16()),
            "decimal": pa.array([1, None], pa.decimal128(10, 2)),
            "bool": [True, None],
            "category": pa.array(["x", None]).dictionary_encode(),
            "numbers": pa.array([5, 6]).dictionary_encode(),
            "large": pa.array(["x", "y"], pa.large_string()),
            "bytes": pa.array([b"x", b"\xff"]),
            "date": pa.array([0, 1], pa.date32()),
            "time": pa.array([2**62, 1], pa.timestamp("ns")),
            "chat": chats,
            "null": pa.nulls(2),
            "struct": [{"a": 1}, {"a": None}],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    read = read_table_file(tmp_path / "t.parquet")
    shown = {name: [as_written(v) for v in read.columns[name]] for name in table.schema.names}
    assert shown == {
        "int8": [1, None],
        "uint64": [2**64 - 1, 1],
        "half": [0.5, None],
        "decimal": ["1.00", None],
        "bool": [True, None],
        "category": ["x", None],
        "numbers": [5, 6],
        "large": ["x", "y"],
        "bytes": ["x", "\ufffd"],
        "date": ["1970-01-01", "1970-01-02"],
        "time": ["2116-02-20 23:53:38.427387904", "1970-01-01 00:00:00.000000001"],
        "chat": ['[{"role": "user", "content": "hi"}]', None],
        "null": [None, None],
        "struct": ['{"a": 1}', '{"a": null}'],
    }
    assert (read.unit, list(read.places)) == ("row", [1, 2])


def test_a_column_that_pandas_made_the_index_is_still_a_column(tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"id": [7], "x": [1]}).set_index("id").to_parquet(tmp_path / "t.parquet")
    assert list(read_table_file(tmp_path / "t.parquet").columns["id"]) == [7]


def test_text_that_is_not_utf8_in_parquet_stays_bytes(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\x00\x00\x00\x00\x01\x00\x00\x00"), pa.py_buffer(b"\xff")
    )
    pq.write_table(pa.table({"x": broken}), tmp_path / "t.parquet")
    assert read_table_file(tmp_path / "t.parquet").columns["x"] == [b"\xff"]


UNUSABLE = {
    "t.csv": [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"a,b\n1,\xe9\n", r"line 2: byte 0xe9 is not UTF-8"),
        (b"a,b\n" * 9000 + b"1,\xe9\n", r"line 9001: byte 0xe9 is not UTF-8"),
        (b"a,b,a\n1,2,3\n", r"the column 'a' is duplicated \(columns 1 and 3\)"),
        (b'a,b\n1,2\n1,"x\n3,4\n', "line 3: the row that starts here opens a quote"),
        (b'a,b\n1,"x"y\n', "line 2: a quoted cell goes on after its closing quote"),
        (gzip.compress(b"a,b\n", mtime=0), "is gzip-compressed; add .gz"),
        (b"PK\x03\x04xxxx", "is a ZIP archive or an Excel workbook"),
        (b"PAR1xxxx", "is Parquet"),
        (b"a\x00,\x00b\x00\n\x00", "holds NUL bytes"),
        (b"\xff\xfea", "is not valid UTF-16"),
        (b"\xff\xfe\x00\x00a\x00\x00\x00", "is UTF-32"),
        (b"," * 6000 + b"a", "is missing|columns|is empty|a"),
    ],
    "t.csv.gz": [
        (b"a,b\n", "cannot be decompressed"),
        (gzip.compress(b"a,b\n" * 999, mtime=0)[:-10], "cannot be"),
        (gzip.compress(b"a,b\n" * 999, mtime=0)[:-4] + b"xxxx", "cannot be"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03xxxxxxxxxxxxx", "cannot be decompressed"),
        (b"", "is empty"),
    ],
    "t.jsonl": [
        (b"", "is empty"),
        (b'[{"a": 1},\n{"a": 2}]', "line 1: a JSON array; write one object a line"),
        (b"[\n", "line 1: a JSON array"),
        (b'{"a": 1}\n{"a": "\xe9"}', r"line 2: byte 0xe9"),
    ],
    "t.parquet": [
        (b"", "is not a readable Parquet file"),
        (b"PAR1PAR1", "is not a readable Parquet file"),
        (b"a,b\n", "is not a readable Parquet file"),
    ],
    "t.txt": [(b"a", "is of an unknown kind; known: .parquet, .csv")],
}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [(n, d, m) for n, cases in UNUSABLE.items() for d, m in cases],
)
def test_a_file_that_cannot_be_read_says_why(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    if data.startswith(b",,"):
        assert read_table_file(path).columns == {"a": []}
        return
    with pytest.raises(EvaluationSetError, match=message) as error:
        read_table_file(path)
    assert str(path) in str(error.value)


def test_special_files_are_refused_at_once(tmp_path: Path) -> None:
    kinds: dict[str, Callable[[Path], None]] = {
        "a named pipe": os.mkfifo,
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a folder": Path.mkdir,
        "no such file": lambda path: path.symlink_to(tmp_path / "nowhere"),
    }
    for suffix in SUFFIXES:
        for kind, make in kinds.items():
            path = tmp_path / f"{kind.replace(' ', '')}{suffix}"
            make(path)
            with pytest.raises(EvaluationSetError, match=kind):
                read_table_file(path)


def test_a_symlink_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("a\n1\n")
    (tmp_path / "t.csv").symlink_to(tmp_path / "real")
    assert read_table_file(tmp_path / "t.csv").columns == {"a": ["1"]}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches in no time."""
    monkeypatch.setattr(limits, "MOST_CELL", 1000)
    monkeypatch.setattr(limits, "MOST_BYTES", 100_000)
    monkeypatch.setattr(limits, "MOST_ROWS", 10_000)
    monkeypatch.setattr(limits, "MOST_LINES", 20_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n" + "x" * 5000, "line 2: longer than"),
        ('a\n"' + "x\n" * 5000, "line 2: a cell is longer than"),
        ("\n" * 30_000, "holds more than"),
        ("a\n" + "1\n" * 12_000, "line 10002: more than 10,000 rows"),
        (("a" * 500 + "\n") * 300, "holds more than"),
    ],
)
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_text_that_is_too_much_is_refused(
    suffix: str, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(
        gzip.compress(text.encode(), mtime=0) if suffix.endswith("gz") else text.encode()
    )
    if path.stat().st_size > limits.MOST_BYTES:
        message = "at most 0.1 MiB are read"
    with pytest.raises(EvaluationSetError, match=message):
        read_table_file(path)


def test_the_csv_limit_of_the_process_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "t.csv").write_text("a\n" + "x" * 200_000 + "\n")
    assert len(read_table_file(tmp_path / "t.csv").columns["a"][0]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("depth", [500, 200_000])
def test_deep_json_is_a_bad_row(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": ' + "[" * depth + "]" * depth + '}\n{"a": ' + "[" * depth + "\n")
    table = read_table_file(path)
    assert {bad.place for bad in table.bad} in ({2}, {1, 2})


def parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path, compression="zstd")
    return path


def test_parquet_bombs_are_refused_before_they_expand(tmp_path: Path) -> None:
    one = pa.array(["x" * (4 << 20)])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), one)
    codes = [None, pa.py_buffer(bytes(4 * 6_000_000))]
    rows = pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), 6_000_000, codes), pa.array(["x"])
    )
    deep: pa.DataType = pa.string()
    for _ in range(40):
        deep = pa.list_(deep)
    bombs = {
        "expands to more than": pa.table({"a": repeated}),
        "holds 6,000,000 rows": pa.table({"a": rows}),
        "nested more than 32 deep": pa.table({"a": pa.nulls(1).cast(deep)}),
        "has 2,001 columns": pa.table({f"c{i}": pa.nulls(1) for i in range(2001)}),
    }
    for message, table in bombs.items():
        path = parquet(tmp_path / "bomb.parquet", table)
        assert path.stat().st_size < 4 << 20
        with pytest.raises(EvaluationSetError, match=message):
            read_table_file(path)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def compact(number: int) -> bytes:
    """A number in Thrift's compact form."""
    return varint(2 * number)


def footer_of(depth: int, rows: int) -> bytes:
    """A Parquet file of nothing but a footer, whose schema nests so deep."""
    group = b"\x35" + compact(1) + b"\x18\x01a" + b"\x15" + compact(1) + b"\x00"
    leaf = b"\x15" + compact(6) + b"\x25" + compact(1) + b"\x18\x01a\x00"
    schema = b"\x19\xfc" + varint(depth + 1) + group * depth + leaf
    footer = b"\x15" + compact(1) + schema + b"\x16" + compact(rows) + b"\x19\x0c\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    ("depth", "rows", "message"),
    [
        (20, 10**12, "holds 1,000,000,000,000 rows"),
        (20, 5, "holds 0 rows but claims 5"),
        (100, 0, "nested more than 32 deep"),
        (100_000, 0, "is not a readable Parquet file"),
    ],
)
def test_a_forged_footer_is_refused(depth: int, rows: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(footer_of(depth, rows))
    with pytest.raises(EvaluationSetError, match=message):
        read_table_file(tmp_path / "t.parquet")


def test_columns_that_are_not_asked_for_are_not_decoded(tmp_path: Path) -> None:
    one = pa.array(["x" * (4 << 20)])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), one)
    path = parquet(tmp_path / "t.parquet", pa.table({"a": repeated, "b": pa.nulls(100_000)}))
    assert read_table_file(path, ["b"]).columns["a"] is None


def test_a_pickled_extension_type_in_parquet_does_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    field = pa.field(
        "a",
        pa.int64(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(Evil()),
        },
    )
    pq.write_table(pa.table({"a": [1]}, schema=pa.schema([field])), tmp_path / "t.parquet")
    assert list(read_table_file(tmp_path / "t.parquet").columns["a"]) == [1]
    assert not (tmp_path / "pwned").exists()


def test_a_row_is_shown_as_written(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"a": 1.5, "b": None, "c": {"d": [True]}, "e": float("nan")}))
    assert read_table_file(path).content(0) == {
        "a": 1.5,
        "b": None,
        "c": '{"d": [true]}',
        "e": "nan",
    }
