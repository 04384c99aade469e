//! Instants are CLOCK_MONOTONIC nanoseconds, comparable between processes of one machine; CPU time is this process's own.

use rustix::time::{ClockId, clock_gettime};

pub const MS: u64 = 1_000_000; // nanoseconds

fn read(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

pub fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

pub fn cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}
