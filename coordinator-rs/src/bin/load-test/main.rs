//! Load generator: one thread, one poll, thousands of connections, one request in flight on each.
//!
//! It asks as cheaply as it can and keeps only numbers, so that what is measured is the server. Percentiles and tables are
//! made elsewhere from the buckets printed here. `static` is the other half of its own ceiling: a server that knows one reply.

mod beanstalk;
mod clock;
mod dialect;
mod fleet;
mod history;
mod jsonrpc;
mod plan;
mod postgres;
mod redis;
mod static_reply;
mod stream;
mod tally;
mod worker;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use plan::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(plan) => fleet::run(&plan),
        Command::Static(plan) => static_reply::serve(&plan),
    };
    match outcome {
        Ok(report) => match writeln!(std::io::stdout(), "{report}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "load-test: {problem}");
            ExitCode::FAILURE
        }
    }
}
