//! Private Redis servers.

use std::path::PathBuf;
use std::process::Command;

use super::Service;
use crate::harness::{eventually, free_port, run, stores_sync};

/// The Redis server. The program acts according to its file name.
pub(super) const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/redis-server");
/// The Valkey server, which has `WAITAOF` and atomic slot migration.
pub(super) const VALKEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/valkey-server");

/// A Redis server that writes each change to its file before it acknowledges it, so that a kill loses nothing. It calls
/// fsync only if [`stores_sync`] is true.
pub(crate) struct Redis {
    service: Service,
    port: u16,
    /// The further arguments of redis-cli.
    client: Vec<String>,
}

impl Redis {
    /// Starts a server.
    pub(crate) fn start() -> Self {
        Self::with("", &[])
    }

    /// Starts a server with further options; `client` are the arguments that redis-cli needs for it.
    pub(crate) fn with(options: &str, client: &[&str]) -> Self {
        let port = free_port();
        Self::at(port, &format!("--port {port} {options}"), client)
    }

    /// Starts a server whose options must make it listen on this port.
    pub(crate) fn at(port: u16, options: &str, client: &[&str]) -> Self {
        Self::of(PROGRAM, port, options, client)
    }

    /// Starts a Valkey server with further options.
    pub(crate) fn valkey(options: &str) -> Self {
        let port = free_port();
        Self::of(VALKEY, port, &format!("--port {port} {options}"), &[])
    }

    /// Starts a server of this program.
    pub(super) fn of(program: &'static str, port: u16, options: &str, client: &[&str]) -> Self {
        let mut service = Service::new(program);
        let sync = if stores_sync() { "always" } else { "no" };
        let arguments =
            format!("--bind 127.0.0.1 --appendonly yes --appendfsync {sync} --unixsocket socket {options}");
        service.set_arguments(arguments.split_whitespace().map(str::to_owned).collect());
        let client = client.iter().map(ToString::to_string).collect();
        let mut redis = Self { service, port, client };
        redis.restart();
        redis
    }

    /// Starts a sentinel that monitors the service `counts` with this master. `lines` returns further lines of its
    /// config for its port; `client` are the arguments that redis-cli needs for it.
    pub(crate) fn sentinel(host: &str, master: u16, lines: impl Fn(u16) -> String, client: &[&str]) -> Self {
        let port = free_port();
        let mut service = Service::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/redis-sentinel"));
        let config = service.directory().join("config");
        let monitored = format!(
            "bind 127.0.0.1\n{}sentinel monitor counts {host} {master} 1\n\
             sentinel down-after-milliseconds counts 1000\nsentinel failover-timeout counts 3000\n",
            lines(port)
        );
        std::fs::write(&config, monitored).unwrap();
        service.set_arguments(vec![config.display().to_string()]);
        let mut sentinel = Self { service, port, client: client.iter().map(ToString::to_string).collect() };
        sentinel.restart();
        sentinel
    }

    /// Makes a sentinel name another master of the service `counts`.
    pub(crate) fn monitor(&self, master: u16) {
        self.cli(&["sentinel", "remove", "counts"]);
        assert_eq!(
            self.cli(&["sentinel", "monitor", "counts", "127.0.0.1", &master.to_string(), "1"]),
            "OK\n"
        );
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.service.directory().join("socket")
    }

    pub(crate) fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.service.signal(signal);
    }

    /// Starts the server on its data, and waits until it accepts commands.
    pub(crate) fn restart(&mut self) {
        let (port, client) = (self.port, self.client.clone());
        self.service.start(|| cli(port, &client, &["ping"]) == "PONG\n");
    }

    /// Runs a command with redis-cli and returns its output; panics if the command fails.
    #[track_caller]
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let output = cli(self.port, &self.client, command);
        assert!(!output.starts_with("ERR ") && !output.starts_with("(error)"), "{command:?}: {output}");
        output
    }

    /// Runs commands with redis-cli, one a line, in which quoted texts may have bytes as `\xNN`.
    #[track_caller]
    pub(crate) fn feed(&self, commands: &str) -> String {
        let mut program = Command::new("redis-cli");
        program.args(["-p", &self.port.to_string()]).args(&self.client);
        let output = String::from_utf8_lossy(&run(&mut program, commands.as_bytes()).stdout).into_owned();
        let failed = output.lines().find(|line| {
            ["ERR ", "WRONGTYPE ", "NOAUTH ", "READONLY ", "Invalid "]
                .iter()
                .any(|mark| line.starts_with(mark))
        });
        assert!(failed.is_none(), "{failed:?}");
        output
    }

    /// Returns the fields of a hash.
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
    // The output of DUMP is not UTF-8.
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A master, a replica, and a sentinel that monitors them as the service `counts`.
pub(crate) struct Sentinel {
    servers: [Redis; 2],
    sentinel: Redis,
}

