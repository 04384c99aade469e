//! A server that answers every request with one fixed grant: what is left is the generator and the sockets.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};

use memchr::memchr;
use mio::{Events, Poll, Token};

use crate::jsonrpc::http_head;
use crate::plan::{Kind, StaticPlan};
use crate::stream::{Inbox, Listener, Outbox, Stream};

type Fault = Box<dyn std::error::Error>;

const LISTENER: Token = Token(usize::MAX - 1);

const REPLY: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"result":{"worker_id":"w-1","claims":[{"bead":{"id":"bead-0001","title":"Replace the bearing of the"#,
    r#" third wheel","description":"The wheel has run for two seasons and sings at speed; take it out, press the new bearing in and"#,
    r#" write down the play. Oil is in the shed behind the forge.","status":"in_progress","priority":2,"issue_type":"task","labels":"#,
    r#"["area-3"],"version":2,"attempt":1},"lease":{"bead_id":"bead-0001","worker_id":"w-1","token":17,"attempt":1,"expires_at_ms":"#,
    r#"1700000000000},"context":{"previous":[]}}],"seq":99,"epoch":1}}"#
);

struct Peer {
    stream: Stream,
    inbox: Inbox,
    outbox: Outbox,
}

/// Serves until stdin ends, so that it never outlives whoever started it.
pub fn serve(plan: &StaticPlan) -> Result<String, Fault> {
    let mut poll = Poll::new()?;
    let listener = Listener::bind(&plan.listen, poll.registry(), LISTENER)?;
    writeln!(io::stdout(), "{}", listener.address(&plan.listen)?)?;
    std::thread::spawn(end_with_stdin);
    let reply = match plan.dialect {
        Kind::Http => format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{REPLY}", REPLY.len()),
        Kind::Lines => format!("{REPLY}\n"),
        Kind::Beanstalk | Kind::Redis | Kind::Postgres => return Err("only http and lines have a static server".into()),
    };
    let mut peers: HashMap<usize, Peer> = HashMap::new();
    let mut events = Events::with_capacity(1_024);
    let mut next = 0;
    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok(stream) = listener.accept(poll.registry(), Token(next)) {
                    peers.insert(next, Peer { stream, inbox: Inbox::new(), outbox: Outbox::default() });
                    next += 1;
                }
            } else if let Some(peer) = peers.get_mut(&event.token().0)
                && !peer.answer(plan.dialect, reply.as_bytes())
            {
                peers.remove(&event.token().0);
            }
        }
    }
}

fn end_with_stdin() {
    let mut byte = [0];
    let stdin = io::stdin();
    while matches!(stdin.lock().read(&mut byte), Ok(1..)) {}
    std::process::exit(0);
}

impl Peer {
    /// False once the peer is gone.
    fn answer(&mut self, kind: Kind, reply: &[u8]) -> bool {
        let Ok(connected) = self.inbox.fill(&mut self.stream) else { return false };
        while let Some(length) = request_length(kind, self.inbox.filled()) {
            self.inbox.consume(length);
            self.outbox.bytes.extend_from_slice(reply);
        }
        self.outbox.flush(&mut self.stream).is_ok() && connected
    }
}

fn request_length(kind: Kind, input: &[u8]) -> Option<usize> {
    if kind == Kind::Lines {
        return memchr(b'\n', input).map(|end| end + 1);
    }
    let head = http_head(input).ok()??;
    let length = head.length + head.body_length;
    (input.len() >= length).then_some(length)
}
