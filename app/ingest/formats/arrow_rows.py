"""Rows of Arrow files, as `save_to_disk` leaves them: streams of record batches, or the file format with its footer."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from app.domain.errors import DatasetInvalid
from app.ingest.formats.parquet_rows import BATCH_ROWS, TableRows
from app.ingest.limits import Limits
from app.system.files import is_of_the_machine

STREAM, FILE = b"\xff\xff\xff\xff", b"ARROW1"


class ArrowRows(TableRows):
    """The rows of one file."""

    kind = "Arrow"

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path, limits)
        with path.open("rb") as file:
            is_file = file.read(len(FILE)) == FILE
        try:
            source = pa.OSFile(str(path))
            self._reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        except (pa.ArrowException, OSError, ValueError) as error:
            if is_of_the_machine(error):
                raise
            raise DatasetInvalid(self.explain(error)) from error
        self.check_columns(list(self._reader.schema.names), len(self._reader.schema))

    def batches(self) -> Iterator[pa.RecordBatch]:
        reader = self._reader
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            found = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            found = iter(reader)
        for batch in found:
            batch.validate(full=True)  # offsets that point anywhere would be read as they are
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)
