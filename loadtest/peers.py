"""The other queues of a comparison, each started fresh in a folder of its own and spoken to in its own protocol.

Each is set as durable as it can be and otherwise left as it comes. A peer that is not installed says so.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from .naive import has_uvicorn
from .plan import Plan
from .town import BATCH, DESCRIPTION, Town, bead, seed, tokens

START_S = 30.0
STOP_S = 30.0
POLL_S = 0.01
CHUNK = 100  # beads sent to a peer in one piece; beanstalkd stalls on thousands of pipelined puts
POSTGRES_USER = "postgres"  # the server refuses to run as root
CONNECTIONS_MAX = 400  # of PostgreSQL; the widest cell has 300 workers


class PeerFault(Exception):
    """A peer did not start or did not take its beads."""


class System:
    """One queue under measurement. `doors` are its transports; every cell of a door uses `plan`."""

    name = ""
    doors: tuple[str, ...] = ("unix",)
    package = ""  # of Debian, for --install
    stop_signal = signal.SIGTERM
    user: str | None = None  # whom its processes run as

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.environment = {**os.environ, **environment}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.made = 0
        self.remaining = 0

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be measured here, or None."""
        return None

    @classmethod
    def version(cls) -> str:
        return ""

    def start(self) -> None:
        raise NotImplementedError

    def create(self, count: int) -> None:
        raise NotImplementedError

    def plan(self, door: str, workers: int) -> Plan:
        raise NotImplementedError

    def finished(self) -> None:
        """After each cell."""

    def stop(self) -> None:
        self.end_processes()

    def top_up(self, wanted: int) -> None:
        """Fills the queue up to `wanted` ready beads."""
        short = wanted - self.remaining
        if short > 0:
            self.create(short)
            self.made += short
            self.remaining += short

    def spawn(self, command: list[str], ready: Path | int) -> None:
        log = self.home / f"{self.name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                cwd=self.home,
                env=self.environment,
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.processes.append(process)
        until = time.monotonic() + START_S
        while not connectable(ready):
            if process.poll() is not None or time.monotonic() > until:
                raise PeerFault(f"{self.name} did not start: {log.read_text()[-1000:]}")
            time.sleep(POLL_S)

    def end_processes(self) -> None:
        for process in self.processes:
            process.send_signal(self.stop_signal)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def numbers(self, count: int) -> Iterator[range]:
        for start in range(self.made, self.made + count, CHUNK):
            yield range(start, min(start + CHUNK, self.made + count))


