//! One JSON line a call, for the history checker: what was asked, when, and what is known of its outcome.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

pub struct History {
    file: BufWriter<File>,
}

#[derive(Clone, Copy)]
pub enum Outcome {
    Ok,
    /// definitely without effect
    Fail,
    /// may or may not have happened
    Info,
}

pub struct Entry<'a> {
    pub client: &'a str,
    pub op: &'a str,
    /// JSON text of the params
    pub args: &'a [u8],
    pub invoked_ns: u64,
    pub returned_ns: u64,
    pub outcome: Outcome,
    pub code: i64,
    pub seq: i64,
    pub epoch: i64,
    pub bead: &'a str,
    pub token: i64,
}

impl History {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(History { file: BufWriter::new(file) })
    }

    pub fn write(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let outcome = match entry.outcome {
            Outcome::Ok => "ok",
            Outcome::Fail => "fail",
            Outcome::Info => "info",
        };
        write!(self.file, "{{\"client\":\"{}\",\"op\":\"{}\",\"args\":", entry.client, entry.op)?;
        self.file.write_all(entry.args)?;
        write!(self.file, ",\"t_inv\":{},\"t_ret\":{},\"outcome\":\"{outcome}\"", entry.invoked_ns, entry.returned_ns)?;
        self.optional("code", entry.code)?;
        self.optional("epoch", entry.epoch)?;
        self.optional("seq", entry.seq)?;
        if !entry.bead.is_empty() {
            write!(self.file, ",\"bead\":\"{}\",\"token\":{}", entry.bead, entry.token)?;
        }
        self.file.write_all(b"}\n")
    }

    fn optional(&mut self, name: &str, value: i64) -> io::Result<()> {
        if value != 0 { write!(self.file, ",\"{name}\":{value}") } else { Ok(()) }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
