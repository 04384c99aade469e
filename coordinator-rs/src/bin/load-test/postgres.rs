//! PostgreSQL, protocol 3, trust authentication: two prepared statements, one commit a call.

use memchr::memmem::find;

use crate::dialect::{Ask, Dialect, Frame, Malformed, Op, Reply, integer, text};

const CLAIM: &str = "UPDATE bead SET state='leased', token=token+1, worker=$1, expires_at=now()+interval '5 min' WHERE id=(\
SELECT id FROM bead WHERE state='ready' ORDER BY priority, id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id, token, body";
const SETTLE: &str = "UPDATE bead SET state='closed' WHERE id=$1::bigint AND token=$2::bigint AND state='leased'";
const STARTUP: [&[u8]; 4] = [b"user", b"bench", b"database", b"bench"];

pub struct Postgres;

fn message(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(u32::try_from(body.len()).unwrap_or(u32::MAX) + 4).to_be_bytes());
    out.extend_from_slice(body);
}

fn parse(name: &[u8], sql: &str, out: &mut Vec<u8>) {
    let body = [name, b"\0", sql.as_bytes(), b"\0\0\0"].concat();
    message(b'P', &body, out);
}

/// Bind, Execute, Sync with text parameters and text results.
fn execute(name: &[u8], parameters: &[&str], out: &mut Vec<u8>) {
    let count = u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut body = [b"\0".as_slice(), name, b"\0\0\0", &count].concat();
    for value in parameters {
        body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(b"\0\0");
    message(b'B', &body, out);
    message(b'E', b"\0\0\0\0\0", out);
    message(b'S', b"", out);
}

impl Dialect for Postgres {
    fn greets(&self) -> bool {
        true
    }

    fn encode(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        match ask.op {
            Op::Hello => {
                let mut body = 196_608u32.to_be_bytes().to_vec(); // protocol 3.0
                for word in STARTUP {
                    body.extend_from_slice(word);
                    body.push(0);
                }
                body.push(0);
                out.extend_from_slice(&(u32::try_from(body.len()).unwrap_or(u32::MAX) + 4).to_be_bytes());
                out.extend_from_slice(&body);
                parse(b"claim", CLAIM, out);
                parse(b"settle", SETTLE, out);
                message(b'S', b"", out);
            }
            Op::Claim => execute(b"claim", &[ask.name], out),
            Op::Settle | Op::Turnover => execute(b"settle", &[ask.bead, &ask.grant.to_string()], out),
        }
    }

    fn decode<'a>(&self, op: Op, input: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        let mut at = 0;
        let mut row = None;
        let mut tag: &[u8] = b"";
        let mut parsed = 0;
        loop {
            let Some((kind, body, end)) = frame(input, at) else { return Ok(None) };
            at = end;
            match kind {
                b'E' => return Err(Malformed::new("PostgreSQL says", body)),
                b'R' if body.first_chunk() != Some(&[0u8; 4]) => return Err(Malformed::new("authentication", body)),
                b'1' => parsed += 1,
                b'D' => row = Some(body),
                b'C' => tag = body,
                b'Z' if op != Op::Hello || parsed == 2 => break,
                _ => {}
            }
        }
        let reply = match (op, row) {
            (Op::Hello, _) => Reply::Greeted { worker_id: "", held: None },
            (Op::Claim, Some(row)) => granted(row)?,
            (Op::Claim, None) => Reply::Empty { retry_after_ms: 0 },
            _ if find(tag, b"UPDATE 1").is_some() => Reply::Settled,
            _ => return Err(Malformed::new("nothing settled", tag)),
        };
        Ok(Some(Frame::new(at, reply)))
    }
}

/// One message: kind, body, end.
fn frame(input: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let kind = *input.get(at)?;
    let size = u32::from_be_bytes(*input.get(at + 1..)?.first_chunk()?) as usize;
    let body = input.get(at + 5..at + 1 + size)?;
    Some((kind, body, at + 1 + size))
}

fn column(row: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let size = u32::from_be_bytes(*row.get(at..)?.first_chunk()?) as usize;
    Some((row.get(at + 4..at + 4 + size)?, at + 4 + size))
}

fn granted(row: &[u8]) -> Result<Reply<'_>, Malformed> {
    let short = || Malformed::new("short row", row);
    let (id, next) = column(row, 2).ok_or_else(short)?;
    let (token, _) = column(row, next).ok_or_else(short)?;
    Ok(Reply::Granted { bead: text(id)?, grant: integer(token) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        message(kind, body, &mut out);
        out
    }

    #[test]
    fn a_row_is_a_grant_once_the_server_is_ready() {
        let row = b"\0\x03\0\0\0\x02b7\0\0\0\x0212\0\0\0\x01x";
        let bytes = [say(b'2', b""), say(b'D', row), say(b'C', b"UPDATE 1\0"), say(b'Z', b"I")].concat();
        for cut in 0..bytes.len() {
            assert!(Postgres.decode(Op::Claim, &bytes[..cut]).unwrap().is_none());
        }
        let frame = Postgres.decode(Op::Claim, &bytes).unwrap().unwrap();
        assert_eq!(frame.reply, Reply::Granted { bead: "b7", grant: 12 });
        assert!(Postgres.decode(Op::Settle, &[say(b'C', b"UPDATE 0\0"), say(b'Z', b"I")].concat()).is_err());
    }
}
