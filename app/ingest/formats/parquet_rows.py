"""Rows of Parquet, a few at a time: a small file can unpack to gigabytes (dictionaries repeat a value a million times)."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.errors import DatasetInvalid
from app.ingest.formats.unpack import check_size
from app.ingest.limits import Limits
from app.ingest.rows import Row

BATCH_ROWS = 128


class ParquetRows:
    """The rows of one file; `bytes_read` counts the unpacked bytes."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.limits = limits
        self.bytes_read = 0
        self.packed_bytes = path.stat().st_size
        try:
            self._file = pq.ParquetFile(
                path,
                buffer_size=2**16,
                pre_buffer=False,
                thrift_string_size_limit=64 * 2**20,
                thrift_container_size_limit=10**6,
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetInvalid(explain(error)) from error
        if self._file.metadata.num_columns > limits.max_columns:
            raise DatasetInvalid(
                f"The file has more than {limits.max_columns:,} columns. Keep those with prompts, responses and ratings."
            )
        names = list(self._file.schema_arrow.names)
        if len(set(names)) != len(names):
            raise DatasetInvalid("The file has two columns of the same name. Give each column its own name.")

    def __iter__(self) -> Iterator[Row]:
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                plain = readable(batch)
                self.bytes_read += plain.nbytes
                check_size(self.bytes_read, self.packed_bytes, self.limits)
                for value in plain.to_pylist():
                    number += 1
                    yield Row(number, value)
        except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
            raise DatasetInvalid(f"Near row {number + 1}: {explain(error)}") from error


def readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Dictionaries as plain values, so that they count in full; times as text, since Python's can't hold nanoseconds."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(index, field.name, batch.column(index).dictionary_decode())
        elif pa.types.is_temporal(field.type):
            batch = batch.set_column(index, field.name, batch.column(index).cast(pa.string()))
    return batch


def explain(error: Exception) -> str:
    """Return a sentence for what Arrow said."""
    text = str(error)
    if "crypt" in text.lower():
        return "The Parquet file is encrypted. Upload it without encryption."
    if isinstance(error, MemoryError):
        return "The Parquet file needs more memory than is allowed: its pages are too large. Write it with smaller row groups."
    if "too deeply nested" in text:
        return "The Parquet file's columns are nested too deeply. Keep those with prompts, responses and ratings."
    said = text.splitlines()[0][:160].rstrip(" .:") if text.strip() else type(error).__name__
    return f"The Parquet file is damaged ({said}). Write it again."
