//! What a worker can ask and be told, whatever the queue speaks. A dialect turns an `Ask` into bytes and bytes into a `Frame`.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// registration, or whatever a connection needs before its first claim
    Hello,
    Claim,
    Settle,
    /// settle and claim in one call
    Turnover,
}

/// One request, borrowed from its worker.
pub struct Ask<'a> {
    pub op: Op,
    pub serial: u64,
    pub name: &'a str,
    pub worker_id: &'a str,
    pub bead: &'a str,
    pub grant: i64,
    pub bearer: &'a str,
    pub host: &'a str,
    pub request_id: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `held`: a grant this name already has
    Greeted {
        worker_id: &'a str,
        held: Option<(&'a str, i64)>,
    },
    Granted {
        bead: &'a str,
        grant: i64,
    },
    /// nothing to claim; a Turnover was settled all the same
    Empty {
        retry_after_ms: u64,
    },
    Settled,
    Refused {
        code: i64,
        retry_after_ms: u64,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// bytes used up
    pub length: usize,
    pub reply: Reply<'a>,
    /// 0 where the queue has none
    pub seq: i64,
    pub epoch: i64,
}

impl<'a> Frame<'a> {
    pub fn new(length: usize, reply: Reply<'a>) -> Self {
        Frame { length, reply, seq: 0, epoch: 0 }
    }
}

/// A reply this generator cannot read: the measurement ends.
#[derive(Debug)]
pub struct Malformed(pub String);

impl Malformed {
    pub fn new(what: &str, bytes: &[u8]) -> Self {
        let start = bytes.get(..bytes.len().min(400)).unwrap_or_default();
        Malformed(format!("{what}: {}", String::from_utf8_lossy(start)))
    }
}

pub trait Dialect {
    /// Whether a worker must say Hello before its first claim.
    fn greets(&self) -> bool;
    /// Whether a lost connection may be replaced and the call repeated.
    fn survives(&self) -> bool {
        false
    }
    /// The history's name for the call; its params are appended as JSON.
    fn describe(&self, ask: &Ask<'_>, params: &mut Vec<u8>) -> &'static str {
        params.extend_from_slice(b"{}");
        match ask.op {
            Op::Hello => "hello",
            Op::Claim => "claim",
            Op::Settle | Op::Turnover => "settle",
        }
    }
    fn encode(&self, ask: &Ask<'_>, out: &mut Vec<u8>);
    /// None: more bytes are needed.
    fn decode<'a>(&self, op: Op, input: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed>;
}

pub fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::new("not UTF-8", bytes))
}

/// The leading decimal integer, 0 without one.
pub fn integer(bytes: &[u8]) -> i64 {
    let (sign, digits) = match bytes.strip_prefix(b"-") {
        Some(rest) => (-1, rest),
        None => (1, bytes),
    };
    let digits = digits.iter().take_while(|b| b.is_ascii_digit());
    sign * digits.fold(0i64, |n, b| n.wrapping_mul(10).wrapping_add(i64::from(b - b'0')))
}
