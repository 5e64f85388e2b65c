"""Rows of a Parquet file, one row group at a time and a few rows of it at once, so that memory stays bounded."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_jax.errors import InputError
from msm_jax.foundation import storage

_ROWS = 64
# Pages are read as they are decoded, this much ahead; without it pyarrow reads the columns of a whole row group first.
_BUFFER = 1 << 20


def rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (row number from 1, {column: value}) in file order; lists, structs and nulls become Python's.

    A field of a nested struct that is null is left out: it stands for a key that some other row has.

    Raises:
      InputError: naming the file, and the row where the damage is past the footer.
      WorkError: the storage does not answer.
    """
    number = 0
    try:
        with (
            storage.open_file(file) as handle,
            pq.ParquetFile(handle, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True) as table,
        ):
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(batch_size=_ROWS, row_groups=[group], use_threads=False):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, {column: _without_nulls(value) for column, value in row.items()}
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and storage.is_url(file):
            with storage.reading(file):
                raise
        problem = " ".join(str(error).split())[:200]
        where = f"{file}:{number + 1}" if number else file
        raise InputError(f"{where}: not a whole Parquet file ({problem}); fetch it again") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
