//! gastown's own dialect: JSON-RPC 2.0, framed by HTTP/1.1 or by newlines. Replies are searched for the few fields that matter.

use std::io::Write as _;

use memchr::memmem::{Finder, find};

use crate::dialect::{Ask, Dialect, Frame, Malformed, Op, Reply, integer, text};
use crate::plan::{Ending, Kind, Plan};

pub struct JsonRpc {
    framed_by_http: bool,
    numbered: bool,
    release: bool,
    wait_ms: u64,
    filter: Option<String>,
    lease: Finder<'static>,
    result: Finder<'static>,
}

impl JsonRpc {
    pub fn new(plan: &Plan) -> Self {
        JsonRpc {
            framed_by_http: plan.dialect == Kind::Http,
            numbered: plan.history.is_some(),
            release: plan.ending == Ending::Release,
            wait_ms: plan.wait_ms,
            filter: plan.filter.clone(),
            lease: Finder::new("\"lease\""),
            result: Finder::new("\"result\""),
        }
    }

    /// Params of a claim, without the braces; a claim inside a completion takes no request_id of its own.
    fn claim(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        let _ = write!(out, "\"worker_id\":\"{}\"", ask.worker_id);
        if self.wait_ms > 0 {
            let _ = write!(out, ",\"wait_ms\":{}", self.wait_ms);
        }
        if let Some(filter) = &self.filter {
            let _ = write!(out, ",\"filter\":{filter}");
        }
    }

    fn method(&self, op: Op) -> &'static str {
        match op {
            Op::Hello => "worker.register",
            Op::Claim => "work.claim",
            Op::Settle if self.release => "work.release",
            Op::Settle | Op::Turnover => "work.complete",
        }
    }

    fn params(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        out.push(b'{');
        match ask.op {
            Op::Hello => {
                let _ = write!(out, "\"name\":\"{}\"", ask.name);
            }
            Op::Claim => self.claim(ask, out),
            Op::Settle | Op::Turnover => {
                let _ = write!(out, "\"bead_id\":\"{}\",\"token\":{}", ask.bead, ask.grant);
            }
        }
        if ask.op == Op::Turnover {
            out.extend_from_slice(b",\"claim\":{");
            self.claim(ask, out);
            out.push(b'}');
        }
        if let Some(id) = ask.request_id {
            let _ = write!(out, ",\"request_id\":\"{id}\"");
        }
        out.push(b'}');
    }

    fn call(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        let _ = write!(out, "{{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"{}\",\"params\":", ask.serial, self.method(ask.op));
        self.params(ask, out);
        out.push(b'}');
    }

    fn read<'a>(&self, op: Op, body: &'a [u8], length: usize) -> Result<Frame<'a>, Malformed> {
        let result = self.result.find(body);
        if let Some(error) = find(body.get(..result.unwrap_or(body.len())).unwrap_or_default(), b"\"error\"") {
            return Ok(Frame::new(length, refused(tail(body, error))));
        }
        let start = result.ok_or_else(|| Malformed::new("neither result nor error", body))?;
        let inside = tail(body, start);
        let mut frame = Frame::new(length, self.outcome(op, inside)?);
        if self.numbered {
            frame.seq = number(inside, b"\"seq\"").unwrap_or(0);
            frame.epoch = number(inside, b"\"epoch\"").unwrap_or(0);
        }
        Ok(frame)
    }

    fn outcome<'a>(&self, op: Op, inside: &'a [u8]) -> Result<Reply<'a>, Malformed> {
        match op {
            Op::Hello => {
                let id = after(inside, b"\"worker_id\"").and_then(quoted).ok_or_else(|| Malformed::new("no worker_id", inside))?;
                let held = match after(inside, b"\"leases\"") {
                    Some(leases) if find(leases, b"\"bead_id\"").is_some() => Some(lease(leases)?),
                    _ => None,
                };
                Ok(Reply::Greeted { worker_id: text(id)?, held })
            }
            Op::Settle => Ok(Reply::Settled),
            Op::Claim | Op::Turnover => match self.lease.find(inside) {
                Some(at) => {
                    let (bead, grant) = lease(tail(inside, at))?;
                    Ok(Reply::Granted { bead, grant })
                }
                None if find(inside, b"\"claims\"").is_some() => Ok(Reply::Empty { retry_after_ms: retry_after_ms(inside) }),
                None => Err(Malformed::new("no claims", inside)),
            },
        }
    }
}

