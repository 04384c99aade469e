//! What the command line can ask for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(version, about = "Load generator of gastown: claims and settles beads over thousands of connections")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Drive a queue with W workers and print counts and latency buckets as one JSON line
    Run(Box<Plan>),
    /// Serve one fixed reply to everything until stdin closes: the ceiling of the generator
    Static(StaticPlan),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// JSON-RPC over HTTP/1.1 keep-alive
    Http,
    /// newline-delimited JSON-RPC
    Lines,
    /// beanstalkd's protocol: reserve and delete
    Beanstalk,
    /// Redis: a sorted set of ready beads and one of leased beads, moved by two scripts
    Redis,
    /// PostgreSQL: UPDATE ... SKIP LOCKED ... RETURNING, one commit a call
    Postgres,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ending {
    Complete,
    Release,
}

#[derive(Args)]
pub struct Plan {
    /// unix:PATH or tcp:HOST:PORT
    #[arg(long)]
    pub target: String,
    #[arg(long, value_enum)]
    pub dialect: Kind,
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// stop claiming after this many grants
    #[arg(long)]
    pub pairs: Option<u64>,
    /// stop claiming after this many seconds
    #[arg(long)]
    pub seconds: Option<f64>,
    /// open loop: claims started a second, response time from the intended start
    #[arg(long)]
    pub rate: Option<f64>,
    /// complete and claim in one call
    #[arg(long)]
    pub nested: bool,
    /// how a worker ends its grant
    #[arg(long, value_enum, default_value = "complete")]
    pub ending: Ending,
    /// long-poll of every claim
    #[arg(long, default_value_t = 0)]
    pub wait_ms: u64,
    /// JSON object for the claim's `filter`
    #[arg(long)]
    pub filter: Option<String>,
    /// ask again after an empty reply instead of ending the worker
    #[arg(long)]
    pub again: bool,
    /// send a request_id with every mutating call
    #[arg(long)]
    pub request_ids: bool,
    /// keep one call alive over lost connections and 1006, 1007 for so long
    #[arg(long, default_value_t = 0.0)]
    pub retry_seconds: f64,
    /// a reply later than this is lost
    #[arg(long, default_value_t = 60_000)]
    pub timeout_ms: u64,
    /// names of workers and request ids start with it
    #[arg(long, default_value = "load")]
    pub run: String,
    /// bearer tokens, one a line, dealt out evenly in order
    #[arg(long)]
    pub tokens: Option<PathBuf>,
    /// daemon.json: where to look for the TCP address again after a restart
    #[arg(long)]
    pub daemon_file: Option<PathBuf>,
    /// append one JSON line a call
    #[arg(long)]
    pub history: Option<PathBuf>,
    /// write `BEAD TOKEN` for each grant whose end was acknowledged
    #[arg(long)]
    pub settled: Option<PathBuf>,
    /// print `started` on stderr when all workers are registered
    #[arg(long)]
    pub announce: bool,
}

#[derive(Args)]
pub struct StaticPlan {
    /// unix:PATH or tcp:HOST:PORT
    #[arg(long)]
    pub listen: String,
    #[arg(long, value_enum)]
    pub dialect: Kind,
}
