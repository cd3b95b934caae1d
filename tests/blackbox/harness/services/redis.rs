//! Private Redis servers.

use std::path::PathBuf;
use std::process::Command;

use super::Service;
use crate::harness::{eventually, free_port, run, stores_sync};

/// The server's program, which goes by its name.
pub(super) const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/redis-server");
/// A newer server, which knows `WAITAOF` and moves slots whole.
pub(super) const VALKEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/valkey-server");

/// A Redis that writes each change to its file before it acknowledges it, so that a kill loses nothing. It
/// waits for the disk only where [`stores_sync`] says so.
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
        let port = free_port();
        Self::at(port, &format!("--port {port} {options}"), client)
    }

    /// One whose client finds it on this port, however the options bring it there.
    pub(crate) fn at(port: u16, options: &str, client: &[&str]) -> Self {
        Self::of(PROGRAM, port, options, client)
    }

    /// A Valkey with further options.
    pub(crate) fn valkey(options: &str) -> Self {
        let port = free_port();
        Self::of(VALKEY, port, &format!("--port {port} {options}"), &[])
    }

    /// One of this program.
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

    /// A sentinel that looks after the service `counts`, whose master is this one, with these lines in its config
    /// by its port, and whose own client needs these.
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

    /// Lets a sentinel name another master of the service `counts`.
    pub(crate) fn monitor(&self, master: u16) {
        self.cli(&["sentinel", "remove", "counts"]);
        assert_eq!(
            self.cli(&["sentinel", "monitor", "counts", "127.0.0.1", &master.to_string(), "1"]),
            "OK\n"
        );
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.service.directory().join("socket")
    }

    /// Its process.
    pub(crate) fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.service.signal(signal);
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

    /// Runs commands of its own client, one a line, in which texts in quotes may have bytes as `\xNN`.
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
    // What DUMP gives is no text.
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A master, a replica, and a sentinel that looks after them as the service `counts`.
pub(crate) struct Sentinel {
    servers: [Redis; 2],
    sentinel: Redis,
}

impl Sentinel {
    /// One that knows both.
    pub(crate) fn start() -> Self {
        Self::with(|port| format!("--port {port}"), &[], |port| format!("port {port}\n"), &[])
    }

    /// One that knows both; the servers have these options, by the port of each, and the sentinel has these
    /// lines in its config, by its port. Their own clients need these.
    pub(crate) fn with(
        options: impl Fn(u16) -> String,
        client: &[&str],
        lines: impl Fn(u16) -> String,
        its_client: &[&str],
    ) -> Self {
        let server = |role: &str| {
            let port = free_port();
            // A replica gets its first copy at once.
            Redis::at(port, &format!("--repl-diskless-sync-delay 0 {} {role}", options(port)), client)
        };
        let master = server("");
        let replica = server(&format!("--replicaof 127.0.0.1 {}", master.port()));
        let sentinel = Redis::sentinel("127.0.0.1", master.port(), lines, its_client);
        let this = Self { servers: [master, replica], sentinel };
        eventually("a sentinel that knows the replica", || {
            let replicas = this.sentinel.cli(&["sentinel", "replicas", "counts"]);
            (replicas.contains("\nslave\n") && replicas.contains("master-link-status\nok")).then_some(())
        });
        this
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.sentinel.port()
    }

    /// The servers, the first master first.
    pub(crate) fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// Sends the sentinel a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.sentinel.service.signal(signal);
    }

    /// Waits until the replica has all that the master has. `WAIT` knows only of what the same connection
    /// has changed.
    pub(crate) fn await_replica(&self) {
        eventually("the replica to have everything", || {
            let info = self.master().cli(&["info", "replication"]);
            let after = |mark: &str| Some(info.split_once(mark)?.1.split([',', '\r']).next()?.to_owned());
            (after("state=")? == "online" && after(",offset=")? == after("master_repl_offset:")?)
                .then_some(())
        });
    }

    /// Makes the other server the master, with all that this one has, and waits until the sentinel says that
    /// it is.
    pub(crate) fn fail_over(&self) {
        self.await_replica();
        let before = self.master().port();
        assert_eq!(self.sentinel.cli(&["sentinel", "failover", "counts"]), "OK\n");
        self.await_other(before);
    }

    /// Waits until the sentinel says that another server than the one of this port is the master.
    pub(crate) fn await_other(&self, before: u16) {
        eventually("another master", || (self.master().port() != before).then_some(()));
    }

    /// The master according to the sentinel.
    pub(crate) fn master(&self) -> &Redis {
        let place = self.master_place();
        &self.servers[place]
    }

    /// The process of the master according to the sentinel.
    pub(crate) fn master_service(&mut self) -> &mut Service {
        let place = self.master_place();
        self.servers[place].service()
    }

    /// The server on this port.
    pub(crate) fn server(&mut self, port: u16) -> &mut Redis {
        self.servers.iter_mut().find(|server| server.port() == port).unwrap()
    }

    fn master_place(&self) -> usize {
        let answer = self.sentinel.cli(&["sentinel", "get-master-addr-by-name", "counts"]);
        let port: u16 = answer.lines().last().unwrap().parse().unwrap();
        self.servers.iter().position(|server| server.port() == port).unwrap()
    }
}
