"""Bodies that are Arrow IPC streams become rows, and probabilities a stream.

A stream names buffers, offsets and sizes of its own. So only plain types are taken, no buffer is compressed, batches are
validated, and rows are counted before they are made: a small body cannot become large.
"""

import io
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from recsys.serving.server.limits import Limits
from recsys.serving.server.refusal import Refusal, require_lists, require_rows

EXPECTED = "an Arrow IPC stream of plain columns, without compression"
_PLAIN = (
    *(pt.is_null, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_date, pt.is_timestamp),
    *(pt.is_string, pt.is_large_string, pt.is_binary, pt.is_large_binary),
)
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # of a message's header


def rows_of(body: bytes, limits: Limits) -> list[dict[str, Any]]:
    """Return the rows of a stream. Raises Refusal."""
    try:
        with pa.ipc.open_stream(body) as stream:
            _require_plain(stream.schema)
            _refuse_compression(body)
            return _rows(stream, limits)
    except (pa.ArrowException, OSError, EOFError, struct.error, IndexError, ValueError) as error:
        raise Refusal(400, "the body is no Arrow stream that can be read", expected=EXPECTED) from error


def stream_of(probabilities: np.ndarray) -> bytes:
    """Return a stream with one column, `prediction`."""
    batch = pa.record_batch({"prediction": probabilities})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _rows(stream: pa.RecordBatchStreamReader, limits: Limits) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in stream:
        require_rows(len(rows) + batch.num_rows, limits)
        batch.validate(full=True)
        _require_short_lists(batch, len(rows), limits)
        rows += _with_microseconds(batch).to_pylist()
    return rows


def _require_plain(schema: pa.Schema) -> None:
    for place, field in enumerate(schema):
        kind = field.type.value_type if pt.is_list(field.type) or pt.is_large_list(field.type) else field.type
        if not any(is_kind(kind) for is_kind in _PLAIN):
            raise Refusal(
                400,
                f"a column of {field.type}",
                feature=field.name,
                expected="numbers, text, times or lists of them, without dictionaries",
            )
        if schema.get_field_index(field.name) != place:  # -1 where the name stands twice
            raise Refusal(400, "a column stands twice", feature=field.name, expected="each column once")


def _require_short_lists(batch: pa.RecordBatch, before: int, limits: Limits) -> None:
    """Refuse long lists: those of nulls take no bytes of a body, and many of memory."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.ListArray | pa.LargeListArray):
            require_lists(name, np.diff(column.offsets.to_numpy()), limits, before)


def _with_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return times in microseconds, which is what Python's have."""
    columns = {
        name: column.cast(pa.timestamp("us", column.type.tz), safe=False)
        if pt.is_timestamp(column.type)
        else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    return pa.table(columns) if columns else batch


def _refuse_compression(body: bytes) -> None:
    """Refuse buffers that would grow when they are read, which pyarrow has no option for."""
    with pa.BufferReader(body) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            if _is_compressed(message.metadata.to_pybytes()):
                raise Refusal(400, "the stream is compressed", expected=EXPECTED)


def _is_compressed(metadata: bytes) -> bool:
    """Tell whether a message is a batch with compressed buffers: fields 1 and 2 of `Message`, 3 of `RecordBatch`.

    https://github.com/apache/arrow/blob/main/format/Message.fbs
    """
    message = _unsigned(metadata, 0)
    kind = _field(metadata, message, 1)
    header = _field(metadata, message, 2)
    if kind is None or header is None or metadata[kind] not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    batch = header + _unsigned(metadata, header)
    if metadata[kind] == _DICTIONARY_BATCH:
        return True  # no plain column has one
    return _field(metadata, batch, 3) is not None


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """Return where a field of a flatbuffer's table lies, None where it is left out."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", metadata, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", metadata, vtable + place)[0]
    return table + offset if offset else None


def _unsigned(metadata: bytes, place: int) -> int:
    return int(struct.unpack_from("<I", metadata, place)[0])
