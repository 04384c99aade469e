//! Redis as a queue with priorities and leases: `ready` and `leased` are sorted sets, `bead` holds the payloads. Each step is
//! one script, so that a crash between two commands cannot lose a bead.

use std::io::Write as _;

use memchr::memchr;

use crate::clock;
use crate::dialect::{Ask, Dialect, Frame, Malformed, Op, Reply, integer, text};

const CLAIM: &str = "local r=redis.call('ZPOPMIN','ready') if not r[1] then return false end \
redis.call('ZADD','leased',ARGV[1],r[1]) return {r[1],redis.call('HGET','bead',r[1])}";
const SETTLE: &str = "local n=redis.call('ZREM','leased',ARGV[1]) redis.call('HDEL','bead',ARGV[1]) return n";
const TTL_MS: u64 = 300_000; // gastown's default lease

pub struct Redis;

fn command(words: &[&str], out: &mut Vec<u8>) {
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n{word}\r\n", word.len());
    }
}

impl Dialect for Redis {
    fn greets(&self) -> bool {
        true
    }

    /// Hello loads both scripts under names of their own (functions of Redis 7), so that a call carries no script text.
    fn encode(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        match ask.op {
            Op::Hello => {
                let library = format!(
                    "#!lua name=queue\nredis.register_function('claim',function(keys,ARGV) {CLAIM} end)\n\
                     redis.register_function('settle',function(keys,ARGV) {SETTLE} end)"
                );
                command(&["FUNCTION", "LOAD", "REPLACE", &library], out);
            }
            Op::Claim => command(&["FCALL", "claim", "0", &(clock::now_ns() / clock::MS + TTL_MS).to_string()], out),
            Op::Settle | Op::Turnover => command(&["FCALL", "settle", "0", ask.bead], out),
        }
    }

    fn decode<'a>(&self, op: Op, input: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        let Some((line, length)) = line(input, 0) else { return Ok(None) };
        match (op, line.first()) {
            (Op::Hello, Some(b'$')) => Ok(bulk(input, 0)?.map(|(_, end)| Frame::new(end, Reply::Greeted { worker_id: "", held: None }))),
            (Op::Settle | Op::Turnover, Some(b':')) if line == b":1" => Ok(Some(Frame::new(length, Reply::Settled))),
            (Op::Claim, _) if line == b"$-1" => Ok(Some(Frame::new(length, Reply::Empty { retry_after_ms: 0 }))),
            (Op::Claim, _) if line == b"*2" => {
                let Some((id, end)) = bulk(input, length)? else { return Ok(None) };
                let Some((_, end)) = bulk(input, end)? else { return Ok(None) };
                Ok(Some(Frame::new(end, Reply::Granted { bead: text(id)?, grant: 0 })))
            }
            _ => Err(Malformed::new("redis says", line)),
        }
    }
}

fn line(input: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let rest = input.get(start..)?;
    let end = memchr(b'\n', rest)?;
    Some((rest.get(..end.checked_sub(1)?)?, start + end + 1))
}

fn bulk(input: &[u8], start: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((head, at)) = line(input, start) else { return Ok(None) };
    let size = head.strip_prefix(b"$").map(integer).and_then(|n| usize::try_from(n).ok());
    let size = size.ok_or_else(|| Malformed::new("not a bulk string", head))?;
    if input.len() < at + size + 2 {
        return Ok(None);
    }
    Ok(input.get(at..at + size).map(|bytes| (bytes, at + size + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_an_array_of_two() {
        let bytes = b"*2\r\n$2\r\nb1\r\n$3\r\nx\r\n\r\n";
        for cut in 1..bytes.len() {
            assert!(Redis.decode(Op::Claim, &bytes[..cut]).unwrap().is_none());
        }
        let frame = Redis.decode(Op::Claim, bytes).unwrap().unwrap();
        assert_eq!(frame, Frame::new(bytes.len(), Reply::Granted { bead: "b1", grant: 0 }));
        assert!(Redis.decode(Op::Settle, b":0\r\n").is_err());
    }
}
