//! Private Redis Clusters, and the ways to move their slots.

use super::Service;
use super::redis::{PROGRAM, Redis, VALKEY};
use crate::harness::{CLUSTER_BUS, eventually, free_port};

/// Returns a command for each of these slots, with `SLOT` replaced by the slot.
fn each(slots: std::ops::Range<u16>, command: &str) -> String {
    slots.map(|slot| command.replace("SLOT", &slot.to_string()) + "\n").collect()
}

/// A cluster of three nodes, each with a third of the slots. Nodes are named by their index.
pub(crate) struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts a cluster, and waits until it serves. The first node announces the port `announced` instead of its own.
    pub(crate) fn start(announced: Option<u16>) -> Self {
        Self::with(announced, |port| format!("--port {port}"), &[])
    }

    /// Starts a cluster with these options of a node for its port; `client` are the arguments that redis-cli needs.
    pub(crate) fn with(announced: Option<u16>, options: impl Fn(u16) -> String, client: &[&str]) -> Self {
        Self::of(PROGRAM, announced, options, client)
    }

    /// Starts a cluster of Valkey servers.
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
            let port = free_port();
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

    /// Adds a node without slots, and returns its index.
    pub(crate) fn join(&mut self) -> usize {
        let port = free_port();
        let node = Self::node(PROGRAM, port, &format!("--port {port}"), &[]);
        self.introduce(&node);
        self.nodes.push(node);
        self.await_all();
        self.nodes.len() - 1
    }

    /// Makes a node without slots a replica of another node, and waits until it has that node's data.
    pub(crate) fn follow(&self, node: usize, master: usize) {
        assert_eq!(self.nodes[node].cli(&["cluster", "replicate", &self.id(master)]), "OK\n");
        eventually("the replica to be synchronised", || {
            let info = self.nodes[node].cli(&["info", "replication"]);
            info.contains("master_link_status:up").then_some(())
        });
    }

    fn node(program: &'static str, port: u16, options: &str, client: &[&str]) -> Redis {
        // A node that a test suspends must not be replaced, and a master that loses its last slot must not become a
        // replica.
        let cluster = "--cluster-enabled yes --cluster-node-timeout 60000 --cluster-announce-ip 127.0.0.1 \
                       --cluster-allow-replica-migration no";
        Redis::of(program, port, &format!("{cluster} {options}"), client)
    }

    fn introduce(&self, other: &Redis) {
        let port = self.nodes[0].port();
        let (port, bus) = (port.to_string(), (port + CLUSTER_BUS).to_string());
        assert_eq!(other.cli(&["cluster", "meet", "127.0.0.1", &port, &bus]), "OK\n");
    }

    fn await_all(&self) {
        let count = self.nodes.len();
        let knows_all = |node: &Redis| {
            let info = node.cli(&["cluster", "info"]);
            info.contains("cluster_state:ok")
                && info.contains(&format!("cluster_known_nodes:{count}\r"))
                && node.cli(&["cluster", "slots"]).matches("127.0.0.").count() == 3
                && !node.cli(&["cluster", "nodes"]).contains("handshake")
        };
        eventually("the cluster to be complete", || self.nodes.iter().all(knows_all).then_some(()));
    }

    pub(crate) fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Returns the process of a node.
    pub(crate) fn service(&mut self, node: usize) -> &mut Service {
        self.nodes[node].service()
    }

    /// Returns `DigestDB` for this cluster.
    pub(crate) fn dsn(&self) -> String {
        format!("redis+cluster://{}", self.hosts())
    }

    /// Returns the addresses of all nodes for a URL.
    pub(crate) fn hosts(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        hosts.join(",")
    }

    /// Returns the index of the node that owns a key's slot.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let has = |node: &Redis| !node.cli(&["exists", key]).contains("MOVED");
        self.nodes.iter().position(has).unwrap()
    }

    /// Reads a field of a hash from the node that owns it.
    pub(crate) fn field(&self, key: &str, field: &str) -> String {
        self.nodes[self.owner(key)].cli(&["hget", key, field]).trim().to_owned()
    }

    /// Begins to move the slot of a key from one node to another.
    pub(crate) fn begin_to_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot(key);
        self.nodes[to].cli(&["cluster", "setslot", &slot, "importing", &self.id(from)]);
        self.nodes[from].cli(&["cluster", "setslot", &slot, "migrating", &self.id(to)]);
    }

    /// Moves a key whose slot is moving.
    pub(crate) fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let moved = self.nodes[from].cli(&["migrate", "127.0.0.1", &port, key, "0", "5000"]);
        assert!(moved.starts_with("OK"), "{moved}");
    }

    /// Finishes moving the slot of a key. The new owner must learn it first; otherwise both would refer clients to each
    /// other.
    pub(crate) fn finish_to_move(&self, key: &str, to: usize) {
        let (slot, id) = (self.slot(key), self.id(to));
        let others = (0..self.nodes.len()).filter(|node| *node != to);
        for node in std::iter::once(to).chain(others) {
            self.nodes[node].cli(&["cluster", "setslot", &slot, "node", &id]);
        }
    }

    /// Begins to move slots, and moves all their keys from one node to another.
    pub(crate) fn move_keys_of(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        let port = self.nodes[to].port();
        let (source, destination) = (self.id(from), self.id(to));
        self.nodes[to].feed(&each(slots.clone(), &format!("cluster setslot SLOT importing {source}")));
        self.nodes[from].feed(&each(slots.clone(), &format!("cluster setslot SLOT migrating {destination}")));
        self.migrate_keys(slots, from, port);
    }

    /// Aborts the move of slots: moves all their keys back to the owner.
    pub(crate) fn return_keys_of(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        let stable = each(slots.clone(), "cluster setslot SLOT stable");
        self.nodes[to].feed(&stable);
        self.migrate_keys(slots, from, self.nodes[to].port());
        self.nodes[from].feed(&stable);
    }

    /// Moves slots with all their keys from one node to another.
    pub(crate) fn move_slots(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        self.move_keys_of(slots.clone(), from, to);
        self.give_slots(slots, to);
    }

    /// Finishes moving slots whose keys have been moved.
    pub(crate) fn give_slots(&self, slots: std::ops::Range<u16>, to: usize) {
        let own = each(slots, &format!("cluster setslot SLOT node {}", self.id(to)));
        let others = (0..self.nodes.len()).filter(|node| *node != to);
        for node in std::iter::once(to).chain(others) {
            self.nodes[node].feed(&own);
        }
    }

    /// Moves slots atomically, as Valkey 9 does, and waits until they have moved.
    pub(crate) fn migrate_slots(&self, slots: std::ops::Range<u16>, from: usize, to: usize) {
        let (first, last) = (slots.start.to_string(), (slots.end - 1).to_string());
        let command = ["cluster", "migrateslots", "slotsrange", &first, &last, "node", &self.id(to)];
        assert_eq!(self.nodes[from].cli(&command), "OK\n");
        eventually("the slots to move", || {
            let shares = self.nodes[from].cli(&["cluster", "slots"]);
            let lines: Vec<&str> = shares.lines().collect();
            let port = self.nodes[to].port().to_string();
            let has = |words: &[&str]| {
                let (from, to): (u16, u16) = (words[0].parse().ok()?, words[1].parse().ok()?);
                (words[3] == port && from <= slots.start && slots.end - 1 <= to).then_some(())
            };
            lines.windows(4).find_map(has)
        });
    }

    fn migrate_keys(&self, slots: std::ops::Range<u16>, from: usize, port: u16) {
        let keys = self.nodes[from].feed(&each(slots, "cluster getkeysinslot SLOT 1000"));
        let keys: Vec<&str> = keys.split_whitespace().filter(|key| key.starts_with("pyzord")).collect();
        assert!(!keys.is_empty(), "the slots have no keys to move");
        let migrate = |key: &&str| format!("migrate 127.0.0.1 {port} {key} 0 5000\n");
        let moved = self.nodes[from].feed(&keys.iter().map(migrate).collect::<String>());
        assert!(moved.lines().filter(|line| !line.is_empty()).all(|line| line == "OK"), "{moved}");
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].service().kill();
    }

    /// Starts a node again on its data.
    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    /// Returns the slot of a key.
    pub(crate) fn slot(&self, key: &str) -> String {
        self.nodes[0].cli(&["cluster", "keyslot", key]).trim().to_owned()
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["cluster", "myid"]).trim().to_owned()
    }
}
