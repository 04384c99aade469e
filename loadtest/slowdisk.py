"""What a sync of this disk costs, and a way to make each one about a millisecond slower for every system alike.

`python -m gastown.loadtest.slowdisk FOLDER` prints the median time of an fdatasync of 4 KiB, in microseconds.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

SYNCS = 200  # at most; a disk of 4 ms a sync is given up after CALIBRATION_S
CALIBRATION_S = 0.5
PAGE = b"\0" * 4096
DELAY_US = 1000  # an ordinary SSD

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
#define SLOW(NAME) \\
  int NAME(int fd) { \\
    static int (*real)(int); \\
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #NAME); \\
    usleep(DELAY_US); \\
    return real(fd); \\
  }
SLOW(fsync)
SLOW(fdatasync)
"""


def build_shim(folder: Path) -> Path | None:
    """Compiles the preloaded library; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source, library = folder / "slowdisk.c", folder / "slowdisk.so"
    source.write_text(SOURCE)
    options = ["-shared", "-fPIC", "-O2", f"-DDELAY_US={DELAY_US}", "-o", str(library), str(source), "-ldl"]
    subprocess.run([compiler, *options], check=True)
    library.chmod(0o755)
    return library


def sync_us(folder: Path) -> float:
    """Median microseconds of write + fdatasync, in this process."""
    path = folder / "sync-probe"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    times: list[int] = []
    until = time.monotonic() + CALIBRATION_S
    try:
        while len(times) < SYNCS and time.monotonic() < until:
            started = time.monotonic_ns()
            os.pwrite(descriptor, PAGE, len(times) % 16 * len(PAGE))
            os.fdatasync(descriptor)
            times.append(time.monotonic_ns() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(times) / 1000


def calibrate(folder: Path, environment: Mapping[str, str]) -> float:
    """The same in a process that runs under `environment`, so with the delay where it is preloaded."""
    command = [sys.executable, "-m", "gastown.loadtest.slowdisk", str(folder)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    print(sync_us(Path(sys.argv[1])))
