"""Rows of Parquet, a few at a time: a small file can unpack to gigabytes (dictionaries repeat a value a million times)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.errors import DatasetInvalid
from app.ingest.formats.unpack import check_size
from app.ingest.limits import Limits
from app.ingest.rows import Row
from app.system.files import is_of_the_machine

BATCH_ROWS = 128


class TableRows:
    """The rows of one file of columns; `bytes_read` counts the unpacked bytes."""

    kind = ""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.limits = limits
        self.bytes_read = 0
        self.packed_bytes = path.stat().st_size

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the file's rows, a few at a time."""
        raise pa.ArrowInvalid("a file of an unknown kind")

    def __iter__(self) -> Iterator[Row]:
        number = 0
        try:
            for batch in self.batches():
                plain = readable(batch)
                self.bytes_read += plain.nbytes
                check_size(self.bytes_read, self.packed_bytes, self.limits)
                nested = [field.name for field in plain.schema if pa.types.is_nested(field.type)]
                for value in plain.to_pylist():
                    number += 1
                    for name in nested:
                        value[name] = without_nulls(value[name])
                    yield Row(number, value)
        except (pa.ArrowException, OSError, ValueError) as error:
            if is_of_the_machine(error):
                raise
            raise DatasetInvalid(f"Near row {number + 1}: {self.explain(error)}") from error

    def check_columns(self, names: list[str], num_columns: int) -> None:
        """Raise DatasetInvalid for too many columns, or two of a name."""
        if num_columns > self.limits.max_columns:
            raise DatasetInvalid(
                f"The file has more than {self.limits.max_columns:,} columns. Keep those with prompts, responses and ratings."
            )
        if len(set(names)) != len(names):
            raise DatasetInvalid("The file has two columns of the same name. Give each column its own name.")

    def explain(self, error: Exception) -> str:
        """Return a sentence for what Arrow said."""
        text = str(error)
        if "crypt" in text.lower():
            return f"The {self.kind} file is encrypted. Upload it without encryption."
        if isinstance(error, MemoryError):
            return (
                f"The {self.kind} file needs more memory than is allowed: its pages are too large. "
                "Write it with smaller row groups."
            )
        if "too deeply nested" in text:
            return f"The {self.kind} file's columns are nested too deeply. Keep those with prompts, responses and ratings."
        said = text.splitlines()[0][:160].rstrip(" .:") if text.strip() else type(error).__name__
        return f"The {self.kind} file is damaged ({said}). Write it again."


class ParquetRows(TableRows):
    """The rows of one Parquet file."""

    kind = "Parquet"

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path, limits)
        try:
            self._file = pq.ParquetFile(
                path,
                buffer_size=2**16,
                pre_buffer=False,
                thrift_string_size_limit=64 * 2**20,
                thrift_container_size_limit=10**6,
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            if is_of_the_machine(error):
                raise
            raise DatasetInvalid(self.explain(error)) from error
        self.check_columns(list(self._file.schema_arrow.names), self._file.metadata.num_columns)

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._file.iter_batches(batch_size=BATCH_ROWS, use_threads=False)


def without_nulls(value: Any) -> Any:
    """Return a nested value without the keys that other rows have and this one doesn't; messages keep theirs."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    is_whole = "role" in value or "from" in value
    return {key: without_nulls(inner) for key, inner in value.items() if is_whole or inner is not None}


def readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Dictionaries as plain values, so that they count in full; times as text, since Python's can't hold nanoseconds."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(index, field.name, batch.column(index).dictionary_decode())
        elif pa.types.is_temporal(field.type):
            batch = batch.set_column(index, field.name, batch.column(index).cast(pa.string()))
    return batch
