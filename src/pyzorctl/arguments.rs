//! The command line for clap: one field per option.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::host_port::HostPort;

/// The arguments of `pyzorctl`.
#[derive(Debug, Parser)]
#[command(
    name = "pyzorctl",
    version,
    about = "Shows the state and the counters of a running pyzord, and makes it reload.",
    after_help = "Exit status of status and health: 0 well, 1 degraded, 2 critical, 3 unknown (no answer, or a wrong\n\
                  command line). See pyzorctl(1).",
    disable_help_subcommand = true,
    infer_long_args = true
)]
pub(super) struct Arguments {
    /// Homedir of the server [default: ~/.pyzor, or /etc/pyzor without HOME]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) homedir: Option<PathBuf>,
    /// Control socket [default: ControlSocket of the config in the homedir]
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) socket: Option<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: CtlCommand,
}

/// The commands of `pyzorctl`.
#[derive(Debug, Subcommand)]
pub(super) enum CtlCommand {
    /// Show the state of the server and its database
    Status,
    /// Show what the server has counted since its start
    Stats {
        /// Print what was counted in each period of this length, until interrupted
        #[arg(long, value_name = "SECONDS", value_parser = |text: &str| seconds(text, 0.1..=86_400.0))]
        interval: Option<Duration>,
    },
    /// Read accounts and access rules again
    Reload,
    /// Open the log files again, and reload
    Reopen,
    /// Test over UDP whether the server answers, and its database with it
    Health {
        /// The server [default: ListenAddress and Port of the config in the homedir]
        #[arg(value_name = "HOST:PORT")]
        server: Option<HostPort>,
        /// Time to wait for each reply; each request is sent twice at most
        #[arg(
            long,
            value_name = "SECONDS",
            default_value = "2",
            value_parser = |text: &str| seconds(text, 0.01..=60.0)
        )]
        timeout: Duration,
    },
}

fn seconds(text: &str, range: std::ops::RangeInclusive<f64>) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number: &f64| range.contains(number));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
}
