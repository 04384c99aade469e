"""The fleet in plain Python, for machines without the compiled generator: one coroutine a worker, one connection each.

Run as a process it reads a plan (one JSON line), says `ready` once its workers are registered, starts on the next line
and prints the same report as the compiled generator.
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import orjson
import uvloop

from .framing import Framing, http_request
from .histogram import Histogram
from .plan import Plan

REST_MIN_S = 0.01  # a retry sooner than this only adds load
REST_MAX_S = 1.0  # the server's own advice may be longer; a drain of the queue would wait for it
START_GRACE_S = 20.0  # thousands of connections meet a listen queue of a hundred
AGAIN = {1006, 1007, 1429, -32603, -503, -429}  # refusals that pass
UNKNOWN = {-32603, -500, -502, -503, -504}  # replies that leave open whether it happened
LEASE_LOST, WORKER_UNKNOWN = 1001, 1008


class Refused(Exception):
    """A call the server turned down for good."""

    def __init__(self, code: int, data: dict[str, Any]) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
        self.data = data


class GaveUp(Exception):
    """A call that could not be brought to an end within the retry window."""


class Line(asyncio.Protocol):
    """One connection, one request in flight."""

    def __init__(self, dialect: str) -> None:
        self.framing = Framing(dialect)
        self.waiter: asyncio.Future[bytes] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.framing.feed(data)
        body = self.framing.take()
        if body is not None and self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(exc or ConnectionResetError())

    async def ask(self, request: bytes, timeout_s: float) -> bytes:
        """The reply's bytes; raises OSError when the connection is lost, TimeoutError when nothing came."""
        if self.lost:
            raise ConnectionResetError
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(timeout_s):
            return await self.waiter


