"""Bodies in JSON become rows: strictly, because what is guessed here would be answered wrongly without a word."""

import json
from typing import Any, NoReturn

from recsys.serving.server.limits import Limits
from recsys.serving.server.refusal import Refusal, require_rows

Row = dict[str, Any]
PREDICT = 'an object of columns, or {"rows": [{…}, …]}'
RANK = '{"context": {…}, "items": [{…}, …]}'


def rows_of(body: bytes, limits: Limits) -> list[Row]:
    """Return the rows of a body: one object of columns, or an object whose only key is `rows`. Raises Refusal."""
    value = _object(parsed(body), PREDICT)
    if "rows" not in value:
        return [value]
    if len(value) > 1:
        _refuse_keys(value, {"rows"}, PREDICT)
    return _listed(value["rows"], "rows", PREDICT, limits)


def context_and_items_of(body: bytes, limits: Limits) -> tuple[Row, list[Row]]:
    """Return the context and the items of a body to rank. Raises Refusal."""
    value = _object(parsed(body), RANK)
    _refuse_keys(value, {"context", "items"}, RANK)
    for key in ("context", "items"):
        if key not in value:
            raise Refusal(400, f"{key} is missing", expected=RANK)
    if not isinstance(value["context"], dict):
        raise Refusal(
            400,
            f"context is {_kind(value['context'])}",
            value=value["context"],
            expected="an object of columns",
        )
    return value["context"], _listed(value["items"], "items", RANK, limits)


def parsed(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. Raises Refusal, also for NaN, Infinity and a key that stands twice."""
    try:
        return json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_without_twins
        )
    except UnicodeDecodeError as error:
        problem = f"the body is no UTF-8 text: byte {error.start} cannot be read"
    except RecursionError:
        problem = "the body is nested too deeply"
    except json.JSONDecodeError as error:
        problem = f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError:  # Python reads no integer of thousands of digits
        problem = "the body holds a number with too many digits"
    raise Refusal(400, problem, expected="JSON")


def _refuse_constant(name: str) -> NoReturn:
    raise Refusal(400, f"{name} is no JSON", value=name, expected="a number, or null where it is missing")


def _without_twins(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise Refusal(400, "a key stands twice in one object", feature=twin, expected="each key once")
    return row


def _object(value: Any, expected: str) -> Row:
    if not isinstance(value, dict):
        raise Refusal(400, f"the body is {_kind(value)}", value=value, expected=expected)
    return value


def _refuse_keys(value: Row, known: set[str], expected: str) -> None:
    for key in value:
        if key not in known:
            raise Refusal(400, "an unknown key", feature=key, value=value[key], expected=expected)


def _listed(value: Any, key: str, expected: str, limits: Limits) -> list[Row]:
    if not isinstance(value, list):
        raise Refusal(400, f"{key} is {_kind(value)}", value=value, expected=expected)
    require_rows(len(value), limits)
    for number, row in enumerate(value):
        if not isinstance(row, dict):
            raise Refusal(
                400, f"a row is {_kind(row)}", row=number, value=row, expected="an object of columns"
            )
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "a truth value"}
    return kinds.get(type(value), "a number")