def connectable(door: Path | int) -> bool:
    """Whether somebody listens on a unix socket, or on a port of the loopback."""
    family = socket.AF_INET if isinstance(door, int) else socket.AF_UNIX
    with socket.socket(family) as probe:
        return not probe.connect_ex(("127.0.0.1", door) if isinstance(door, int) else str(door))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def said(command: list[str]) -> str:
    """The first line a command prints about itself."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().split("\n")[0]


class Gastown(System):
    """The coordinator itself, over each of its transports."""

    name = "gastown"
    doors = ("lines", "http", "tcp")

    def start(self) -> None:
        directory = self.home / "mill"
        directory.mkdir()
        self.town = Town(directory, environment=self.environment)
        self.town.start()
        self.lent = tokens(self.town, "tcp", CONNECTIONS_MAX, "bench")
        self.tokens = self.lent.__enter__()

    def stop(self) -> None:
        self.lent.__exit__(None, None, None)
        self.town.stop()

    def create(self, count: int) -> None:
        seed(self.town, count, first=self.made)

    def plan(self, door: str, workers: int) -> Plan:
        target, dialect = self.town.target(door)
        return Plan(target, dialect, workers, run=f"bench-{door}", tokens=self.tokens if door == "tcp" else None)


class Beanstalkd(System):
    """beanstalkd -f0: each put and delete is synced before its reply, a reservation lives in memory."""

    name = "beanstalkd -f0"
    doors = ("unix", "tcp")
    package = "beanstalkd"

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("beanstalkd") else "beanstalkd is not installed"

    @classmethod
    def version(cls) -> str:
        return said(["beanstalkd", "-v"])

    def start(self) -> None:
        (self.home / "log").mkdir()
        self.serve("unix", "-f0")

    def serve(self, door: str, sync: str) -> None:
        """One process listens on one door: another door is a restart on the same log."""
        self.end_processes()
        self.door = door
        self.socket = self.home / "beanstalkd.sock"
        self.socket.unlink(missing_ok=True)
        common = ["beanstalkd", sync, "-b", str(self.home / "log")]
        if door == "unix":
            self.spawn([*common, "-l", f"unix:{self.socket}"], self.socket)
            return
        self.port = free_port()
        self.spawn([*common, "-l", "127.0.0.1", "-p", str(self.port)], self.port)

    def create(self, count: int) -> None:
        self.serve("unix", "-F")  # filled without syncs, then restarted with them
        with socket.socket(socket.AF_UNIX) as peer, peer.makefile("rb") as replies:
            peer.connect(str(self.socket))
            for numbers in self.numbers(count):
                bodies = [(n % 5, orjson.dumps(bead(n))) for n in numbers]
                peer.sendall(b"".join(b"put %d 0 300 %d\r\n%b\r\n" % (p, len(b), b) for p, b in bodies))
                if not all(replies.readline().startswith(b"INSERTED") for _ in bodies):
                    raise PeerFault("beanstalkd refused a bead")
        self.serve("unix", "-f0")

    def plan(self, door: str, workers: int) -> Plan:
        if self.door != door:
            self.serve(door, "-f0")
        target = f"unix:{self.socket}" if door == "unix" else f"tcp:127.0.0.1:{self.port}"
        return Plan(target, "beanstalk", workers)


class Redis(System):
    """Redis, appendfsync always: sorted sets of ready and leased beads, moved by two server-side functions."""

    name = "Redis, appendfsync always"
    doors = ("unix", "tcp")
    package = "redis-server"

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("redis-server") else "redis-server is not installed"

    @classmethod
    def version(cls) -> str:
        return said(["redis-server", "--version"])

    def start(self) -> None:
        self.socket, self.port = self.home / "redis.sock", free_port()
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "unixsocket": self.socket,
            "dir": self.home,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxclients": 5000,
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self.spawn(["redis-server", *words], self.socket)

    def create(self, count: int) -> None:
        with socket.socket(socket.AF_UNIX) as peer, peer.makefile("rb") as replies:
            peer.connect(str(self.socket))
            for numbers in self.numbers(count):
                scores = [word for n in numbers for word in (b"%d" % ((n % 5) * 10**9 + n), b"b%d" % n)]
                bodies = [word for n in numbers for word in (b"b%d" % n, orjson.dumps(bead(n)))]
                peer.sendall(resp(b"ZADD", b"ready", *scores) + resp(b"HSET", b"bead", *bodies))
                if not all(replies.readline().startswith(b":") for _ in range(2)):
                    raise PeerFault("Redis refused a bead")

    def plan(self, door: str, workers: int) -> Plan:
        target = f"unix:{self.socket}" if door == "unix" else f"tcp:127.0.0.1:{self.port}"
        return Plan(target, "redis", workers)


def resp(*words: bytes) -> bytes:
    """A command of the Redis protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Postgres(System):
    """PostgreSQL, synchronous_commit on: UPDATE ... SKIP LOCKED ... RETURNING, prepared, one commit a call."""

    name = "PostgreSQL SKIP LOCKED"
    package = "postgresql-15"
    stop_signal = signal.SIGINT  # fast shutdown
    user = POSTGRES_USER if os.geteuid() == 0 else None
    schema = """
    CREATE TABLE bead(id bigint PRIMARY KEY, priority int, state text, token bigint DEFAULT 0, worker text,
      expires_at timestamptz, body text);
    CREATE INDEX bead_ready ON bead(priority, id) WHERE state = 'ready';"""

    @classmethod
    def binaries(cls) -> Path | None:
        found = shutil.which("initdb")
        elsewhere = Path(found).resolve().parent if found else None
        return max((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=elsewhere)

    @classmethod
    def missing(cls) -> str | None:
        if cls.binaries() is None:
            return "PostgreSQL is not installed"
        if os.geteuid() == 0 and not any(user.pw_name == POSTGRES_USER for user in pwd.getpwall()):
            return f"PostgreSQL does not run as root and there is no user {POSTGRES_USER}"
        return None

    @classmethod
    def version(cls) -> str:
        return said([str(cls.tool("postgres")), "--version"])

    @classmethod
    def tool(cls, name: str) -> Path:
        folder = cls.binaries()
        assert folder is not None
        return folder / name

    def run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, user=self.user, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeerFault(f"PostgreSQL: {done.stderr[-1000:]}")

    def start(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.home, POSTGRES_USER)
        data = self.home / "data"
        initdb = [str(self.tool("initdb")), "-D", str(data), "-A", "trust", "-U", "bench", "--no-sync", "-E", "UTF8"]
        self.run(initdb)
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self.home}'\nsynchronous_commit = on\n"
                f"max_connections = {CONNECTIONS_MAX}\nshared_buffers = 256MB\nmax_wal_size = 4GB\n"
            )
        self.spawn([str(self.tool("postgres")), "-D", str(data)], self.home / ".s.PGSQL.5432")
        until = time.monotonic() + START_S
        while True:
            try:
                self.sql("CREATE DATABASE bench", "postgres")
                break
            except PeerFault:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_S)
        self.sql(self.schema)

    def sql(self, text: str, database: str = "bench") -> None:
        self.run([str(self.tool("psql")), "-q", "-h", str(self.home), "-U", "bench", "-d", database, "-c", text])

    def create(self, count: int) -> None:
        body = orjson.dumps(bead(0)).decode().replace("'", "''")
        self.sql(
            "INSERT INTO bead(id, priority, state, body) SELECT n, n % 5, 'ready', "
            f"'{body}' FROM generate_series({self.made}, {self.made + count - 1}) n"
        )
        self.sql("VACUUM ANALYZE bead")

    def plan(self, door: str, workers: int) -> Plan:
        assert door == "unix"
        return Plan(f"unix:{self.home / '.s.PGSQL.5432'}", "postgres", workers)


