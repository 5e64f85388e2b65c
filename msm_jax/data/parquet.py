"""Rows of a Parquet file, read a few at a time from one row group after another, so that memory stays bounded."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msm_jax.errors import InputError
from msm_jax.foundation import storage

_ROWS = 64
# Pages are read this many bytes ahead of decoding; otherwise pyarrow first reads the columns of a whole row group.
_BUFFER = 1 << 20


def rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (row number from 1, {column: value}) in file order, with lists, structs and nulls as Python values.

    A null field of a nested struct is left out, since it stands for a key that only other rows have.

    Raises:
      InputError: the file is damaged; names the file, and the row if its footer is readable.
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
