//! Private Redis servers.

use std::path::PathBuf;
use std::process::Command;

use super::{Service, free_tcp_port, run, stores_sync};

/// The server's program, which goes by its name.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/redis-server");
/// A newer server, which knows `WAITAOF` and moves slots whole.
const VALKEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/valkey-server");

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
        let port = free_tcp_port();
        Self::at(port, &format!("--port {port} {options}"), client)
    }

    /// One whose client finds it on this port, however the options bring it there.
    pub(crate) fn at(port: u16, options: &str, client: &[&str]) -> Self {
        Self::of(PROGRAM, port, options, client)
    }

    /// A Valkey with further options.
    pub(crate) fn valkey(options: &str) -> Self {
        let port = free_tcp_port();
        Self::of(VALKEY, port, &format!("--port {port} {options}"), &[])
    }

    fn of(program: &'static str, port: u16, options: &str, client: &[&str]) -> Self {
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

/// A command for each of these slots, which `SLOT` in it stands for.
fn each(slots: std::ops::Range<u16>, command: &str) -> String {
    slots.map(|slot| command.replace("SLOT", &slot.to_string()) + "\n").collect()
}

/// Three nodes of a cluster, each with a third of the slots.
pub(crate) struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// One that serves; the first node says that it listens on this port, if any.
    pub(crate) fn start(announced: Option<u16>) -> Self {
        Self::with(announced, |port| format!("--port {port}"), &[])
    }

    /// One whose nodes have these options, by the port of each, and whose own client needs these.
    pub(crate) fn with(announced: Option<u16>, options: impl Fn(u16) -> String, client: &[&str]) -> Self {
        Self::of(PROGRAM, announced, options, client)
    }

    /// One of Valkeys.
    pub(crate) fn of_valkeys() -> Self {
        Self::of(VALKEY, None, |port| format!("--port {port}"), &[])
    }

    fn of(
        program: &'static str,
        announced: Option<u16>,
        options: impl Fn(u16) -> String,
        client: &[&str],
    ) -> Self {
        const SLOTS: [&str; 3] = ["0 5460", "5461 10922", "10923 16383"];
        let mut nodes = Vec::new();
        for (number, slots) in SLOTS.iter().enumerate() {
            let announce = match announced {
                Some(port) if number == 0 => format!("--cluster-announce-port {port}"),
                _ => String::new(),
            };
            let port = free_tcp_port();
            let node = Self::node(program, port, &format!("{} {announce}", options(port)), client);
            let slots: Vec<&str> = slots.split(' ').collect();
            node.cli(&["cluster", "addslotsrange", slots[0], slots[1]]);
            node.cli(&["cluster", "set-config-epoch", &(number + 1).to_string()]);
            nodes.push(node);
        }
        let cluster = Self { nodes };
        cluster.nodes[1..].iter().for_each(|other| cluster.introduce(other));
        cluster.await_all();
        cluster
    }

    /// One more node, which has no slots yet; its place.
    pub(crate) fn join(&mut self) -> usize {
        let port = free_tcp_port();
        let node = Self::node(PROGRAM, port, &format!("--port {port}"), &[]);
        self.introduce(&node);
        self.nodes.push(node);
        self.await_all();
        self.nodes.len() - 1
    }

    /// Makes a node that has no slots the replica of another one, with all that this one has.
    pub(crate) fn follow(&self, node: usize, master: usize) {
        assert_eq!(self.nodes[node].cli(&["cluster", "replicate", &self.id(master)]), "OK\n");
        super::eventually("a replica", || {
            let told = self.nodes[node].cli(&["info", "replication"]);
            told.contains("master_link_status:up").then_some(())
        });
    }

    fn node(program: &'static str, port: u16, options: &str, client: &[&str]) -> Redis {
        // None is given up for dead while a test lets it hang, nor is one degraded when its last slot goes.
        let cluster = "--cluster-enabled yes --cluster-node-timeout 60000 --cluster-announce-ip 127.0.0.1 \
                       --cluster-allow-replica-migration no";
        Redis::of(program, port, &format!("{cluster} {options}"), client)
    }

    fn introduce(&self, other: &Redis) {
        let port = self.nodes[0].port();
        let (port, bus) = (port.to_string(), (port + 10_000).to_string());
        assert_eq!(other.cli(&["cluster", "meet", "127.0.0.1", &port, &bus]), "OK\n");
    }

    fn await_all(&self) {
        let count = self.nodes.len();
        let knows_all = |node: &Redis| {
            let info = node.cli(&["cluster", "info"]);
            info.contains("cluster_state:ok")
                && info.contains(&format!("cluster_known_nodes:{count}\r"))
                && node.cli(&["cluster", "slots"]).matches("127.0.0.1").count() == 3
                && !node.cli(&["cluster", "nodes"]).contains("handshake")
        };
        super::eventually("the cluster", || self.nodes.iter().all(knows_all).then_some(()));
    }

    /// Its nodes.
    pub(crate) fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The process of one.
    pub(crate) fn service(&mut self, node: usize) -> &mut Service {
        self.nodes[node].service()
    }

    /// `DigestDB` for it.
    pub(crate) fn dsn(&self) -> String {
        format!("redis+cluster://{}", self.hosts())
    }

    /// All nodes, as a URL names them.
    pub(crate) fn hosts(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        hosts.join(",")
    }

    /// The place of the node that has a key.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let has = |node: &Redis| !node.cli(&["exists", key]).contains("MOVED");
        self.nodes.iter().position(has).unwrap()
    }

    /// A field of a hash, from the node that has it.
    pub(crate) fn field(&self, key: &str, field: &str) -> String {
        self.nodes[self.owner(key)].cli(&["hget", key, field]).trim().to_owned()
    }

    /// Begins to move a key's slot from one node to another.
    pub(crate) fn begin_to_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot(key);
        self.nodes[to].cli(&["cluster", "setslot", &slot, "importing", &self.id(from)]);
        self.nodes[from].cli(&["cluster", "setslot", &slot, "migrating", &self.id(to)]);
    }

    /// Moves a key itself.
    pub(crate) fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let moved = self.nodes[from].cli(&["migrate", "127.0.0.1", &port, key, "0", "5000"]);
        assert!(moved.starts_with("OK"), "{moved}");
    }

    /// Finishes the move of a key's slot. Who takes it learns that first, or it would refer back those whom
    /// the former owner refers to it.
    pub(crate) fn finish_to_move(&self, key: &str, to: usize) {
        let (slot, id) = (self.slot(key), self.id(to));
        let others = (0..self.nodes.len()).filter(|node| *node != to);
        for node in std::iter::once(to).chain(others) {
            self.nodes[node].cli(&["cluster", "setslot", &slot, "node", &id]);
        }
    }

    /// Opens slots, and moves all their keys from one node to another.
    pub(crate) fn move_keys_of(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        let port = self.nodes[to].port();
        let (giving, taking) = (self.id(from), self.id(to));
        self.nodes[to].feed(&each(slots.clone(), &format!("cluster setslot SLOT importing {giving}")));
        self.nodes[from].feed(&each(slots.clone(), &format!("cluster setslot SLOT migrating {taking}")));
        self.carry(slots, from, port);
    }

    /// Moves all keys of open slots back to the owner, and closes them: nobody else ever owns them.
    pub(crate) fn return_keys_of(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        let stable = each(slots.clone(), "cluster setslot SLOT stable");
        self.nodes[to].feed(&stable);
        self.carry(slots, from, self.nodes[to].port());
        self.nodes[from].feed(&stable);
    }

    /// Moves slots whole from one node to another.
    pub(crate) fn move_slots(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        self.move_keys_of(slots.clone(), from, to);
        self.give_slots(slots, to);
    }

    /// Gives open slots to a node that has all their keys.
    pub(crate) fn give_slots(&self, slots: std::ops::Range<u16>, to: usize) {
        let own = each(slots, &format!("cluster setslot SLOT node {}", self.id(to)));
        let others = (0..self.nodes.len()).filter(|node| *node != to);
        for node in std::iter::once(to).chain(others) {
            self.nodes[node].feed(&own);
        }
    }

    /// Lets the nodes move slots by themselves, as Valkey 9 does.
    pub(crate) fn migrate_slots(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        let (first, last) = (slots.start.to_string(), (slots.end - 1).to_string());
        let command = ["cluster", "migrateslots", "slotsrange", &first, &last, "node", &self.id(to)];
        assert_eq!(self.nodes[from].cli(&command), "OK\n");
        super::eventually("the slots' move", || {
            let told = self.nodes[from].cli(&["cluster", "slots"]);
            let lines: Vec<&str> = told.lines().collect();
            let port = self.nodes[to].port().to_string();
            let has = |words: &[&str]| {
                let (from, to): (u16, u16) = (words[0].parse().ok()?, words[1].parse().ok()?);
                (words[3] == port && from <= slots.start && slots.end - 1 <= to).then_some(())
            };
            lines.windows(4).find_map(has)
        });
    }

    fn carry(&self, slots: std::ops::Range<u16>, from: usize, port: u16) {
        let keys = self.nodes[from].feed(&each(slots, "cluster getkeysinslot SLOT 1000"));
        let keys: Vec<&str> = keys.split_whitespace().filter(|key| key.starts_with("pyzord")).collect();
        assert!(!keys.is_empty(), "there is nothing to move");
        let migrate = |key: &&str| format!("migrate 127.0.0.1 {port} {key} 0 5000\n");
        let moved = self.nodes[from].feed(&keys.iter().map(migrate).collect::<String>());
        assert!(moved.lines().filter(|line| !line.is_empty()).all(|line| line == "OK"), "{moved}");
    }

    /// Kills a node.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].service().kill();
    }

    /// Starts a node again on its data.
    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    /// The slot of a key.
    pub(crate) fn slot(&self, key: &str) -> String {
        self.nodes[0].cli(&["cluster", "keyslot", key]).trim().to_owned()
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["cluster", "myid"]).trim().to_owned()
    }
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
            let port = free_tcp_port();
            // A replica gets its first copy at once.
            Redis::at(port, &format!("--repl-diskless-sync-delay 0 {} {role}", options(port)), client)
        };
        let master = server("");
        let replica = server(&format!("--replicaof 127.0.0.1 {}", master.port()));
        let port = free_tcp_port();
        let mut service = Service::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/redis-sentinel"));
        let config = service.folder().join("config");
        let monitored = format!(
            "bind 127.0.0.1\nsentinel monitor counts 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds counts 1000\nsentinel failover-timeout counts 3000\n{}",
            master.port(),
            lines(port)
        );
        std::fs::write(&config, monitored).unwrap();
        service.set_arguments(vec![config.display().to_string()]);
        let client = its_client.iter().map(ToString::to_string).collect();
        let mut sentinel = Redis { service, port, client };
        sentinel.restart();
        let this = Self { servers: [master, replica], sentinel };
        super::eventually("a sentinel that knows the replica", || {
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
        super::eventually("the replica to have everything", || {
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
        super::eventually("another master", || (self.master().port() != before).then_some(()));
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
