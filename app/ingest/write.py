"""Examples into the internal Parquet form (see app.domain.dataset), in batches of bounded size; whole or not at all."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from app.ingest.convert import Converted
from app.ingest.limits import Limits
from app.system.files import name_beside, put_in_place

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("fields", pa.string())])
RESPONSE = pa.struct([("content", pa.string()), ("rating", pa.float64()), ("preference", pa.int8()), ("fields", pa.string())])
SCHEMA = pa.schema(
    [
        ("example_id", pa.int64()),
        ("line", pa.int64()),
        ("prompt", pa.list_(MESSAGE)),
        ("responses", pa.list_(RESPONSE)),
        ("tools", pa.string()),
        ("meta", pa.string()),
    ]
)


class ExampleWriter:
    """Writes beside `target` and moves into place on a clean exit. A row group holds one batch, for paged reading."""

    def __init__(self, target: Path, limits: Limits) -> None:
        self.target = target
        self.limits = limits
        self.num_examples = 0
        self._batch: list[Converted] = []
        self._chars = 0
        self._temporary = name_beside(target)
        self._file = pq.ParquetWriter(self._temporary, SCHEMA, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
            self._file.close()
            if kind is None:
                put_in_place(self._temporary, self.target)
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, item: Converted) -> None:
        """Append one example."""
        self._batch.append(item)
        self._chars += sum(len(turn.content) for turn in item.draft.prompt)
        self._chars += sum(len(answer.content) for answer in item.draft.answers)
        if len(self._batch) >= self.limits.batch_rows or self._chars >= self.limits.batch_chars:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._chars = self._batch, [], 0
        if not batch:
            return
        first = self.num_examples
        self.num_examples += len(batch)
        columns = [
            pa.array(range(first, self.num_examples), pa.int64()),
            pa.array([item.line for item in batch], pa.int64()),
            list_column([item.draft.prompt for item in batch], MESSAGE),
            list_column([item.draft.answers for item in batch], RESPONSE),
            pa.array([item.draft.tools for item in batch], pa.string()),
            pa.array([item.meta for item in batch], pa.string()),
        ]
        self._file.write_batch(pa.record_batch(columns, schema=SCHEMA), row_group_size=len(batch))


def list_column(lists: Sequence[Sequence[tuple[Any, ...]]], element: pa.StructType) -> pa.ListArray:
    """Return a column of lists of structs, from lists of tuples in the struct's field order."""
    offsets = [0]
    for items in lists:
        offsets.append(offsets[-1] + len(items))
    fields = zip(*(item for items in lists for item in items), strict=True)
    arrays = [pa.array(values, element.field(index).type) for index, values in enumerate(fields)]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(arrays, fields=list(element)))
