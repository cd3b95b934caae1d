//! The sockets to one server, without the sockets themselves: what was sent from each, and which are in use.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::remotes::RandomNumbers;

/// The number of sockets among which questions are distributed.
const SOCKETS: usize = 4;
/// The age at which a socket is replaced.
const MAX_AGE: Duration = Duration::from_secs(60);
/// The number of requests from a socket after which it is replaced.
const MAX_REQUESTS: usize = 1000;
/// The most sockets that are kept only because replies may still come.
const MAX_RETIRED: usize = 16;

/// A socket of one server. No other socket of that server ever has the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::upstream) struct SocketId(u64);

/// What was sent with a `Thread`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The question with this number, which waits for a reply.
    Question(u64),
    /// A ping at this time, which waits for a reply.
    Ping(Instant),
    /// Something that has its reply, or has waited long enough. The `Thread` is not used again, so that a late reply
    /// cannot be taken for that to another question.
    Over,
}

/// What was sent from one socket.
#[derive(Debug)]
pub(super) struct ThreadTable {
    pub(super) id: SocketId,
    pub(super) address: SocketAddr,
    opened: Instant,
    sent: HashMap<u16, Sent>,
    /// The number of entries that wait for a reply.
    waiting: usize,
}

impl ThreadTable {
    fn new(id: SocketId, address: SocketAddr, now: Instant) -> Self {
        Self { id, address, opened: now, sent: HashMap::new(), waiting: 0 }
    }

    /// Adds a request that waits for a reply. Returns a `Thread` that was never used on this socket.
    pub(super) fn add(&mut self, sent: Sent, random: &mut RandomNumbers) -> u16 {
        // Ends, because the number of requests is bounded.
        let mut thread = random.thread();
        while self.sent.contains_key(&thread) {
            thread = random.thread();
        }
        self.sent.insert(thread, sent);
        self.waiting += 1;
        thread
    }

    /// Takes what waits for the reply with this `Thread`.
    pub(super) fn take(&mut self, thread: u16) -> Option<Sent> {
        let entry = self.sent.get_mut(&thread)?;
        let sent = std::mem::replace(entry, Sent::Over);
        if sent == Sent::Over {
            return None;
        }
        self.waiting -= 1;
        Some(sent)
    }

    /// Sets the time at which a ping was sent.
    pub(super) fn set_ping_time(&mut self, thread: u16, now: Instant) {
        if let Some(Sent::Ping(at)) = self.sent.get_mut(&thread) {
            *at = now;
        }
    }

    fn is_spent(&self, now: Instant) -> bool {
        self.sent.len() >= MAX_REQUESTS || now.saturating_duration_since(self.opened) >= MAX_AGE
    }

    fn questions(&self) -> impl Iterator<Item = u64> {
        self.sent.values().filter_map(|sent| match sent {
            Sent::Question(number) => Some(*number),
            _ => None,
        })
    }

    fn pings(&self) -> impl Iterator<Item = (u16, Instant)> {
        self.sent.iter().filter_map(|(thread, sent)| match sent {
            Sent::Ping(at) => Some((*thread, *at)),
            _ => None,
        })
    }
}

/// The sockets to one server.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// The sockets for questions.
    current: [Option<ThreadTable>; SOCKETS],
    /// Replaced sockets for questions, from which replies are awaited. The oldest is the first.
    retired: VecDeque<ThreadTable>,
    /// The sockets for pings. The last one is in use.
    pings: Vec<ThreadTable>,
    opened: u64,
    random: RandomNumbers,
}

impl Sockets {
    /// Adds a question. Returns its socket and `Thread`. Questions that lose their socket are added to `lost`.
    pub(super) fn add_question(
        &mut self,
        number: u64,
        address: SocketAddr,
        now: Instant,
        lost: &mut Vec<u64>,
    ) -> (SocketId, u16) {
        let slot = usize::try_from(self.random.below(SOCKETS as u64)).unwrap_or(0);
        let id = SocketId(self.opened);
        let place = &mut self.current[slot];
        if let Some(spent) = place.take_if(|table| table.is_spent(now) || table.address != address) {
            self.retired.push_back(spent);
        }
        let table = place.get_or_insert_with(|| {
            self.opened += 1;
            ThreadTable::new(id, address, now)
        });
        let thread = table.add(Sent::Question(number), &mut self.random);
        let id = table.id;
        self.tidy();
        if self.retired.len() > MAX_RETIRED {
            lost.extend(self.retired.pop_front().iter().flat_map(ThreadTable::questions));
        }
        (id, thread)
    }

    /// Returns the socket for pings if it was opened after this time.
    pub(super) fn ping_socket(&mut self, after: Option<Instant>) -> Option<&mut ThreadTable> {
        self.pings.last_mut().filter(|table| after.is_none_or(|after| table.opened > after))
    }

    /// Opens another socket for pings.
    pub(super) fn open_ping_socket(&mut self, address: SocketAddr, now: Instant) {
        self.pings.push(ThreadTable::new(SocketId(self.opened), address, now));
        self.opened += 1;
    }

    /// Adds a ping to the last socket for pings. Returns the socket, its address and the `Thread`.
    pub(super) fn add_ping(&mut self, now: Instant) -> Option<(SocketId, SocketAddr, u16)> {
        let table = self.pings.last_mut()?;
        let thread = table.add(Sent::Ping(now), &mut self.random);
        Some((table.id, table.address, thread))
    }

    /// Ends pings that were sent `wait` ago, and sockets that waited for their replies.
    pub(super) fn expire_pings(&mut self, now: Instant, wait: Duration) {
        for table in &mut self.pings {
            let over: Vec<u16> =
                table.pings().filter(|(_, at)| now >= *at + wait).map(|(thread, _)| thread).collect();
            for thread in over {
                table.take(thread);
            }
        }
        let last = self.pings.last().map(|table| table.id);
        self.pings.retain(|table| table.waiting > 0 || Some(table.id) == last);
    }

    /// Returns the time at which the oldest ping was sent.
    pub(super) fn oldest_ping(&self) -> Option<Instant> {
        self.pings.iter().flat_map(ThreadTable::pings).map(|(_, at)| at).min()
    }

    /// Returns what was sent from this socket.
    pub(super) fn find(&mut self, id: SocketId) -> Option<&mut ThreadTable> {
        let current = self.current.iter_mut().flatten();
        current.chain(&mut self.retired).chain(&mut self.pings).find(|table| table.id == id)
    }

    /// Whether the socket is in use.
    pub(super) fn contains(&self, id: SocketId) -> bool {
        let current = self.current.iter().flatten();
        current.chain(&self.retired).chain(&self.pings).any(|table| table.id == id)
    }

    /// Closes replaced sockets from which nothing is awaited.
    pub(super) fn tidy(&mut self) {
        self.retired.retain(|table| table.waiting > 0);
    }

    /// Closes all sockets.
    pub(super) fn close(&mut self) {
        self.current = Default::default();
        self.retired.clear();
        self.pings.clear();
    }
}
