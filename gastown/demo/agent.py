"""One agent of the demo: claims over JSON-RPC, commits on a branch of its own in a clone of its own, completes.

    python -m gastown.demo.agent TOWN ORIGIN CLONE NAME SEED MODE

Law: what happens is told as one JSON object a line on standard output, and nothing else is. It works until it is ended.
MODE is steady, crash (on its first bead it waits to be killed) or silent (on its first bead it stops itself, and when
it is woken goes on as if nothing had happened).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from gastown.client import Client, Grant, RpcError
from gastown.demo.git import git

STEP_S: Final = (0.05, 0.2)  # thinking before each commit: far below a fifth of the ttl, so a beat is never late
COMMITS: Final = (1, 3)  # of one bead
WAIT_MS: Final = 5_000
TROUBLE_AT: Final = 1  # which bead of its own an agent gets into trouble with; every agent surely gets a first


def tell(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


class Agent:
    """One worker and its clone."""

    def __init__(self, town: Client, clone: Path, name: str, seed: str, mode: str) -> None:
        self.town, self.clone, self.name, self.seed, self.mode = town, clone, name, seed, mode
        self.claimed = 0

    def run(self) -> None:
        self.town.register(self.name)
        tell("registered")
        sys.stdin.readline()  # all start together
        while True:
            began_s = time.perf_counter()
            found = self.town.claim()
            took_ms: float | None = round((time.perf_counter() - began_s) * 1000, 3)
            if not found:
                found, took_ms = self.town.claim(wait_ms=WAIT_MS), None  # how long work is awaited is no latency
            for grant in found:
                self.take(grant, took_ms)

    def take(self, grant: Grant, took_ms: float | None) -> None:
        """One bead from its claim to its end, whatever the town says to it."""
        self.claimed += 1
        facts = {"bead": grant.lease.bead_id, "token": grant.lease.token}
        tell("claimed", title=grant.bead["title"], attempt=grant.lease.attempt, took_ms=took_ms, **facts)
        try:
            self.work(grant)
        except RpcError as refused:
            tell("refused", code=refused.code, reason=refused.data.get("reason", refused.kind),
                 salvage_id=refused.data.get("salvage_id"), **facts)  # fmt: skip

    def work(self, grant: Grant) -> None:
        """Commits, pushes and completes; RpcError when the town refuses."""
        lease = grant.lease
        branch = f"work/{lease.bead_id}-{lease.token}"
        chance = random.Random(f"{self.seed} {lease.bead_id}")
        git(self.clone, "checkout", "--quiet", "-B", branch, "origin/main")
        for number in range(chance.randint(*COMMITS)):
            time.sleep(chance.uniform(*STEP_S))
            self.commit(grant, number)
            if number == 0 and not self.trouble(lease.bead_id, lease.token):
                self.town.beat(lease)
        commit = git(self.clone, "rev-parse", "HEAD")
        git(self.clone, "push", "--quiet", "origin", branch)
        self.town.complete(lease, summary=f"{commit} on {branch}")
        tell("completed", bead=lease.bead_id, token=lease.token, commit=commit)

    def commit(self, grant: Grant, number: int) -> None:
        bead_id, token = grant.lease.bead_id, grant.lease.token
        with (self.clone / f"{bead_id}.txt").open("a") as file:
            file.write(f"{grant.bead['title']}, step {number + 1}\n")
        git(self.clone, "add", "--all", name=self.name)
        text = f"{grant.bead['title']}\n\nBead: {bead_id}\nToken: {token}\n"
        git(self.clone, "commit", "--quiet", "--message", text, name=self.name)

    def trouble(self, bead_id: str, token: int) -> bool:
        """Whether this agent got into its trouble here; a silent one does not know that it slept and goes on."""
        if self.mode == "steady" or self.claimed != TROUBLE_AT:
            return False
        tell("silent" if self.mode == "silent" else "holding", bead=bead_id, token=token)
        if self.mode == "silent":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            signal.pause()  # the demo kills it here
        return True


def main() -> None:
    town, origin, clone, name, seed, mode = sys.argv[1:]
    git(Path(clone).parent, "clone", "--quiet", origin, clone)
    with Client.open(town) as client:
        Agent(client, Path(clone), name, seed, mode).run()


if __name__ == "__main__":
    main()