impl Dialect for JsonRpc {
    fn greets(&self) -> bool {
        true
    }

    fn survives(&self) -> bool {
        true
    }

    fn describe(&self, ask: &Ask<'_>, params: &mut Vec<u8>) -> &'static str {
        self.params(ask, params);
        self.method(ask.op)
    }

    fn encode(&self, ask: &Ask<'_>, out: &mut Vec<u8>) {
        if !self.framed_by_http {
            self.call(ask, out);
            out.push(b'\n');
            return;
        }
        let mut body = Vec::with_capacity(256);
        self.call(ask, &mut body);
        let _ = write!(out, "POST /rpc HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", ask.host);
        if !ask.bearer.is_empty() {
            let _ = write!(out, "Authorization: Bearer {}\r\n", ask.bearer);
        }
        let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(&body);
    }

    fn decode<'a>(&self, op: Op, input: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        if !self.framed_by_http {
            let Some(end) = memchr::memchr(b'\n', input) else { return Ok(None) };
            return self.read(op, input.get(..end).unwrap_or_default(), end + 1).map(Some);
        }
        let Some(head) = http_head(input)? else { return Ok(None) };
        let Some(body) = input.get(head.length..head.length + head.body_length) else { return Ok(None) };
        let length = head.length + head.body_length;
        if head.status != 200 && find(body, b"\"error\"").is_none() {
            return Ok(Some(Frame::new(length, Reply::Refused { code: -head.status, retry_after_ms: 0 })));
        }
        self.read(op, body, length).map(Some)
    }
}

pub struct Head {
    pub length: usize,
    pub body_length: usize,
    status: i64,
}

/// Length of the head and of the body it announces; None while the head is incomplete.
pub fn http_head(input: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some(end) = find(input, b"\r\n\r\n") else { return Ok(None) };
    let head = input.get(..end).unwrap_or_default();
    let status = integer(head.get(9..).unwrap_or_default());
    for line in head.split(|b| *b == b'\n') {
        if line.len() > 15 && line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case(b"content-length:")) {
            let value = line.get(15..).unwrap_or_default().trim_ascii();
            let body_length = usize::try_from(integer(value)).map_err(|_| Malformed::new("content-length", line))?;
            return Ok(Some(Head { length: end + 4, body_length, status }));
        }
    }
    Err(Malformed::new("no content-length", head))
}

fn tail(bytes: &[u8], start: usize) -> &[u8] {
    bytes.get(start..).unwrap_or_default()
}

/// What follows `"key" :`
fn after<'a>(bytes: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = tail(bytes, find(bytes, key)? + key.len()).trim_ascii_start();
    rest.strip_prefix(b":").map(<[u8]>::trim_ascii_start)
}

fn quoted(bytes: &[u8]) -> Option<&[u8]> {
    let inside = bytes.strip_prefix(b"\"")?;
    inside.get(..memchr::memchr(b'"', inside)?)
}

fn number(bytes: &[u8], key: &[u8]) -> Option<i64> {
    after(bytes, key).map(integer)
}

fn lease(bytes: &[u8]) -> Result<(&str, i64), Malformed> {
    let bead = after(bytes, b"\"bead_id\"").and_then(quoted).ok_or_else(|| Malformed::new("no bead_id", bytes))?;
    let grant = number(bytes, b"\"token\"").ok_or_else(|| Malformed::new("no token", bytes))?;
    Ok((text(bead)?, grant))
}

