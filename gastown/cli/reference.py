"""docs/wire.md, made from the OpenRPC document and model.py: `python -m gastown.cli.reference > docs/wire.md`.

Law: the page says nothing that the method table does not; a test holds the checked-in page against this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

import click
import orjson

from gastown.openrpc import ERROR_DATA, openrpc

from .setup import fixed_limits

Schema = Mapping[str, Any]

HEAD: Final = """\
# Wire reference

Made from the method table by `python -m gastown.cli.reference > docs/wire.md`; do not edit. The whole interface, with
every type and bound, is `spec/openrpc.json`; a running town serves it as `GET /openrpc.json` and `rpc.discover`.

JSON-RPC 2.0, params by name. Three doors lead to the same methods:

| door | where | who |
|---|---|---|
| HTTP on a unix socket | `POST /rpc` on `.gastown/gastown.sock` | any process of the same user; scope admin |
| lines on a unix socket | one JSON text a line on `.gastown/lines.sock` | the same |
| HTTP on TCP | `POST /rpc` on the `listen` address of `.gastown/daemon.json` | `Authorization: Bearer` with a token |

Other routes: `GET /healthz`, `/readyz`, `/metrics`, `/events` (SSE, resumed by `Last-Event-ID`), `/openrpc.json`,
`/export.jsonl`, `POST /import.jsonl`. Over TCP each needs a token, but for `/healthz` and the page `/`.

A method that changes something takes a `request_id`; asked again with the same id and params it answers as the first
time, with `"replayed": true`, for 24 hours. Its result carries `seq`, the ledger's number of the change, and `epoch`.
`?` marks what may be left out, `=` its default.
"""
TABLE: Final = "\n| method | scope | params | result |\n|---|---|---|---|\n"
ERRORS_HEAD: Final = """
## Errors

`error.data` holds `kind`, `retryable` and what the row names. Every kind but `internal` is definite: nothing changed.

| code | kind | retry | meaning | data |
|---|---|---|---|---|
"""
OBJECTS_HEAD: Final = "\n## Objects\n\n| object | keys |\n|---|---|\n"
LIMITS_HEAD: Final = """
## Limits

Fixed ones; what a town may set is in [cli.md](cli.md#settings). Beyond a maximum a call is refused with 1012, never
clamped.

| limit | value | unit | reason |
|---|---|---|---|
"""
MARKS: Final = ("request_id", "seq", "epoch", "replayed")  # of every method that changes something: told once


def render() -> str:
    """The whole page."""
    document = openrpc()
    parts = [HEAD]
    for group, methods in groupby(document["methods"], key=lambda method: str(method["name"]).partition(".")[0]):
        parts.append(f"\n## {group}.*\n{TABLE}")
        parts += [_method(method) for method in methods]
    parts += [ERRORS_HEAD, *_errors(document["components"]["errors"])]
    parts += [OBJECTS_HEAD, *_objects(document["components"]["schemas"])]
    parts += [
        LIMITS_HEAD,
        *(f"| `{r['key']}` | {r['value']} | {r['unit']} | {r['reason']} |\n" for r in fixed_limits()),
    ]
    return "".join(parts)


def _method(method: Schema) -> str:
    params = [param for param in method["params"] if param["name"] not in MARKS]
    asked = ", ".join(_given(param["name"], param["schema"], param["required"]) for param in params) or "-"
    answer = method["result"]["schema"]
    told = ", ".join(_keys(answer)) or "-"
    return f"| `{method['name']}`<br>{method['summary']} | {method['x-scope']} | {asked} | {told} |\n"


def _given(name: str, schema: Schema, required: bool) -> str:
    default = schema.get("default")
    value = f"={orjson.dumps(default).decode()}" if default not in (None, "", [], {}) else ""
    inner = schema.get("items", schema)
    keys = ", ".join(_keys(inner))
    shape = ("{" + keys + "}") if keys else ""
    shape = f": [{shape}]" if shape and "items" in schema else f": {shape}" if shape else ""
    return f"`{name}`{'' if required else '?'}{value}{shape}"


def _keys(schema: Schema) -> Iterator[str]:
    needed = schema.get("required", ())
    for name in schema.get("properties", {}):
        if name not in MARKS:
            yield f"`{name}`{'' if name in needed else '?'}"


def _errors(errors: Mapping[str, Schema]) -> Iterator[str]:
    for kind, error in sorted(errors.items(), key=lambda row: (row[1]["code"], row[0])):
        retry = "yes" if error["data"]["properties"]["retryable"]["const"] else "no"
        data = ", ".join(f"`{key}`" for key in ERROR_DATA[kind][1]) or "-"
        yield f"| {error['code']} | {kind} | {retry} | {error['message']} | {data} |\n"


def _objects(schemas: Mapping[str, Schema]) -> Iterator[str]:
    for name, schema in schemas.items():
        keys = ", ".join(_keys(schema)) or ", ".join(f"`{value}`" for value in schema.get("enum", ()))
        yield f"| {name} | {keys} |\n"


if __name__ == "__main__":
    click.echo(render(), nl=False)
