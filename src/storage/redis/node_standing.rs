//! The state of a server, by which `pyzor-migrate` notices restarts, failovers and moved slots.

use std::ops::RangeInclusive;

use redis::Value;

use super::bulk::LIMIT;
use super::connection::refusal;
use super::node::RedisNode;
use crate::storage::remote::start::ConnectError;

/// The state of a server at one moment. If it is the same at two moments, no other node has sent keys to the server in
/// between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeStanding {
    /// `run_id` of the process; empty if the account may not run `INFO`.
    run: String,
    /// `master` or `slave`.
    role: String,
    /// `master_replid`, the replication history.
    history: String,
    /// Node id in the cluster.
    id: String,
    /// Grows when the node takes over a slot, which reveals a slot that was given away and taken back: of two nodes
    /// that exchange a slot, at least one does not have the highest epoch and gets a new one.
    epoch: String,
    slots: Vec<RangeInclusive<usize>>,
    /// The slots that are being moved, as `CLUSTER NODES` prints them.
    open: Vec<String>,
    /// The number of `RESTORE-ASKING` calls, by which other nodes send keys. An aborted move of a slot changes only
    /// this.
    arrivals: String,
}

impl NodeStanding {
    /// Queries a server for its state.
    pub(super) async fn of(node: &RedisNode, is_cluster: bool) -> Result<Self, ConnectError> {
        let mut question = redis::pipe();
        question.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        if is_cluster {
            question.cmd("INFO").arg("commandstats").cmd("CLUSTER").arg("NODES");
        }
        node.check_master().await.map_err(ConnectError::temporary)?;
        let replies = node.exchange(&question, LIMIT).await?;
        match replies.iter().find_map(refusal) {
            // Without INFO: a restart also ends the connection, which is noticed.
            Some(_) if !is_cluster => return Ok(Self::default()),
            Some(failure) => {
                let why = "the account may not run INFO and CLUSTER NODES, which are needed to notice slots that move";
                return Err(ConnectError::permanent(format!("{why} ({}): allow them", failure.why)));
            }
            None => {}
        }
        let text = |reply: Value| redis::from_redis_value::<String>(reply).unwrap_or_default();
        let texts: Vec<String> = replies.into_iter().map(text).collect();
        let standing = Self::parse(&texts.concat());
        match is_cluster && standing.id.is_empty() {
            true => Err(ConnectError::temporary("CLUSTER NODES does not list the node that was asked")),
            false => Ok(standing),
        }
    }

    /// Parses the replies of `INFO` and `CLUSTER NODES`.
    fn parse(text: &str) -> Self {
        let mut standing = Self::default();
        for line in text.lines() {
            if let Some((name, value)) = line.split_once(':') {
                match name {
                    "run_id" => value.clone_into(&mut standing.run),
                    "role" => value.clone_into(&mut standing.role),
                    "master_replid" => value.clone_into(&mut standing.history),
                    "cmdstat_restore-asking" => {
                        value.split(',').next().unwrap_or_default().clone_into(&mut standing.arrivals);
                    }
                    _ => {}
                }
            }
            // id, address, flags, master, ping, pong, epoch, link, slots
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [id, _, flags, _, _, _, epoch, _, slots @ ..] = words.as_slice()
                && flags.split(',').any(|flag| flag == "myself")
            {
                (*id).clone_into(&mut standing.id);
                (*epoch).clone_into(&mut standing.epoch);
                standing.slots = slots.iter().filter_map(|slots| range(slots)).collect();
                let open = slots.iter().filter(|slots| range(slots).is_none());
                standing.open = open.map(ToString::to_string).collect();
            }
        }
        standing
    }

    /// Whether the node owns a slot.
    pub(super) fn has(&self, slot: usize) -> bool {
        self.slots.iter().any(|slots| slots.contains(&slot))
    }

    /// Whether the server is the same process in the same role, so that it still has what was written to it.
    pub(super) fn is_still(&self, before: &Self) -> bool {
        (&self.run, &self.role, &self.id) == (&before.run, &before.role, &before.id)
    }
}

/// Parses a slot or a range of slots: `5` or `5-8`.
fn range(text: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_is_parsed_from_the_line_of_the_node_itself() {
        let known = NodeStanding::parse(
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
