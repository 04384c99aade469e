//! The run: every worker registers, all start together, each claims and settles until the budget is spent or nothing is left.
//!
//! A call ends in a reply, in a refusal, or in a lost connection; only the last leaves its outcome unknown, and then the same
//! request_id is sent again until the retry window closes.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use crate::beanstalk::Beanstalk;
use crate::clock::{MS, cpu_ns, now_ns};
use crate::dialect::{Dialect, Malformed, Op, Reply};
use crate::history::{Entry, History, Outcome};
use crate::jsonrpc::JsonRpc;
use crate::plan::{Kind, Plan};
use crate::postgres::Postgres;
use crate::redis::Redis;
use crate::tally::Tally;
use crate::worker::{Phase, Worker};

const SCAN_EVERY_NS: u64 = 20 * MS; // grain of retries and time-outs
const START_GRACE_NS: u64 = 20_000 * MS; // thousands of connections meet a listen queue of a hundred
const REST_MIN_MS: u64 = 10; // a retry sooner than this only adds load
const REST_MAX_MS: u64 = 1_000; // the server's own advice may be longer; a drain of the queue would wait for it
const EVENTS_PER_POLL: usize = 1_024;

type Fault = Box<dyn std::error::Error>;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

fn dialect(plan: &Plan) -> Box<dyn Dialect> {
    match plan.dialect {
        Kind::Http | Kind::Lines => Box::new(JsonRpc::new(plan)),
        Kind::Beanstalk => Box::new(Beanstalk),
        Kind::Redis => Box::new(Redis),
        Kind::Postgres => Box::new(Postgres),
    }
}

/// What a decoded reply leaves to do, once its borrow of the inbox has ended.
enum Then {
    Greeted,
    Granted,
    Empty { retry_after_ms: u64 },
    Settled,
    Refused { code: i64, retry_after_ms: u64 },
}

struct Fleet<'p> {
    plan: &'p Plan,
    dialect: Box<dyn Dialect>,
    poll: Poll,
    workers: Vec<Worker>,
    tally: Tally,
    history: Option<History>,
    settled: Option<BufWriter<File>>,
    address: String,
    host: String,
    begun: bool,
    greeted: usize,
    done: usize,
    /// claims issued that were not answered "nothing to do"
    issued: u64,
    stop_ns: u64,
    idle: Vec<usize>,
    due_ns: u64,
    interval_ns: u64,
}

