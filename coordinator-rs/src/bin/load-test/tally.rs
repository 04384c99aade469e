//! Counts and latency buckets of a run. Buckets are log-linear over microseconds: exact below 128, then 64 to each doubling
//! (1.6 % wide). `loadtest/histogram.py` reads the same numbering back.

use std::collections::BTreeMap;

use serde_json::{Value, json};

const EXACT: u64 = 128; // buckets of one microsecond
const STEPS: u64 = 64; // buckets a doubling

#[derive(Default)]
pub struct Latency {
    buckets: Vec<u64>,
}

pub fn bucket(us: u64) -> usize {
    if us < EXACT {
        return usize::try_from(us).unwrap_or(0);
    }
    let doubling = u64::from(us.ilog2()) - 6; // 128..255 is the first
    usize::try_from(EXACT + (doubling - 1) * STEPS + (us >> doubling) - STEPS).unwrap_or(usize::MAX)
}

impl Latency {
    pub fn record(&mut self, ns: u64) {
        let at = bucket(ns / 1_000);
        if at >= self.buckets.len() {
            self.buckets.resize(at + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(at) {
            *count += 1;
        }
    }

    fn sparse(&self) -> Value {
        let full = self.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
        full.map(|(at, n)| (at.to_string(), json!(n))).collect::<serde_json::Map<_, _>>().into()
    }
}

#[derive(Default)]
pub struct Tally {
    pub claim: Latency,
    pub settle: Latency,
    pub granted: u64,
    pub settled: u64,
    pub empty: u64,
    /// calls whose outcome stayed unknown
    pub unknown: u64,
    pub reconnects: u64,
    pub gave_up: u64,
    pub lost: u64,
    pub refused: BTreeMap<i64, u64>,
    pub started_ns: u64,
    pub last_ns: u64,
    pub started_cpu_ns: u64,
    pub ended_cpu_ns: u64,
}

impl Tally {
    pub fn report(&self, workers: usize) -> String {
        let elapsed = self.last_ns.saturating_sub(self.started_ns) as f64 / 1e9;
        let cpu = self.ended_cpu_ns.saturating_sub(self.started_cpu_ns) as f64 / 1e9;
        json!({
            "generator": "compiled", "workers": workers, "elapsed_s": elapsed, "cpu_s": cpu,
            "granted": self.granted, "settled": self.settled, "empty": self.empty, "unknown": self.unknown,
            "reconnects": self.reconnects, "gave_up": self.gave_up, "lost": self.lost,
            "refused": self.refused.iter().map(|(c, n)| (c.to_string(), json!(n))).collect::<serde_json::Map<_, _>>(),
            "claim_us": self.claim.sparse(), "settle_us": self.settle.sparse(),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        let mut last = 0;
        for us in 1..200_000 {
            let at = bucket(us);
            assert!(at == last || at == last + 1, "{us}");
            last = at;
        }
        assert_eq!((bucket(127), bucket(128), bucket(129), bucket(130), bucket(256)), (127, 128, 128, 129, 192));
    }
}
