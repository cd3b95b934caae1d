//! A Redis Cluster as a source or destination.

use std::process::Command;
use std::sync::Arc;

use super::counted::{Content, Tally};
use super::stores::{Store, home, write_hash};
use crate::harness::{Home, RedisCluster, run};

const PREFIX: &str = "pyzord.digest_v1.";

/// A cluster that the test may change during a migration.
pub(crate) struct ClusterStore(pub(crate) Arc<RedisCluster>);

/// The slot of a key: CRC-16/XMODEM.
fn slot(key: &str) -> u16 {
    let crc = key.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| (crc << 1) ^ ((crc >> 15) * 0x1021))
    });
    crc % 16_384
}

impl Store for ClusterStore {
    fn engine(&self) -> &'static str {
        "redis"
    }

    fn dsn(&self) -> String {
        self.0.dsn()
    }

    fn home(&self) -> Home {
        home(&format!("Engine = redis\nDigestDB = {}\n", self.dsn()))
    }

    /// Works only while each node has its original slots.
    fn add(&self, content: &Content) {
        let mut commands = [const { Vec::new() }; 3];
        for (digest, tallies) in content {
            let key = format!("{PREFIX}{digest}");
            let slot = slot(&key);
            let node = usize::from(slot > 5460) + usize::from(slot > 10_922);
            write_hash(&mut commands[node], &key, tallies);
        }
        for (node, commands) in self.0.nodes().iter().zip(&commands) {
            let mut client = Command::new("redis-cli");
            let said = run(client.args(["-p", &node.port().to_string(), "--pipe"]), commands).stdout;
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains("errors: 0, "), "{said}");
        }
    }

    fn read(&self) -> Content {
        const DUMP: &str = "
            local all = {}
            for _, key in ipairs(redis.call('KEYS', 'pyzord.digest_v1.*')) do
                local got = redis.call('HMGET', key, 'r_count', 'r_entered', 'r_updated', 'wl_count', 'wl_entered',
                    'wl_updated')
                for at = 1, 6 do
                    got[at] = got[at] or '0'
                end
                all[#all + 1] = key .. ',' .. table.concat(got, ',')
            end
            return all";
        let mut content = Content::new();
        for node in self.0.nodes() {
            for line in node.cli(&["eval", DUMP, "0"]).lines().filter(|line| !line.is_empty()) {
                let fields: Vec<&str> = line.strip_prefix(PREFIX).unwrap().split(',').collect();
                let time = |text: &str| Some(text.parse().unwrap()).filter(|seconds| *seconds != 0);
                let tally = |at: usize| Tally {
                    count: fields[at].parse().unwrap(),
                    first: time(fields[at + 1]),
                    last: time(fields[at + 2]),
                };
                let known = content.insert(fields[0].to_owned(), [tally(1), tally(4)]);
                assert!(known.is_none(), "two nodes have {}", fields[0]);
            }
        }
        content
    }

    fn count(&self) -> usize {
        self.0.nodes().iter().map(|node| node.cli(&["dbsize"]).trim().parse::<usize>().unwrap()).sum()
    }
}
