"""What the machine refuses while a file is read is never taken for the file's own fault."""

import errno
import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.errors import DatasetInvalid
from app.ingest.formats.arrow_rows import ArrowRows
from app.ingest.formats.parquet_rows import ParquetRows
from app.ingest.formats.unpack import Unpacked
from app.ingest.limits import Limits

TABLE = pa.table({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})


def fail(*_, **__):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def break_off(*_, **__):
    raise OSError("the footer is cut off")


@pytest.fixture
def paths(tmp_path):
    """One file of each kind."""
    found = {kind: tmp_path / kind for kind in ("parquet", "arrow", "gzip")}
    pq.write_table(TABLE, found["parquet"])
    with pa.ipc.new_file(str(found["arrow"]), TABLE.schema) as writer:
        writer.write_table(TABLE)
    found["gzip"].write_bytes(gzip.compress(b"{}\n"))
    return found


OPENINGS = {
    "parquet": (pq, "ParquetFile", ParquetRows),
    "arrow": (pa, "OSFile", ArrowRows),
    "gzip": (gzip.GzipFile, "read", Unpacked),
}


@pytest.mark.parametrize("kind", OPENINGS)
def test_opening(paths, monkeypatch, kind):
    module, name, reader = OPENINGS[kind]
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        reader(paths[kind], Limits())
    monkeypatch.setattr(module, name, break_off)
    with pytest.raises(DatasetInvalid):
        reader(paths[kind], Limits())


@pytest.mark.parametrize("reader", [ParquetRows, ArrowRows])
def test_reading(paths, monkeypatch, reader):
    rows = reader(paths["parquet" if reader is ParquetRows else "arrow"], Limits())
    monkeypatch.setattr(reader, "batches", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        list(rows)
    monkeypatch.setattr(reader, "batches", break_off)
    with pytest.raises(DatasetInvalid, match="Near row 1"):
        list(rows)