pub fn run(plan: &Plan) -> Result<String, Fault> {
    raise_descriptor_limit();
    let mut fleet = Fleet::new(plan)?;
    fleet.start()?;
    fleet.cycle()?;
    fleet.tally.ended_cpu_ns = cpu_ns();
    if let Some(history) = &mut fleet.history {
        history.flush()?;
    }
    if let Some(file) = &mut fleet.settled {
        file.flush()?;
    }
    Ok(fleet.tally.report(plan.workers))
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

fn host_of(address: &str) -> String {
    address.strip_prefix("tcp:").unwrap_or("localhost").to_owned()
}

impl<'p> Fleet<'p> {
    fn new(plan: &'p Plan) -> Result<Self, Fault> {
        let text = plan.tokens.as_ref().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
        let tokens: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let bearer = |i: usize| tokens.get(i.checked_rem(tokens.len()).unwrap_or(0)).unwrap_or(&"").to_string();
        Ok(Fleet {
            plan,
            dialect: dialect(plan),
            poll: Poll::new()?,
            workers: (0..plan.workers).map(|i| Worker::new(format!("{}-{i}", plan.run), bearer(i))).collect(),
            tally: Tally::default(),
            history: plan.history.as_deref().map(History::open).transpose()?,
            settled: plan.settled.as_ref().map(File::create).transpose()?.map(BufWriter::new),
            address: plan.target.clone(),
            host: host_of(&plan.target),
            begun: false,
            greeted: 0,
            done: 0,
            issued: 0,
            stop_ns: u64::MAX,
            idle: Vec::new(),
            due_ns: 0,
            interval_ns: plan.rate.map_or(0, |rate| (1e9 / rate) as u64),
        })
    }

    fn start(&mut self) -> Result<(), Fault> {
        for i in 0..self.workers.len() {
            if self.dialect.greets() {
                self.ask(i, Op::Hello, now_ns())?;
            } else {
                self.at_barrier()?;
            }
        }
        Ok(())
    }

    fn cycle(&mut self) -> Result<(), Fault> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut scanned_ns = now_ns();
        while self.done < self.workers.len() {
            let wait_ms = if self.begun && self.interval_ns > 0 { 1 } else { 20 };
            match self.poll.poll(&mut events, Some(Duration::from_millis(wait_ms))) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                self.on_event(event)?;
            }
            self.issue_due()?;
            let now = now_ns();
            if now - scanned_ns >= SCAN_EVERY_NS {
                scanned_ns = now;
                self.scan(now)?;
            }
        }
        Ok(())
    }

    fn at_barrier(&mut self) -> Result<(), Fault> {
        self.greeted += 1;
        if self.greeted < self.workers.len() {
            return Ok(());
        }
        self.begun = true;
        let now = now_ns();
        self.tally.started_ns = now;
        self.tally.last_ns = now;
        self.tally.started_cpu_ns = cpu_ns();
        self.due_ns = now;
        self.stop_ns = self.plan.seconds.map_or(u64::MAX, |s| now + (s * 1e9) as u64);
        if self.plan.announce {
            writeln!(io::stderr(), "started")?;
        }
        for i in 0..self.workers.len() {
            self.proceed(i)?;
        }
        Ok(())
    }

    fn claims_open(&self) -> bool {
        self.plan.pairs.is_none_or(|pairs| self.issued < pairs) && now_ns() < self.stop_ns
    }

    /// The next call of a worker that has nothing in flight.
    fn proceed(&mut self, i: usize) -> Result<(), Fault> {
        let Some(worker) = self.workers.get_mut(i) else { return Ok(()) };
        if worker.phase == Phase::Done {
            return Ok(());
        }
        worker.phase = Phase::Ready;
        if !worker.bead.is_empty() {
            return self.settle(i);
        }
        if !self.claims_open() {
            self.finish(i);
        } else if self.interval_ns > 0 {
            self.idle.push(i);
        } else {
            self.issued += 1;
            self.ask(i, Op::Claim, now_ns())?;
        }
        Ok(())
    }

    fn settle(&mut self, i: usize) -> Result<(), Fault> {
        let nested = self.plan.nested && self.claims_open();
        self.issued += u64::from(nested);
        self.ask(i, if nested { Op::Turnover } else { Op::Settle }, now_ns())
    }

    fn issue_due(&mut self) -> Result<(), Fault> {
        if self.interval_ns == 0 || !self.begun {
            return Ok(());
        }
        while self.due_ns <= now_ns() && self.claims_open() {
            let Some(i) = self.idle.pop() else { return Ok(()) };
            self.issued += 1;
            self.ask(i, Op::Claim, self.due_ns)?;
            self.due_ns += self.interval_ns;
        }
        if !self.claims_open() {
            for i in std::mem::take(&mut self.idle) {
                self.finish(i);
            }
        }
        Ok(())
    }

    fn finish(&mut self, i: usize) {
        if let Some(worker) = self.workers.get_mut(i).filter(|w| w.phase != Phase::Done) {
            worker.phase = Phase::Done;
            worker.hang_up();
            self.done += 1;
        }
    }

    fn ask(&mut self, i: usize, op: Op, first_ns: u64) -> Result<(), Fault> {
        self.prepare(i, op, first_ns)?;
        self.transmit(i)
    }

    fn prepare(&mut self, i: usize, op: Op, first_ns: u64) -> Result<(), Fault> {
        if let Some(worker) = self.workers.get_mut(i) {
            worker.op = op;
            worker.serial += 1;
            worker.first_ns = first_ns;
            worker.request_id.clear();
            if self.plan.request_ids || self.plan.retry_seconds > 0.0 {
                use std::fmt::Write as _;
                write!(worker.request_id, "{}.{}", worker.name, worker.serial)?;
            }
        }
        Ok(())
    }

    fn transmit(&mut self, i: usize) -> Result<(), Fault> {
        let Some(worker) = self.workers.get_mut(i) else { return Ok(()) };
        worker.phase = Phase::Waiting;
        worker.asked_ns = now_ns();
        worker.sent = false;
        let mut bytes = std::mem::take(&mut worker.outbox.bytes);
        bytes.clear();
        self.dialect.encode(&worker.ask(&self.host), &mut bytes);
        worker.outbox.bytes = bytes;
        let opened = worker.connect(&self.address, self.poll.registry(), Token(i));
        match opened.and_then(|()| worker.flush()) {
            Ok(()) => Ok(()),
            Err(problem) => self.lose(i, &problem),
        }
    }

    fn on_event(&mut self, event: &Event) -> Result<(), Fault> {
        let i = event.token().0;
        let Some(worker) = self.workers.get_mut(i).filter(|w| w.phase != Phase::Done) else { return Ok(()) };
        if let Err(problem) = worker.flush() {
            return self.lose(i, &problem);
        }
        if !(event.is_readable() || event.is_read_closed() || event.is_error()) {
            return Ok(());
        }
        let connected = match worker.fill() {
            Ok(connected) => connected,
            Err(problem) => return self.lose(i, &problem),
        };
        self.take_reply(i)?;
        if connected { Ok(()) } else { self.lose(i, &io::ErrorKind::UnexpectedEof.into()) }
    }

    fn take_reply(&mut self, i: usize) -> Result<(), Fault> {
        let Some(worker) = self.workers.get_mut(i).filter(|w| w.phase == Phase::Waiting) else { return Ok(()) };
        let mut inbox = std::mem::replace(&mut worker.inbox, crate::stream::Inbox::empty());
        let Some(frame) = self.dialect.decode(worker.op, inbox.filled())? else {
            worker.inbox = inbox;
            return Ok(());
        };
        let (length, seq, epoch) = (frame.length, frame.seq, frame.epoch);
        if let Some(history) = &mut self.history {
            record(history, self.dialect.as_ref(), worker, &frame.reply, (seq, epoch))?;
        }
        if let Some(file) = &mut self.settled
            && matches!(worker.op, Op::Settle | Op::Turnover)
            && !matches!(frame.reply, Reply::Refused { .. })
        {
            writeln!(file, "{} {}", worker.bead, worker.grant)?;
        }
        let then = absorb(worker, &frame.reply);
        inbox.consume(length);
        worker.inbox = inbox;
        self.act(i, then)
    }

    fn act(&mut self, i: usize, then: Then) -> Result<(), Fault> {
        let now = now_ns();
        let Some(worker) = self.workers.get_mut(i) else { return Ok(()) };
        let (op, waited_ns) = (worker.op, now.saturating_sub(worker.first_ns));
        match then {
            Then::Refused { code, retry_after_ms } => return self.refuse(i, code, retry_after_ms),
            Then::Greeted if self.begun => return self.proceed(i),
            Then::Greeted => {
                worker.phase = Phase::Ready;
                return self.at_barrier();
            }
            Then::Granted | Then::Empty { .. } | Then::Settled => {}
        }
        if matches!(op, Op::Settle | Op::Turnover) {
            self.tally.settled += 1;
            self.tally.settle.record(waited_ns);
            self.tally.last_ns = now;
        }
        if let Then::Granted = then {
            self.tally.granted += 1;
            if op == Op::Claim {
                self.tally.claim.record(waited_ns);
            }
        }
        if let Then::Empty { retry_after_ms } = then {
            self.tally.empty += 1;
            self.issued -= 1;
            return self.on_empty(i, retry_after_ms);
        }
        self.proceed(i)
    }

    fn on_empty(&mut self, i: usize, retry_after_ms: u64) -> Result<(), Fault> {
        if !self.plan.again || !self.claims_open() {
            self.finish(i);
            return Ok(());
        }
        if self.plan.wait_ms > 0 {
            return self.proceed(i);
        }
        self.issued += 1;
        self.prepare(i, Op::Claim, now_ns())?;
        self.rest(i, retry_after_ms)
    }

    fn refuse(&mut self, i: usize, code: i64, retry_after_ms: u64) -> Result<(), Fault> {
        *self.tally.refused.entry(code).or_default() += 1;
        let Some(worker) = self.workers.get_mut(i) else { return Ok(()) };
        match code {
            1001 if matches!(worker.op, Op::Settle | Op::Turnover) => {
                self.tally.lost += 1;
                self.issued -= u64::from(worker.op == Op::Turnover);
                worker.bead.clear();
                self.proceed(i)
            }
            1008 if worker.op != Op::Hello => {
                self.issued -= u64::from(matches!(worker.op, Op::Claim | Op::Turnover));
                self.ask(i, Op::Hello, now_ns())
            }
            1006 | 1007 | 1429 | -429 | -503 | -32603 => self.retry(i, retry_after_ms),
            _ => Err(format!("{} was refused with {code}", worker.name).into()),
        }
    }

    fn within_window(&self, i: usize) -> bool {
        let Some(worker) = self.workers.get(i) else { return false };
        let grace = if self.begun { 0 } else { START_GRACE_NS };
        let window = ((self.plan.retry_seconds * 1e9) as u64).max(grace);
        now_ns().saturating_sub(worker.first_ns) < window
    }

    fn retry(&mut self, i: usize, after_ms: u64) -> Result<(), Fault> {
        if self.within_window(i) {
            return self.rest(i, after_ms);
        }
        self.tally.gave_up += 1;
        if !self.begun {
            return Err("a worker could not register".into());
        }
        self.finish(i);
        Ok(())
    }

    fn rest(&mut self, i: usize, ms: u64) -> Result<(), Fault> {
        if let Some(worker) = self.workers.get_mut(i) {
            worker.phase = Phase::Resting { until_ns: now_ns() + ms.clamp(REST_MIN_MS, REST_MAX_MS) * MS };
        }
        Ok(())
    }

    /// The connection is gone; a call in flight may or may not have happened.
    fn lose(&mut self, i: usize, problem: &io::Error) -> Result<(), Fault> {
        let Some(worker) = self.workers.get_mut(i) else { return Ok(()) };
        worker.hang_up();
        if worker.phase != Phase::Waiting {
            return Ok(());
        }
        if self.begun && !self.dialect.survives() {
            return Err(format!("connection lost: {problem}").into());
        }
        if worker.sent {
            self.tally.unknown += 1;
            if let Some(history) = &mut self.history {
                unknown(history, self.dialect.as_ref(), worker)?;
            }
        }
        self.tally.reconnects += u64::from(self.begun);
        self.retry(i, REST_MIN_MS)
    }

    /// Retries that are due, replies that are overdue, polls that the end of the run cuts off.
    fn scan(&mut self, now: u64) -> Result<(), Fault> {
        let over = now >= self.stop_ns;
        let mut looked = false;
        for i in 0..self.workers.len() {
            let Some(worker) = self.workers.get(i) else { continue };
            match worker.phase {
                Phase::Resting { until_ns } if until_ns <= now => {
                    if !looked {
                        looked = true;
                        self.look_up_address();
                    }
                    self.transmit(i)?;
                }
                Phase::Waiting if over && worker.op == Op::Claim && self.plan.wait_ms > 0 => self.finish(i),
                Phase::Waiting if now.saturating_sub(worker.asked_ns) > self.plan.timeout_ms * MS => {
                    self.lose(i, &io::ErrorKind::TimedOut.into())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// After a restart the daemon may listen on another port.
    fn look_up_address(&mut self) {
        let Some(path) = self.plan.daemon_file.as_ref().filter(|_| self.plan.target.starts_with("tcp:")) else { return };
        let Ok(bytes) = std::fs::read(path) else { return };
        let Ok(daemon) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return };
        if let Some(listen) = daemon.get("listen").and_then(serde_json::Value::as_str) {
            self.address = format!("tcp:{listen}");
            self.host = listen.to_owned();
        }
    }
}

/// Takes from a reply what outlives it.
fn absorb(worker: &mut Worker, reply: &Reply<'_>) -> Then {
    match *reply {
        Reply::Greeted { worker_id, held } => {
            worker_id.clone_into(&mut worker.worker_id);
            if let Some((bead, grant)) = held {
                worker.holds(bead, grant);
            }
            Then::Greeted
        }
        Reply::Granted { bead, grant } => {
            worker.holds(bead, grant);
            Then::Granted
        }
        Reply::Empty { retry_after_ms } => {
            worker.bead.clear();
            Then::Empty { retry_after_ms }
        }
        Reply::Settled => {
            worker.bead.clear();
            Then::Settled
        }
        Reply::Refused { code, retry_after_ms } => Then::Refused { code, retry_after_ms },
    }
}

fn record(history: &mut History, dialect: &dyn Dialect, worker: &Worker, reply: &Reply<'_>, at: (i64, i64)) -> io::Result<()> {
    let (outcome, code) = match *reply {
        Reply::Refused { code, .. } if code == -32603 || (-599..=-500).contains(&code) => (Outcome::Info, code),
        Reply::Refused { code, .. } => (Outcome::Fail, code),
        _ => (Outcome::Ok, 0),
    };
    let (bead, token) = match *reply {
        Reply::Granted { bead, grant } => (bead, grant),
        _ => (worker.bead.as_str(), worker.grant),
    };
    write_entry(history, dialect, worker, (outcome, code), at, (bead, token))
}

fn unknown(history: &mut History, dialect: &dyn Dialect, worker: &Worker) -> io::Result<()> {
    write_entry(history, dialect, worker, (Outcome::Info, 0), (0, 0), (&worker.bead, worker.grant))
}

fn write_entry(
    history: &mut History,
    dialect: &dyn Dialect,
    worker: &Worker,
    (outcome, code): (Outcome, i64),
    (seq, epoch): (i64, i64),
    (bead, token): (&str, i64),
) -> io::Result<()> {
    let mut args = Vec::new();
    let op = dialect.describe(&worker.ask(""), &mut args);
    history.write(&Entry {
        client: &worker.name,
        op,
        args: &args,
        invoked_ns: worker.asked_ns,
        returned_ns: now_ns(),
        outcome,
        code,
        seq,
        epoch,
        bead,
        token,
    })
}
