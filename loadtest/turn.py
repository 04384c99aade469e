"""The bare turn: the engine without sockets, driven by callbacks in its own process.

`python -m gastown.loadtest.turn WORKERS PAIRS FOLDER` prints pairs a second and CPU a pair. The distance between
this and the same number of workers over a socket is what connections and encoding cost.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop

from gastown.engine import Engine, Unit
from gastown.model import UNIX, Refused
from gastown.protocol import decode

from .town import BATCH, bead

RUN_S = 300


class Agent:
    """Claims and completes by submitting units; `deliver` is the engine's callback after each commit."""

    def __init__(self, bench: "Bench", name: str) -> None:
        self.bench, self.name = bench, name
        self.held: dict[str, Any] | None = None

    def ask(self, method: str, **params: Any) -> None:
        self.bench.engine.submit(Unit(self.bench.calls(method, params), UNIX, False, self.deliver))

    def deliver(self, outcomes: list[dict[str, Any] | Refused]) -> bool:
        (outcome,) = outcomes
        if isinstance(outcome, Refused):
            self.bench.end(outcome)
        elif "worker_id" in outcome:
            self.worker_id = outcome["worker_id"]
            self.bench.registered()
        elif "claims" in outcome:
            self.granted(outcome["claims"])
        else:
            self.bench.settled += 1
            self.claim()
        return True

    def claim(self) -> None:
        if self.bench.issued >= self.bench.pairs:
            self.bench.gone()
            return
        self.bench.issued += 1
        self.ask("work.claim", worker_id=self.worker_id)

    def granted(self, claims: list[Any]) -> None:
        if not claims:
            self.bench.end(RuntimeError("nothing to claim"))
            return
        lease = plain(claims[0])["lease"]
        self.ask("work.complete", bead_id=lease["bead_id"], token=lease["token"])


def plain(value: Any) -> Any:
    """A result as the wire would show it; fragments of JSON become objects."""
    return (
        value if isinstance(value, dict) and isinstance(value.get("lease"), dict) else orjson.loads(orjson.dumps(value))
    )


class Bench:
    def __init__(self, engine: Engine, workers: int, pairs: int) -> None:
        self.engine, self.pairs = engine, pairs
        self.agents = [Agent(self, f"turn-{index}") for index in range(workers)]
        self.issued = self.settled = 0
        self.waiting = workers
        self.barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def calls(self, method: str, params: dict[str, Any]) -> list[Any]:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return decode(body, "admin").calls

    def end(self, fault: Exception) -> None:
        if not self.barrier.done():
            self.barrier.set_exception(fault)

    def registered(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.barrier.set_result(None)

    gone = registered

    async def once(self, method: str, **params: Any) -> None:
        """One call outside the measurement."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def deliver(outcomes: list[Any]) -> bool:
            answered.set_result(outcomes[0])
            return True

        self.engine.submit(Unit(self.calls(method, params), UNIX, False, deliver))
        outcome = await answered
        if isinstance(outcome, Refused):
            raise outcome

    async def run(self) -> dict[str, float]:
        for start in range(0, self.pairs, BATCH):
            await self.once("bead.create", beads=[bead(n) for n in range(start, start + BATCH)])
        for agent in self.agents:
            agent.ask("worker.register", name=agent.name)
        await self.barrier
        self.barrier, self.waiting = asyncio.get_running_loop().create_future(), len(self.agents)
        began, cpu = time.monotonic(), time.process_time()
        for agent in self.agents:
            agent.claim()
        await self.barrier
        took, used = time.monotonic() - began, time.process_time() - cpu
        return {"pairs_per_s": self.settled / took, "cpu_us_a_pair": used / self.settled * 1e6}


async def main(workers: int, pairs: int, folder: Path) -> dict[str, float]:
    engine = Engine(folder)
    await engine.start()
    try:
        return await Bench(engine, workers, pairs).run()
    finally:
        await engine.stop()
        await engine.close()


def measure(workers: int, pairs: int) -> dict[str, float]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gastown-turn-") as folder:
        command = [sys.executable, "-m", "gastown.loadtest.turn", str(workers), str(pairs), folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    if done.returncode:
        raise OSError(f"the bare turn failed: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))))