class Naive(System):
    """Starlette + aiosqlite, one commit a request (naive.py)."""

    name = "Starlette + aiosqlite"

    @classmethod
    def version(cls) -> str:
        return "under uvicorn" if has_uvicorn() else "under a minimal ASGI server (uvicorn is not installed)"

    def start(self) -> None:
        self.socket = self.home / "naive.sock"
        command = [sys.executable, "-m", "gastown.loadtest.naive", str(self.socket), str(self.home / "naive.db")]
        self.spawn(command, self.socket)

    def create(self, count: int) -> None:
        from .fleet import read
        from .framing import Framing, http_request

        framing = Framing("http")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.socket))
            for start in range(self.made, self.made + count, BATCH):
                beads = [bead(n) for n in range(start, min(start + BATCH, self.made + count))]
                call = {"jsonrpc": "2.0", "id": 1, "method": "bead.create", "params": {"beads": beads}}
                peer.sendall(http_request(orjson.dumps(call), "localhost", ""))
                while (body := framing.take()) is None:
                    framing.feed(peer.recv(65536))
                read(body, framing.status)

    def plan(self, door: str, workers: int) -> Plan:
        assert door == "unix"
        return Plan(f"unix:{self.socket}", "http", workers)


SYSTEMS: list[type[System]] = [Gastown, Beanstalkd, Redis, Postgres, Naive]
BEAD_BYTES = len(DESCRIPTION) + 100  # about what one bead weighs as JSON


def install(systems: list[type[System]]) -> list[str]:
    """Installs what is missing with apt-get; only root can. Returns what was done or why not."""
    packages = [system.package for system in systems if system.package and system.missing()]
    if not packages:
        return []
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return [f"{', '.join(packages)}: only root on a Debian system can install them"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # 1: no service is started
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return [f"installed {', '.join(packages)}" if done.returncode == 0 else done.stderr.strip()[-500:]]
