//! A non-blocking stream over TCP or a unix socket; the address is text: `unix:PATH` or `tcp:HOST:PORT`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs as _};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Address<'a> {
    Tcp(SocketAddr),
    Unix(&'a str),
}

fn parse(text: &str) -> io::Result<Address<'_>> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address::Unix(path));
    }
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("not unix:PATH or tcp:HOST:PORT: {text}"));
    let address = text.strip_prefix("tcp:").ok_or_else(bad)?;
    address.to_socket_addrs()?.next().map(Address::Tcp).ok_or_else(bad)
}

impl Stream {
    pub fn connect(address: &str, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = match parse(address)? {
            Address::Tcp(a) => Stream::Tcp(TcpStream::connect(a)?),
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        stream.register(registry, token)?;
        Ok(stream)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Stream::Tcp(s) => registry.register(s, token, interest),
            Stream::Unix(s) => registry.register(s, token, interest),
        }
    }

    /// Small requests leave at once.
    pub fn tune(&self) {
        if let Stream::Tcp(s) = self {
            let _ = s.set_nodelay(true);
        }
    }
}

impl Listener {
    pub fn bind(address: &str, registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(match parse(address)? {
            Address::Tcp(a) => {
                let mut listener = TcpListener::bind(a)?;
                registry.register(&mut listener, token, Interest::READABLE)?;
                Listener::Tcp(listener)
            }
            Address::Unix(path) => {
                let mut listener = UnixListener::bind(path)?;
                registry.register(&mut listener, token, Interest::READABLE)?;
                Listener::Unix(listener)
            }
        })
    }

    pub fn accept(&self, registry: &Registry, token: Token) -> io::Result<Stream> {
        let mut stream = match self {
            Listener::Tcp(l) => Stream::Tcp(l.accept()?.0),
            Listener::Unix(l) => Stream::Unix(l.accept()?.0),
        };
        stream.tune();
        stream.register(registry, token)?;
        Ok(stream)
    }

    /// As `parse` reads it back, with the port the system chose.
    pub fn address(&self, asked: &str) -> io::Result<String> {
        match self {
            Listener::Tcp(l) => Ok(format!("tcp:{}", l.local_addr()?)),
            Listener::Unix(_) => Ok(asked.to_owned()),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buffer),
            Stream::Unix(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.write(bytes),
            Stream::Unix(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of replies not yet decoded.
pub struct Inbox {
    bytes: Vec<u8>,
    filled: usize,
}

const INBOX_BYTES: usize = 4096; // holds a granted bead of 300 B with its headers; grows when a reply is larger

impl Inbox {
    pub fn new() -> Self {
        Inbox { bytes: vec![0; INBOX_BYTES], filled: 0 }
    }

    /// Stands in while the real one is lent out.
    pub const fn empty() -> Self {
        Inbox { bytes: Vec::new(), filled: 0 }
    }

    pub fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.filled);
        self.bytes.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    /// Reads what is there. Ok(true): the peer is still connected.
    pub fn fill(&mut self, stream: &mut Stream) -> io::Result<bool> {
        loop {
            if self.filled == self.bytes.len() {
                self.bytes.resize((self.bytes.len() * 2).max(INBOX_BYTES), 0);
            }
            let room = self.bytes.len() - self.filled;
            match stream.read(self.bytes.get_mut(self.filled..).unwrap_or_default()) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.filled += count;
                    if count < room {
                        return Ok(true); // a short read has emptied the socket
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Bytes of a request not yet taken by the system.
#[derive(Default)]
pub struct Outbox {
    pub bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    pub fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match stream.write(self.bytes.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.clear();
        Ok(())
    }
}
