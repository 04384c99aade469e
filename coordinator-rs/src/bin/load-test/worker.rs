//! One worker: a connection, what it last asked and what it holds.

use std::io;

use mio::{Registry, Token};

use crate::dialect::{Ask, Op};
use crate::stream::{Inbox, Outbox, Stream};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// ready for its next claim: before the start, or idle in the open loop
    Ready,
    /// a reply is due
    Waiting,
    /// asks again, with the same request_id, at this instant
    Resting {
        until_ns: u64,
    },
    Done,
}

pub struct Worker {
    pub name: String,
    pub bearer: String,
    pub worker_id: String,
    pub bead: String,
    pub grant: i64,
    pub op: Op,
    pub phase: Phase,
    pub serial: u64,
    /// when this call was meant to start, and when its latest attempt did
    pub first_ns: u64,
    pub asked_ns: u64,
    /// whether some byte of this attempt has left
    pub sent: bool,
    pub request_id: String,
    pub inbox: Inbox,
    pub outbox: Outbox,
    stream: Option<Stream>,
}

impl Worker {
    pub fn new(name: String, bearer: String) -> Self {
        Worker {
            name,
            bearer,
            worker_id: String::new(),
            bead: String::new(),
            grant: 0,
            op: Op::Hello,
            phase: Phase::Ready,
            serial: 0,
            first_ns: 0,
            asked_ns: 0,
            sent: false,
            request_id: String::new(),
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            stream: None,
        }
    }

    pub fn holds(&mut self, bead: &str, grant: i64) {
        self.bead.clear();
        self.bead.push_str(bead);
        self.grant = grant;
    }

    pub fn ask<'a>(&'a self, host: &'a str) -> Ask<'a> {
        Ask {
            op: self.op,
            serial: self.serial,
            name: &self.name,
            worker_id: &self.worker_id,
            bead: &self.bead,
            grant: self.grant,
            bearer: &self.bearer,
            host,
            request_id: (!self.request_id.is_empty()).then_some(self.request_id.as_str()),
        }
    }

    pub fn connect(&mut self, address: &str, registry: &Registry, token: Token) -> io::Result<()> {
        if self.stream.is_none() {
            let stream = Stream::connect(address, registry, token)?;
            stream.tune();
            self.stream = Some(stream);
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let pending = self.outbox.pending();
        self.outbox.flush(stream)?;
        self.sent |= self.outbox.pending() < pending;
        Ok(())
    }

    /// Ok(false): the peer has hung up.
    pub fn fill(&mut self) -> io::Result<bool> {
        match &mut self.stream {
            Some(stream) => self.inbox.fill(stream),
            None => Ok(true),
        }
    }

    pub fn hang_up(&mut self) {
        self.stream = None;
        self.inbox.clear();
        self.outbox.clear();
    }
}
