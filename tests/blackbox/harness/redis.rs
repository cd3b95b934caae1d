//! Private Redis servers.

use std::path::PathBuf;
use std::process::Command;

use super::{Service, free_tcp_port, run};

/// The server's program, which goes by its name.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/redis-server");

/// A Redis that writes each change to its disk before it acknowledges it.
pub(crate) struct Redis {
    service: Service,
    port: u16,
    /// What its own client needs beside the port.
    client: Vec<String>,
}

impl Redis {
    /// One that runs.
    pub(crate) fn start() -> Self {
        Self::with("", &[])
    }

    /// One with further options, by which its own client needs these.
    pub(crate) fn with(options: &str, client: &[&str]) -> Self {
        let port = free_tcp_port();
        Self::at(port, &format!("--port {port} {options}"), client)
    }

    /// One whose client finds it on this port, however the options bring it there.
    pub(crate) fn at(port: u16, options: &str, client: &[&str]) -> Self {
        let mut service = Service::new(PROGRAM);
        let arguments =
            format!("--bind 127.0.0.1 --appendonly yes --appendfsync always --unixsocket socket {options}");
        service.set_arguments(arguments.split_whitespace().map(str::to_owned).collect());
        let client = client.iter().map(ToString::to_string).collect();
        let mut redis = Self { service, port, client };
        redis.restart();
        redis
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.service.folder().join("socket")
    }

    /// Its process.
    pub(crate) fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Starts it, on the data that it has, and waits until it accepts work.
    pub(crate) fn restart(&mut self) {
        let (port, client) = (self.port, self.client.clone());
        self.service.start(|| cli(port, &client, &["ping"]) == "PONG\n");
    }

    /// Runs a command of its own client; panics where that fails.
    #[track_caller]
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let output = cli(self.port, &self.client, command);
        assert!(!output.starts_with("ERR ") && !output.starts_with("(error)"), "{command:?}: {output}");
        output
    }

    /// The fields of a hash.
    #[track_caller]
    pub(crate) fn hash(&self, key: &str) -> std::collections::BTreeMap<String, String> {
        let output = self.cli(&["hgetall", key]);
        let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
        lines.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
    }
}

fn cli(port: u16, client: &[String], command: &[&str]) -> String {
    let mut program = Command::new("redis-cli");
    let output = run(program.args(["-p", &port.to_string()]).args(client).args(command), b"");
    String::from_utf8(output.stdout).unwrap()
}