impl Sentinel {
    /// Starts all three, and waits until the sentinel knows the replica.
    pub(crate) fn start() -> Self {
        Self::with(|port| format!("--port {port}"), &[], |port| format!("port {port}\n"), &[])
    }

    /// Starts all three, and waits until the sentinel knows the replica. `options` returns the servers' options and
    /// `lines` the lines of the sentinel's config, both for a port. `client` and `its_client` are the arguments that
    /// redis-cli needs for the servers and the sentinel.
    pub(crate) fn with(
        options: impl Fn(u16) -> String,
        client: &[&str],
        lines: impl Fn(u16) -> String,
        its_client: &[&str],
    ) -> Self {
        let server = |role: &str| {
            let port = free_port();
            // Starts the first synchronisation of the replica at once.
            Redis::at(port, &format!("--repl-diskless-sync-delay 0 {} {role}", options(port)), client)
        };
        let master = server("");
        let replica = server(&format!("--replicaof 127.0.0.1 {}", master.port()));
        let sentinel = Redis::sentinel("127.0.0.1", master.port(), lines, its_client);
        let this = Self { servers: [master, replica], sentinel };
        eventually("the sentinel to know the replica", || {
            let replicas = this.sentinel.cli(&["sentinel", "replicas", "counts"]);
            (replicas.contains("\nslave\n") && replicas.contains("master-link-status\nok")).then_some(())
        });
        this
    }

    /// Returns the port of the sentinel.
    pub(crate) fn port(&self) -> u16 {
        self.sentinel.port()
    }

    /// Returns the servers: the first master, then its replica.
    pub(crate) fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// Sends the sentinel a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.sentinel.service.signal(signal);
    }

    /// Waits until the replica has all data of the master. `WAIT` covers only changes of the same connection.
    pub(crate) fn await_replica(&self) {
        eventually("the replica to have everything", || {
            let info = self.master().cli(&["info", "replication"]);
            let after = |mark: &str| Some(info.split_once(mark)?.1.split([',', '\r']).next()?.to_owned());
            (after("state=")? == "online" && after(",offset=")? == after("master_repl_offset:")?)
                .then_some(())
        });
    }

    /// Makes the replica the master without losing data, and waits until the sentinel names it.
    pub(crate) fn fail_over(&self) {
        self.await_replica();
        let before = self.master().port();
        assert_eq!(self.sentinel.cli(&["sentinel", "failover", "counts"]), "OK\n");
        self.await_other(before);
    }

    /// Waits until the sentinel names a master on another port than this one.
    pub(crate) fn await_other(&self, before: u16) {
        eventually("another master", || (self.master().port() != before).then_some(()));
    }

    /// Returns the master that the sentinel names.
    pub(crate) fn master(&self) -> &Redis {
        let index = self.master_index();
        &self.servers[index]
    }

    /// Returns the process of the master that the sentinel names.
    pub(crate) fn master_service(&mut self) -> &mut Service {
        let index = self.master_index();
        self.servers[index].service()
    }

    /// Returns the server on this port.
    pub(crate) fn server(&mut self, port: u16) -> &mut Redis {
        self.servers.iter_mut().find(|server| server.port() == port).unwrap()
    }

    fn master_index(&self) -> usize {
        let answer = self.sentinel.cli(&["sentinel", "get-master-addr-by-name", "counts"]);
        let port: u16 = answer.lines().last().unwrap().parse().unwrap();
        self.servers.iter().position(|server| server.port() == port).unwrap()
    }
}
