//! What a server is at a moment.

use std::ops::RangeInclusive;

use redis::Value;

use super::bulk::LIMIT;
use super::connection::refusal;
use super::node::RedisNode;
use crate::storage::remote::start::ConnectError;

/// What a server is at a moment. Where it is the same at two moments, no key has come to it in between but from
/// its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeStanding {
    /// By which its process is known; nothing where the account may not know.
    run: String,
    /// Whether it is a master or a replica, and of which history.
    role: String,
    history: String,
    /// How it is called in a cluster.
    id: String,
    /// Grows when it takes over a slot, so that one which it gave away and got back is noticed. Of two nodes
    /// that hand a slot to each other at most one has the highest epoch, and the other one's grows.
    epoch: String,
    /// The slots that it has; last, those that are being moved.
    slots: Vec<RangeInclusive<usize>>,
    open: Vec<String>,
    /// How many keys other nodes have sent to it: a move of slots that is given up changes nothing else.
    arrivals: String,
}

impl NodeStanding {
    /// Asks a server.
    pub(super) async fn of(node: &RedisNode, is_cluster: bool) -> Result<Self, ConnectError> {
        let mut question = redis::pipe();
        question.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        if is_cluster {
            question.cmd("INFO").arg("commandstats").cmd("CLUSTER").arg("NODES");
        }
        node.check_master().await.map_err(ConnectError::temporary)?;
        let replies = node.exchange(&question, LIMIT).await?;
        match replies.iter().find_map(refusal) {
            // The process cannot change without the connection.
            Some(_) if !is_cluster => return Ok(Self::default()),
            Some(failure) => {
                let why =
                    "the account must be allowed to run INFO and CLUSTER NODES, to notice slots that move";
                return Err(ConnectError::permanent(format!("{why} ({})", failure.why)));
            }
            None => {}
        }
        let text = |reply: Value| redis::from_redis_value::<String>(reply).unwrap_or_default();
        let texts: Vec<String> = replies.into_iter().map(text).collect();
        let known = Self::read(&texts.concat());
        match is_cluster && known.id.is_empty() {
            true => Err(ConnectError::temporary("a node does not say what it is")),
            false => Ok(known),
        }
    }

    /// Reads what `INFO` and `CLUSTER NODES` say.
    fn read(text: &str) -> Self {
        let mut known = Self::default();
        for line in text.lines() {
            if let Some((name, value)) = line.split_once(':') {
                match name {
                    "run_id" => value.clone_into(&mut known.run),
                    "role" => value.clone_into(&mut known.role),
                    "master_replid" => value.clone_into(&mut known.history),
                    "cmdstat_restore-asking" => {
                        value.split(',').next().unwrap_or_default().clone_into(&mut known.arrivals);
                    }
                    _ => {}
                }
            }
            // id, address, flags, master, ping, pong, epoch, link, slots
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [id, _, flags, _, _, _, epoch, _, slots @ ..] = words.as_slice()
                && flags.split(',').any(|flag| flag == "myself")
            {
                (*id).clone_into(&mut known.id);
                (*epoch).clone_into(&mut known.epoch);
                known.slots = slots.iter().filter_map(|slots| range(slots)).collect();
                let open = slots.iter().filter(|slots| range(slots).is_none());
                known.open = open.map(ToString::to_string).collect();
            }
        }
        known
    }

    /// Whether it has a slot.
    pub(super) fn has(&self, slot: usize) -> bool {
        self.slots.iter().any(|slots| slots.contains(&slot))
    }

    /// Whether it is the same master: what it was told it still knows, or a replica that has followed it.
    pub(super) fn is_still(&self, before: &Self) -> bool {
        (&self.run, &self.role, &self.id) == (&before.run, &before.role, &before.id)
    }
}

/// `5` or `5-8`.
fn range(text: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_what_it_says_of_itself() {
        let known = NodeStanding::read(
            "# Server\r\nrun_id:abc\r\nrole:master\r\nmaster_replid:def\r\n\
             cmdstat_restore-asking:calls=5,usec=1,usec_per_call=0.2\r\n\
             7 127.0.0.1:1@2 master - 0 5 9 connected 12-16383\n\
             6 127.0.0.1:2@3,host myself,master - 0 17 3 connected 0-7 9 [9->-7] [11-<-7]\n",
        );
        let expected = NodeStanding {
            run: "abc".to_owned(),
            role: "master".to_owned(),
            history: "def".to_owned(),
            id: "6".to_owned(),
            epoch: "3".to_owned(),
            slots: vec![0..=7, 9..=9],
            open: vec!["[9->-7]".to_owned(), "[11-<-7]".to_owned()],
            arrivals: "calls=5".to_owned(),
        };
        assert_eq!(known, expected);
        assert_eq!([7, 8, 9, 10].map(|slot| known.has(slot)), [true, false, true, false]);
    }
}
