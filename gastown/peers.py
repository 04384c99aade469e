"""What differs by operating system: who is at the other end of a socket, and which clock goes on through a suspend.

Law: every `sys.platform` of the coordinator's process is in this file, each with its Linux and its macOS branch.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Final

LINUX: Final = sys.platform.startswith("linux")
MACOS: Final = sys.platform == "darwin"

# <sys/un.h> and <sys/ucred.h> of macOS; the socket module does not name them
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_XUCRED: Final = struct.Struct("=IIh")  # cr_version, cr_uid, cr_ngroups; the groups follow
_XUCRED_BYTES: Final = 76
_F_FULLFSYNC: Final = 51  # <sys/fcntl.h> of macOS: fsync alone leaves data in the drive's cache


def peer_uid(sock: Any) -> int | None:
    """The user at the other end of a connected unix socket; None when the system will not say."""
    try:
        if LINUX:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return int(struct.unpack("3i", raw)[1])
        if MACOS:
            raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
            version, uid, _ = _XUCRED.unpack_from(raw)
            return int(uid) if version == 0 else None
    except OSError:
        return None
    return None


def boot_ms() -> int:
    """Milliseconds since boot, suspended time included."""
    # macOS: CLOCK_MONOTONIC_RAW goes on while the machine sleeps, CLOCK_UPTIME_RAW does not
    clock = time.CLOCK_BOOTTIME if LINUX else time.CLOCK_MONOTONIC_RAW
    return time.clock_gettime_ns(clock) // 1_000_000


def awake_ms() -> int:
    """Milliseconds the machine was awake since boot: behind `boot_ms` by what it slept."""
    clock = time.CLOCK_MONOTONIC if LINUX else getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


def boot_id() -> str:
    """A name for this boot; "" where there is none, which reads as another boot each time."""
    try:
        if LINUX:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        if MACOS:
            asked = subprocess.run(
                ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, check=True, timeout=5
            )
            return asked.stdout.decode("ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return ""


def full_sync(fd: int) -> None:
    """Returns once the file is on stable storage; OSError when that failed."""
    if MACOS:
        import fcntl

        fcntl.fcntl(fd, _F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def raise_file_limit(wanted: int) -> int:
    """Lifts the soft limit of open files towards `wanted`; what is granted now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError):
            return soft
        return target
    return soft