fn retry_after_ms(bytes: &[u8]) -> u64 {
    number(bytes, b"\"retry_after_ms\"").unwrap_or(0).unsigned_abs()
}

fn refused(error: &[u8]) -> Reply<'_> {
    Reply::Refused { code: number(error, b"\"code\"").unwrap_or(0), retry_after_ms: retry_after_ms(error) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::plan::{Cli, Command};

    fn dialect(words: &[&str]) -> JsonRpc {
        let all = ["load-test", "run"].iter().chain(words);
        match Cli::parse_from(all).command {
            Command::Run(plan) => JsonRpc::new(&plan),
            Command::Static(_) => unreachable!(),
        }
    }

    fn ask(op: Op) -> Ask<'static> {
        Ask { op, serial: 7, name: "w", worker_id: "wk-1", bead: "b-1", grant: 42, bearer: "", host: "localhost", request_id: Some("r-7") }
    }

    #[test]
    fn a_turnover_is_one_line() {
        let d = dialect(&["--target", "unix:x", "--dialect", "lines", "--wait-ms", "5", "--filter", "{\"labels_all\":[\"a\"]}"]);
        let mut out = Vec::new();
        d.encode(&ask(Op::Turnover), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"work.complete\",\"params\":{\"bead_id\":\"b-1\",\"token\":42,\"claim\":\
             {\"worker_id\":\"wk-1\",\"wait_ms\":5,\"filter\":{\"labels_all\":[\"a\"]}},\"request_id\":\"r-7\"}}\n"
        );
    }

    #[test]
    fn a_grant_is_found_behind_the_bead() {
        let d = dialect(&["--target", "unix:x", "--dialect", "lines", "--history", "h"]);
        let line = b"{\"id\":7,\"jsonrpc\":\"2.0\",\"result\":{\"claims\":[{\"bead\":{\"id\":\"b-1\",\"title\":\"say \\\"lease\\\":{\"},\
            \"lease\": {\"token\" : 42, \"bead_id\":\"b-1\"}}],\"seq\":9,\"epoch\":2}}\nrest";
        let frame = d.decode(Op::Claim, line).unwrap().unwrap();
        assert_eq!(frame.reply, Reply::Granted { bead: "b-1", grant: 42 });
        assert_eq!((frame.seq, frame.epoch, frame.length), (9, 2, line.len() - 4));
    }

    #[test]
    fn an_incomplete_body_waits_and_a_refusal_has_its_code() {
        let d = dialect(&["--target", "tcp:127.0.0.1:1", "--dialect", "http"]);
        let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1007,\"message\":\"x\",\"data\":{\"retry_after_ms\":50}}}";
        let whole = format!("HTTP/1.1 200 OK\r\ncontent-LENGTH: {}\r\n\r\n{body}", body.len());
        let bytes = whole.as_bytes();
        assert!(d.decode(Op::Claim, &bytes[..bytes.len() - 1]).unwrap().is_none());
        let frame = d.decode(Op::Claim, bytes).unwrap().unwrap();
        assert_eq!(frame.reply, Reply::Refused { code: 1007, retry_after_ms: 50 });
        let busy = d.decode(Op::Claim, b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n").unwrap().unwrap();
        assert_eq!(busy.reply, Reply::Refused { code: -503, retry_after_ms: 0 });
    }

    #[test]
    fn a_worker_that_comes_back_learns_what_it_holds() {
        let d = dialect(&["--target", "unix:x", "--dialect", "lines"]);
        let line = b"{\"result\":{\"worker_id\":\"wk-2\",\"leases\":[{\"bead_id\":\"b-3\",\"token\":5}]}}\n";
        let frame = d.decode(Op::Hello, line).unwrap().unwrap();
        assert_eq!(frame.reply, Reply::Greeted { worker_id: "wk-2", held: Some(("b-3", 5)) });
        assert!(d.decode(Op::Claim, b"{\"result\":7}\n").is_err());
    }
}