class Fleet:
    """What the workers of one process share: the plan, the counts, the files, the start signal."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.begin = asyncio.Event()
        self.target = plan.target
        self.tokens = Path(plan.tokens).read_text().split() if plan.tokens else [""]
        self.counts = dict.fromkeys(("granted", "settled", "empty", "unknown", "reconnects", "gave_up", "lost"), 0)
        self.refused: dict[str, int] = {}
        self.claim, self.settle = Histogram(), Histogram()
        self.issued = 0
        self.stop_at = float("inf")
        self.started_ns = self.last_ns = self.cpu_ns = 0
        self.history = plan.history and Path(plan.history).open("ab")  # noqa: SIM115 -- closed with the fleet
        self.settled = plan.settled and Path(plan.settled).open("w")  # noqa: SIM115 -- closed with the fleet

    def start(self) -> None:
        self.started_ns = self.last_ns = time.monotonic_ns()
        self.cpu_ns = time.process_time_ns()
        if self.plan.seconds is not None:
            self.stop_at = time.monotonic() + self.plan.seconds
        self.begin.set()

    def open(self) -> bool:
        """Whether another claim fits the budget."""
        return (self.plan.pairs is None or self.issued < self.plan.pairs) and time.monotonic() < self.stop_at

    def look_up_target(self) -> None:
        """After a restart the daemon may listen on another port."""
        if self.plan.daemon_file and self.plan.target.startswith("tcp:"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                self.target = "tcp:" + json.loads(Path(self.plan.daemon_file).read_bytes())["listen"]

    def close(self) -> None:
        for file in (self.history, self.settled):
            if file:
                file.close()

    def write(self, entry: dict[str, Any]) -> None:
        if self.history:
            self.history.write(orjson.dumps(entry) + b"\n")

    def report(self) -> dict[str, Any]:
        return {
            "generator": "python",
            "workers": self.plan.workers,
            "elapsed_s": (self.last_ns - self.started_ns) / 1e9,
            "cpu_s": (time.process_time_ns() - self.cpu_ns) / 1e9,
            **self.counts,
            "refused": self.refused,
            "claim_us": self.claim.sparse(),
            "settle_us": self.settle.sparse(),
        }


class Worker:
    """One agent of the fleet: registers, then claims and settles until the budget is spent."""

    def __init__(self, fleet: Fleet, index: int) -> None:
        self.fleet = fleet
        self.plan = fleet.plan
        self.name = f"{fleet.plan.run}-{index}"
        self.bearer = fleet.tokens[index % len(fleet.tokens)]
        self.line: Line | None = None
        self.serial = 0
        self.held: tuple[str, int] | None = None

    async def register(self) -> None:
        result = await self.call("worker.register", {"name": self.name})
        self.worker_id = result["worker_id"]
        for lease in result.get("leases", [])[:1]:
            self.held = (lease["bead_id"], lease["token"])

    async def live(self) -> None:
        await self.fleet.begin.wait()
        try:
            while self.held or self.fleet.open():
                if not (await self.settle() if self.held else await self.claim()):
                    break
        except GaveUp:
            self.fleet.counts["gave_up"] += 1
        finally:
            if self.line is not None:
                self.line.transport.abort()

    def claim_params(self) -> dict[str, Any]:
        params: dict[str, Any] = {"worker_id": self.worker_id}
        if self.plan.wait_ms:
            params["wait_ms"] = self.plan.wait_ms
        if self.plan.filter:
            params["filter"] = orjson.loads(self.plan.filter)
        return params

    async def claim(self) -> bool:
        """One claim; False when this worker has nothing more to do."""
        self.fleet.issued += 1
        started_ns = time.monotonic_ns()
        try:
            result = await self.call("work.claim", self.claim_params())
        except Refused as refusal:
            return await self.after(refusal)
        return await self.granted(result, started_ns)

    async def granted(self, result: dict[str, Any], started_ns: int | None) -> bool:
        if result["claims"]:
            lease = result["claims"][0]["lease"]
            self.held = (lease["bead_id"], lease["token"])
            self.fleet.counts["granted"] += 1
            if started_ns is not None:
                self.fleet.claim.record(time.monotonic_ns() - started_ns)
            return True
        self.fleet.counts["empty"] += 1
        self.fleet.issued -= 1
        if self.plan.again and not self.plan.wait_ms:
            await asyncio.sleep(rest_s(result.get("retry_after_ms", 0)))
        return self.plan.again

    async def settle(self) -> bool:
        assert self.held is not None
        bead, token = self.held
        params: dict[str, Any] = {"bead_id": bead, "token": token}
        nested = self.plan.nested and self.fleet.open()
        if nested:
            params["claim"] = self.claim_params()
            self.fleet.issued += 1
        started_ns = time.monotonic_ns()
        try:
            result = await self.call(f"work.{self.plan.ending}", params)
        except Refused as refusal:
            return await self.after(refusal)
        self.note_settled(bead, token, started_ns)
        return await self.granted(result, None) if nested else True

    def note_settled(self, bead: str, token: int, started_ns: int) -> None:
        self.held = None
        self.fleet.counts["settled"] += 1
        self.fleet.last_ns = time.monotonic_ns()
        self.fleet.settle.record(self.fleet.last_ns - started_ns)
        if self.fleet.settled:
            self.fleet.settled.write(f"{bead} {token}\n")

    async def after(self, refusal: Refused) -> bool:
        """What a refusal for good leaves to do."""
        if refusal.code == LEASE_LOST and self.held:
            self.fleet.counts["lost"] += 1
            self.held = None
        elif refusal.code == WORKER_UNKNOWN:
            await self.register()
        else:
            raise refusal
        return True

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """One call, repeated with the same request_id until its outcome is known or the window closes."""
        self.serial += 1
        if self.plan.request_ids or self.plan.retry_seconds:
            params["request_id"] = f"{self.name}.{self.serial}"
        window_s = self.plan.retry_seconds if self.fleet.begin.is_set() else max(START_GRACE_S, self.plan.retry_seconds)
        until = time.monotonic() + window_s
        while True:
            try:
                return await self.attempt(method, params)
            except (OSError, TimeoutError):
                pause_s = REST_MIN_S
                self.hang_up()
                self.fleet.look_up_target()
            except Refused as refusal:
                if refusal.code not in AGAIN:
                    raise
                pause_s = rest_s(refusal.data.get("retry_after_ms", 0))
            if time.monotonic() >= until:
                raise GaveUp(method)
            await asyncio.sleep(pause_s)

    async def attempt(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        line = await self.connect()
        body = orjson.dumps({"jsonrpc": "2.0", "id": self.serial, "method": method, "params": params})
        host = self.fleet.target.removeprefix("tcp:") if self.fleet.target.startswith("tcp:") else "localhost"
        request = http_request(body, host, self.bearer) if line.framing.http else body + b"\n"
        invoked_ns = time.monotonic_ns()
        try:
            reply = read(await line.ask(request, self.plan.timeout_ms / 1000), line.framing.status)
        except (OSError, TimeoutError):
            self.fleet.counts["unknown"] += 1
            self.note(method, params, invoked_ns, "info", {})
            raise
        except Refused as refusal:
            key = str(refusal.code)
            self.fleet.refused[key] = self.fleet.refused.get(key, 0) + 1
            outcome = "info" if refusal.code in UNKNOWN else "fail"
            self.note(method, params, invoked_ns, outcome, {"code": refusal.code})
            raise
        self.note(method, params, invoked_ns, "ok", reply)
        return reply

    def note(self, method: str, params: dict[str, Any], invoked_ns: int, outcome: str, reply: dict[str, Any]) -> None:
        if not self.fleet.history:
            return
        entry = {"client": self.name, "op": method, "args": params, "t_inv": invoked_ns, "t_ret": time.monotonic_ns()}
        entry |= {"outcome": outcome} | {key: reply[key] for key in ("code", "epoch", "seq") if key in reply}
        held = {"bead_id": params.get("bead_id"), "token": params.get("token")}
        for claim in reply.get("claims", []):
            held = claim["lease"]
        if held["bead_id"] is not None:
            entry |= {"bead": held["bead_id"], "token": held["token"]}
        self.fleet.write(entry)

    async def connect(self) -> Line:
        if self.line is None or self.line.lost:
            running = asyncio.get_running_loop()
            if self.line is not None:
                self.fleet.counts["reconnects"] += 1
            kind, _, address = self.fleet.target.partition(":")
            if kind == "unix":
                _, self.line = await running.create_unix_connection(self.new_line, address)
            else:
                host, _, port = address.rpartition(":")
                _, self.line = await running.create_connection(self.new_line, host, int(port))
        return self.line

    def new_line(self) -> Line:
        return Line(self.plan.dialect)

    def hang_up(self) -> None:
        if self.line is not None:
            self.line.transport.abort()
            self.line.lost = True


def rest_s(ms: float) -> float:
    return min(max(ms / 1000, REST_MIN_S), REST_MAX_S)


def read(body: bytes, status: int) -> dict[str, Any]:
    """The result of a reply; raises Refused with the error's code, or minus the HTTP status without one."""
    try:
        reply = orjson.loads(body)
    except ValueError:
        raise Refused(-status, {}) from None
    if "error" in reply:
        raise Refused(reply["error"]["code"], reply["error"].get("data") or {})
    result: dict[str, Any] = reply["result"]
    return result


async def main() -> None:
    running = asyncio.get_running_loop()
    fleet = Fleet(Plan(**json.loads(await running.run_in_executor(None, sys.stdin.readline))))
    workers = [Worker(fleet, index) for index in range(fleet.plan.workers)]
    await asyncio.gather(*(worker.register() for worker in workers))
    print("ready", flush=True)
    await running.run_in_executor(None, sys.stdin.readline)
    fleet.start()
    tasks = [asyncio.create_task(worker.live()) for worker in workers]
    if fleet.plan.seconds is not None and fleet.plan.wait_ms:
        await asyncio.wait(tasks, timeout=fleet.plan.seconds + 1)
        for task in tasks:
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    fleet.close()
    for fault in outcomes:
        if isinstance(fault, Exception):
            raise fault
    print(json.dumps(fleet.report()), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
