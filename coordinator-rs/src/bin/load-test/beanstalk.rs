//! beanstalkd: reserve, delete. Its reservation lives in memory; only the deletion is synced (with -f0).

use std::io::Write as _;

use memchr::memmem::find;

use crate::dialect::{Ask, Dialect, Frame, Malformed, Op, Reply, integer, text};

pub struct Beanstalk;

impl Dialect for Beanstalk {
    fn greets(&self) -> bool {
        false
    }

    fn encode(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        match ask.op {
            Op::Hello | Op::Claim => out.extend_from_slice(b"reserve-with-timeout 0\r\n"),
            Op::Settle | Op::Turnover => {
                let _ = write!(out, "delete {}\r\n", ask.bead);
            }
        }
    }

    fn decode<'a>(&self, _op: Op, input: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        let Some(end) = find(input, b"\r\n") else { return Ok(None) };
        let line = input.get(..end).unwrap_or_default();
        let length = end + 2;
        if line == b"DELETED" {
            return Ok(Some(Frame::new(length, Reply::Settled)));
        }
        if line == b"TIMED_OUT" {
            return Ok(Some(Frame::new(length, Reply::Empty { retry_after_ms: 0 })));
        }
        let mut words = line.split(|b| *b == b' ');
        let (Some(b"RESERVED"), Some(id), Some(size)) = (words.next(), words.next(), words.next()) else {
            return Err(Malformed::new("beanstalkd says", line));
        };
        let body = usize::try_from(integer(size)).map_err(|_| Malformed::new("size", line))?;
        let length = length + body + 2;
        if input.len() < length {
            return Ok(None);
        }
        Ok(Some(Frame::new(length, Reply::Granted { bead: text(id)?, grant: 0 })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_counts_its_body() {
        let bytes = b"RESERVED 12 5\r\nhe\r\no\r\n";
        assert!(Beanstalk.decode(Op::Claim, &bytes[..bytes.len() - 1]).unwrap().is_none());
        let frame = Beanstalk.decode(Op::Claim, bytes).unwrap().unwrap();
        assert_eq!(frame, Frame::new(bytes.len(), Reply::Granted { bead: "12", grant: 0 }));
        assert!(Beanstalk.decode(Op::Settle, b"NOT_FOUND\r\n").is_err());
    }
}
