//! A Redis database as a whole.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use jiff::tz::TimeZone;
use redis::{Cmd, Pipeline, RedisError, Value};

use super::form::Form;
use super::node::{Node, Role};
use super::place::{Address, Place, Servers, refusal};
use super::scan;
use super::survey::ask_seeds;
use super::topology::{Topology, question, referred, told};
use crate::record::Record;
use crate::storage::bulk::{
    Addition, Bulk, BulkError, Item, Items, Outcome, Purpose, Put, Work, map_tallies, map_times, united,
};
use crate::storage::presence::Link as _;
use crate::storage::start::{Failure, reach};
use crate::storage::{Cursor, OpenError, Options};

/// How long a server may take to answer before it counts as gone.
const LIMIT: Duration = Duration::from_secs(30);
/// How many keys a server is asked for at once, during which it does nothing else.
const SCANNED: usize = 1000;
/// How many changes are sent at once, and how often, before the first replies are there.
const TOGETHER: usize = 500;
const AHEAD: usize = 4;
/// How long a server that is busy with itself is waited for, and how often.
const PAUSE: Duration = Duration::from_millis(200);
const ROUNDS: usize = 60;

/// A whole database.
pub(super) struct Whole {
    place: Place,
    form: Form,
    role: Role,
    topology: Mutex<Arc<Topology>>,
}

/// Commands for one key, which are sent in a row.
struct Job {
    key: Vec<u8>,
    commands: Vec<Cmd>,
    /// The node that another one has named for it, which has to be told so.
    asking: Option<Arc<Node>>,
    replies: Vec<Value>,
}

/// What becomes of a job whose commands were refused.
enum Verdict {
    /// The replies are what they are.
    Done,
    /// Another server has the key.
    Moved,
    /// Another server has the key for now.
    Ask(String),
    /// The server will do it soon.
    Wait,
    /// The server does not know the script.
    Unscripted,
    /// The server does not do it, nor anything else.
    Failed(String),
}

impl Job {
    fn new(key: Vec<u8>, commands: Vec<Cmd>) -> Self {
        Self { key, commands, asking: None, replies: Vec::new() }
    }

    fn verdict(&self) -> Verdict {
        let refused = self.replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) if error.code() != "WRONGTYPE" => Some(error),
            _ => None,
        });
        let Some(error) = refused else { return Verdict::Done };
        match error.code() {
            "MOVED" => Verdict::Moved,
            "ASK" => Verdict::Ask(error.details().unwrap_or_default().to_owned()),
            "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "BUSY" | "MASTERDOWN" => Verdict::Wait,
            "NOSCRIPT" => Verdict::Unscripted,
            _ => Verdict::Failed(RedisError::from(error.clone()).to_string()),
        }
    }

    fn has_wrong_type(&self) -> bool {
        self.replies
            .iter()
            .any(|reply| matches!(reply, Value::ServerError(error) if error.code() == "WRONGTYPE"))
    }
}

impl Whole {
    /// Opens a database whose records have this form.
    pub(super) async fn open(
        options: &Options,
        purpose: Purpose,
        form: Form,
    ) -> Result<Arc<dyn Bulk>, OpenError> {
        let place = Place::parse(&options.dsn).map_err(|error| OpenError::new(error.to_string()))?;
        let role = match purpose {
            Purpose::Look | Purpose::Read => Role::Read,
            Purpose::Empty | Purpose::Fill => Role::Change(form.swapping_script().to_owned()),
        };
        let name = format!("the Redis of {}", place.describe());
        let topology = match Node::of_place(&place, &role) {
            Some(node) => {
                reach(&name, node.open()).await?;
                Topology::one(node)
            }
            None => reach(&name, cluster(&place, &role)).await?,
        };
        Ok(Arc::new(Self { place, form, role, topology: Mutex::new(Arc::new(topology)) }))
    }

    fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, why: &str) -> BulkError {
        BulkError(format!("the Redis of {}: {why}", self.place.describe()))
    }

    /// Looks who has which slots by now.
    async fn survey(&self) -> Result<(), BulkError> {
        if !matches!(self.place.servers, Servers::Cluster(_)) {
            return Err(self.failed("it is a node of a cluster: write redis+cluster:// and its address"));
        }
        let found = cluster(&self.place, &self.role).await.map_err(|failure| self.failed(&failure.why))?;
        *self.topology.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(())
    }

    /// Has all jobs done, wherever their keys are.
    async fn run(&self, mut jobs: Vec<Job>) -> Result<Vec<Job>, BulkError> {
        let mut pending: Vec<usize> = (0..jobs.len()).collect();
        for _ in 0..ROUNDS {
            let topology = self.topology();
            let mut groups: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
            for at in pending.drain(..) {
                let node = jobs[at].asking.as_ref().or_else(|| topology.route(&jobs[at].key));
                let node = node.ok_or_else(|| self.failed("nobody has some of the slots"))?;
                match groups
                    .iter_mut()
                    .find(|(known, group)| Arc::ptr_eq(known, node) && group.len() < TOGETHER)
                {
                    Some((_, group)) => group.push(at),
                    None => groups.push((Arc::clone(node), vec![at])),
                }
            }
            let sent = groups.iter().map(|(node, group)| send(node, group, &jobs));
            let sent: Vec<_> = iter(sent.collect::<Vec<_>>())
                .buffered(AHEAD)
                .try_collect()
                .await
                .map_err(|failure: Failure| self.failed(&failure.why))?;
            for ((_, group), replies) in groups.iter().zip(sent) {
                for (at, replies) in group.iter().zip(replies) {
                    jobs[*at].replies = replies;
                }
            }
            let (mut moved, mut wait, mut unscripted) = (false, false, false);
            for (node, group) in groups {
                for at in group {
                    let job = &mut jobs[at];
                    job.asking = None;
                    match job.verdict() {
                        Verdict::Done => continue,
                        Verdict::Moved => moved = true,
                        Verdict::Ask(details) => job.asking = Some(self.acquaint(&details, &node).await?),
                        Verdict::Wait => wait = true,
                        Verdict::Unscripted => unscripted = true,
                        Verdict::Failed(why) => return Err(self.failed(&why)),
                    }
                    pending.push(at);
                }
            }
            if pending.is_empty() {
                return Ok(jobs);
            }
            if moved || unscripted {
                // Who is met anew is told the script.
                self.survey_or_reopen().await?;
            }
            if wait || moved {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(self.failed("it has been busy with itself for too long"))
    }

    /// Finds all servers anew, or opens the one there is once more.
    async fn survey_or_reopen(&self) -> Result<(), BulkError> {
        match Node::of_place(&self.place, &self.role) {
            None => self.survey().await,
            Some(node) => {
                node.open().await.map_err(|failure| self.failed(&failure.why))?;
                *self.topology.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Topology::one(node));
                Ok(())
            }
        }
    }

    async fn acquaint(&self, details: &str, from: &Node) -> Result<Arc<Node>, BulkError> {
        let unknown = || self.failed("a node refers to nobody");
        let address: Address = referred(details, from).ok_or_else(unknown)?;
        if let Some(node) = self.topology().node(&address) {
            return Ok(Arc::clone(node));
        }
        let node = Node::of_cluster(address, &self.place.access, &self.role);
        node.open().await.map_err(|failure| self.failed(&failure.why))?;
        Ok(node)
    }

    fn full_key(&self, rest: &[u8]) -> Vec<u8> {
        [self.form.prefix().as_bytes(), rest].concat()
    }

    /// What is under these keys, of which each is told without what all begin with.
    async fn look_up(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Item>>, BulkError> {
        let job = |rest: &Vec<u8>| {
            let key = self.full_key(rest);
            let command = self.form.look_up(&key);
            Job::new(key, vec![command])
        };
        let jobs = self.run(keys.iter().map(job).collect()).await?;
        Ok(keys.into_iter().zip(&jobs).map(|(key, job)| self.item(key, job)).collect())
    }

    fn item(&self, key: Vec<u8>, job: &Job) -> Option<Item> {
        if job.has_wrong_type() {
            let record = Err("the key holds another type of value".to_owned());
            return Some(Item { key, held: Vec::new(), record });
        }
        let reply = job.replies.first()?;
        let held = self.form.held(reply)?;
        let record = match self.form.decode(reply) {
            Ok(record) => Ok(record?),
            Err(_) => Err(format!("cannot decode '{}'", held.escape_ascii())),
        };
        Some(Item { key, held, record })
    }

    async fn page(&self, from: Option<Cursor>, limit: usize) -> Result<Items, BulkError> {
        let topology = self.topology();
        let malformed = || self.failed("a scan cannot go on there");
        let (place, cursor) = match &from {
            None => (0, "0".to_owned()),
            Some(cursor) => parse_cursor(cursor).ok_or_else(malformed)?,
        };
        let node = topology.nodes().get(place).ok_or_else(malformed)?;
        let mut scanning = redis::pipe();
        scanning.add_command(scan::command(self.form.prefix(), &cursor, limit.min(SCANNED)));
        let mut replies =
            node.exchange(&scanning, LIMIT).await.map_err(|failure| self.failed(&failure.why))?;
        let reply = replies.pop().unwrap_or(Value::Nil);
        if let Some(failure) = refusal(&reply) {
            return Err(self.failed(&failure.why));
        }
        let (next, keys): (String, Vec<Vec<u8>>) =
            redis::from_redis_value(reply).map_err(|error| self.failed(&error.to_string()))?;
        let keys = keys.iter().map(|key| self.form.rest(key).to_vec()).collect();
        let items = self.look_up(keys).await?.into_iter().flatten().collect();
        let next = match (next.as_str(), place + 1 < topology.nodes().len()) {
            ("0", false) => None,
            ("0", true) => Some(cursor_of(place + 1, "0")),
            (next, _) => Some(cursor_of(place, next)),
        };
        Ok(Items { items, next })
    }

    /// Does what the script has decided.
    fn swapped(&self, job: &Job) -> Result<Outcome, BulkError> {
        match job.replies.as_slice() {
            [Value::Int(1)] => Ok(Outcome::Done),
            [Value::Int(0)] => Ok(Outcome::Changed),
            _ => Err(self.failed("an unknown reply of the script")),
        }
    }
}

/// All servers of a cluster, connected to.
async fn cluster(place: &Place, role: &Role) -> Result<Topology, Failure> {
    let (seed, _) = ask_seeds(place, role).await?;
    let shares = told(&seed, &seed.exchange(&question(), LIMIT).await?)?;
    let topology = Topology::cluster(&shares, |address| match seed.address() == Some(address) {
        true => Arc::clone(&seed),
        false => Node::of_cluster(address.clone(), &place.access, role),
    });
    let connect = |node: &Arc<Node>| {
        let node = Arc::clone(node);
        async move { if node.is_connected() { Ok(()) } else { node.open().await } }
    };
    try_join_all(topology.nodes().iter().map(connect)).await?;
    Ok(topology)
}

/// Sends the commands of some jobs; their replies are in the order of the jobs.
async fn send(node: &Node, group: &[usize], jobs: &[Job]) -> Result<Vec<Vec<Value>>, Failure> {
    let mut pipeline = Pipeline::with_capacity(group.len() * 2);
    for at in group {
        if jobs[*at].asking.is_some() {
            pipeline.cmd("ASKING");
        }
        jobs[*at].commands.iter().for_each(|command| {
            pipeline.add_command(command.clone());
        });
    }
    let mut replies = node.exchange(&pipeline, LIMIT).await?.into_iter();
    let of_job = |at: &usize| {
        if jobs[*at].asking.is_some() {
            replies.next();
        }
        replies.by_ref().take(jobs[*at].commands.len()).collect()
    };
    Ok(group.iter().map(of_job).collect())
}

fn cursor_of(place: usize, cursor: &str) -> Cursor {
    Cursor(format!("{place} {cursor}").into_bytes())
}

fn parse_cursor(cursor: &Cursor) -> Option<(usize, String)> {
    let (place, cursor) = std::str::from_utf8(&cursor.0).ok()?.split_once(' ')?;
    Some((place.parse().ok()?, cursor.to_owned()))
}

impl Bulk for Whole {
    fn engine(&self) -> &'static str {
        self.form.engine()
    }

    fn describe(&self) -> String {
        format!("{}, {}", self.form.engine(), self.place.describe())
    }

    fn identity(&self, _token: &str, _first: bool) -> Work<'_, Vec<String>> {
        Box::pin(async {
            let mut names = Vec::new();
            for node in self.topology().nodes() {
                let mut question = redis::pipe();
                question.cmd("INFO").arg("server").cmd("INFO").arg("replication");
                let replies =
                    node.exchange(&question, LIMIT).await.map_err(|failure| self.failed(&failure.why))?;
                if let Some(failure) = replies.iter().find_map(refusal) {
                    return Err(self.failed(&format!(
                        "the account must be allowed to run INFO, to tell whether source and destination are the \
                         same ({})",
                        failure.why
                    )));
                }
                let texts = replies.into_iter().filter_map(|reply| redis::from_redis_value(reply).ok());
                let text: String = texts.collect::<Vec<String>>().join("\n");
                // A replica has what its master has.
                let known = text.lines().filter_map(|line| {
                    line.strip_prefix("run_id:").or_else(|| line.strip_prefix("master_replid:"))
                });
                let (engine, database) = (self.form.engine(), self.place.access.database());
                names.extend(known.map(|name| format!("{engine} {} {database}", name.trim())));
            }
            Ok(names)
        })
    }

    fn names(&self) -> Work<'_, Vec<String>> {
        Box::pin(async {
            let mut names = self.identity("", false).await?;
            let (engine, database) = (self.form.engine(), self.place.access.database());
            let places = self.place.resolved().await;
            names.extend(places.into_iter().map(|place| format!("{engine} {place} {database}")));
            Ok(names)
        })
    }

    fn zone(&self) -> Option<TimeZone> {
        self.form.zone().cloned()
    }

    fn has_stragglers(&self) -> bool {
        true
    }

    fn estimate(&self) -> Work<'_, Option<u64>> {
        Box::pin(async {
            let mut total = 0;
            for node in self.topology().nodes() {
                let mut question = redis::pipe();
                question.cmd("DBSIZE");
                match node.exchange(&question, LIMIT).await.as_deref() {
                    Ok([Value::Int(size)]) => total += u64::try_from(*size).unwrap_or_default(),
                    Ok(_) => return Ok(None),
                    Err(failure) => return Err(self.failed(&failure.why)),
                }
            }
            Ok(Some(total))
        })
    }

    fn has_whole_seconds(&self) -> bool {
        true
    }

    fn clamp(&self, record: &Record) -> Record {
        map_tallies(record, |_, tally| map_times(tally, |time| Some(self.form.clamp(time))))
    }

    fn read_back(&self, records: Vec<Record>) -> Work<'_, Vec<Record>> {
        let back = |record: &Record| {
            map_tallies(&self.clamp(record), |_, tally| map_times(tally, |time| self.form.read_back(time)))
        };
        let records = records.iter().map(back).collect();
        Box::pin(async { Ok(records) })
    }

    fn scan(&self, from: Option<Cursor>, limit: usize) -> Work<'_, Items> {
        Box::pin(self.page(from, limit))
    }

    fn read(&self, keys: Vec<Vec<u8>>) -> Work<'_, Vec<Option<Item>>> {
        Box::pin(self.look_up(keys))
    }

    fn store(&self, records: Vec<Put>) -> Work<'_, Vec<Outcome>> {
        Box::pin(async move {
            let job = |put: &Put| {
                let key = self.form.key(put.digest);
                let commands = self.form.store(&key, &self.clamp(&put.record), put.expires);
                Job::new(key, commands)
            };
            let count = records.len();
            let jobs = self.run(records.iter().map(job).collect()).await?;
            let in_the_way: Vec<Job> = jobs
                .into_iter()
                .filter(Job::has_wrong_type)
                .map(|job| {
                    let delete = redis::cmd("DEL").arg(&job.key).take();
                    Job::new(job.key, [vec![delete], job.commands].concat())
                })
                .collect();
            self.run(in_the_way).await?;
            Ok(vec![Outcome::Done; count])
        })
    }

    fn add(&self, additions: Vec<Addition>) -> Work<'_, Vec<Outcome>> {
        Box::pin(async move {
            let mut outcomes = vec![Outcome::Changed; additions.len()];
            let mut places = Vec::new();
            let mut jobs = Vec::new();
            for (at, addition) in additions.iter().enumerate() {
                let (held, there) = match &addition.seen {
                    None => (self.form.held_of_nothing(), Record::default()),
                    Some(Item { held, record: Ok(record), .. }) => (held.clone(), *record),
                    Some(Item { record: Err(why), .. }) => {
                        outcomes[at] = Outcome::Refused(format!("in the destination: {why}"));
                        continue;
                    }
                };
                let key = self.form.key(addition.digest);
                let sum = self.clamp(&united(&there, &addition.record));
                let command = self.form.replace(&key, &held, &sum, addition.expires);
                places.push(at);
                jobs.push(Job::new(key, vec![command]));
            }
            for (at, job) in places.into_iter().zip(self.run(jobs).await?) {
                outcomes[at] = self.swapped(&job)?;
            }
            Ok(outcomes)
        })
    }

    fn delete(&self, items: Vec<Item>) -> Work<'_, Vec<Outcome>> {
        Box::pin(async move {
            let job = |item: Item| {
                let key = self.full_key(&item.key);
                let command = self.form.delete(&key, &item.held);
                Job::new(key, vec![command])
            };
            let jobs = self.run(items.into_iter().map(job).collect()).await?;
            jobs.iter().map(|job| self.swapped(job)).collect()
        })
    }

    /// Redis alone knows when it writes to its disk. But a master that was replaced goes on as if nothing
    /// had happened, and what it is told is lost.
    fn sync(&self) -> Work<'_, ()> {
        Box::pin(async {
            if matches!(self.place.servers, Servers::Sentinels { .. }) {
                for node in self.topology().nodes() {
                    node.check().await.map_err(|why| self.failed(&why))?;
                }
            }
            Ok(())
        })
    }

    fn close(&self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives() {
        assert_eq!(parse_cursor(&cursor_of(3, "17")), Some((3, "17".to_owned())));
        assert_eq!(parse_cursor(&Cursor(b"x".to_vec())), None);
    }
}
