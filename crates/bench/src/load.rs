//! The load itself: sends what is due, takes what comes, and gives up what does not.

use std::io;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use thiserror::Error;

use super::outbox::Outbox;
use super::outstanding::{Match, Outstanding, Sent};
use super::plan::{End, Pace, Plan};
use super::request::Encoder;
use super::rhythm::Rhythm;
use super::schedule::{Due, Schedule};
use super::sockets::Sockets;
use super::stop::Stop;
use super::tally::Tally;
use pyzor_wire::reply_reader::ReceivedReply;

/// How many requests are prepared at a time, so that replies are not kept waiting.
const BATCH: usize = 256;
/// How many batches of replies are taken from a socket before the next one has its turn: all that its buffer has
/// room for, so that no request is given up whose reply has come.
const TURNS: usize = 512;
/// With so many sockets at most, all are asked for replies when one has had some.
const FEW_SOCKETS: usize = 8;
/// How long a stop may go unnoticed, in nanoseconds.
const STOP_PERIOD: u64 = 50_000_000;
/// How far behind its rate an open loop may be at its end, in nanoseconds, and still send the rest.
const BEHIND: u64 = 100_000_000;

/// Why there is no measurement.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The system does not let requests out.
    #[error("cannot send: {0}")]
    Send(io::Error),
    /// The system does not let replies in.
    #[error("cannot receive: {0}")]
    Receive(io::Error),
}

/// What load needs, from one run to the next.
pub(super) struct Generator {
    pub(super) sockets: Sockets,
    pub(super) outstanding: Outstanding,
    pub(super) encoder: Encoder,
    pub(super) stop: Stop,
    /// After how many nanoseconds a request is given up.
    pub(super) timeout: u64,
    pub(super) epoch: Instant,
    /// How often the server's host said that its port is closed.
    pub(super) refusals: u64,
}

/// One run.
struct Run<'a> {
    generator: &'a mut Generator,
    plan: Plan,
    outbox: Outbox,
    /// How many requests may be sent on each socket of a closed loop.
    due: Vec<usize>,
    /// When requests of an open loop are sent; none of a closed one.
    schedule: Option<Schedule>,
    /// The socket whose turn it is in an open loop.
    turn: usize,
    begin: u64,
    /// When the warm-up ends.
    measured_from: u64,
    /// When the last request may be sent.
    deadline: u64,
    /// When the measurement has ended; after that, only replies to its requests are waited for.
    ended: Option<u64>,
    tally: Tally,
    processor_at_begin: f64,
    is_measuring: bool,
    is_sending: bool,
    /// Until when requests have been sent, as far as they were due, or passed over.
    sending_until: u64,
    /// How many requests of the measurement a closed loop has written.
    begun: u64,
    answered_ever: u64,
    given_up_ever: u64,
    /// When the last reply to a request of the measurement came.
    last_reply: Option<u64>,
    rhythm: Rhythm,
    /// Whether all sockets are asked for replies without waiting: where some have just come there are likely
    /// more.
    is_busy: bool,
    /// The sockets to be asked.
    ready: Vec<usize>,
}

/// The processor time of this process, in seconds.
fn processor_time() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        micros as f64 / 1e6
    })
}

impl Generator {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Measures. `tell` is called now and then with the time since the beginning and what was counted.
    ///
    /// # Errors
    ///
    /// The system's, where load cannot go on.
    pub(super) fn run(&mut self, plan: Plan, tell: &mut dyn FnMut(u64, &Tally)) -> Result<Tally, Failure> {
        let sockets = self.sockets.len();
        let begin = self.now();
        let measured_from = begin + plan.warm_up;
        let (window, schedule) = match plan.pace {
            Pace::Closed { window } => (window, None),
            Pace::Open { rate } => (0, Some(Schedule::new(rate, begin, measured_from, plan.end))),
        };
        let deadline = match plan.end {
            End::After(duration) => measured_from + duration,
            End::Count(_) => u64::MAX,
        };
        let run = Run {
            outbox: Outbox::new(&self.encoder),
            generator: self,
            plan,
            due: (0..sockets).map(|at| window / sockets + usize::from(at < window % sockets)).collect(),
            schedule,
            turn: 0,
            begin,
            measured_from,
            deadline,
            ended: None,
            tally: Tally::default(),
            processor_at_begin: 0.0,
            is_measuring: false,
            is_sending: true,
            sending_until: begin,
            begun: 0,
            answered_ever: 0,
            given_up_ever: 0,
            last_reply: None,
            rhythm: Rhythm::new(window, begin),
            is_busy: false,
            ready: Vec::with_capacity(sockets),
        };
        run.until_the_end(tell)
    }
}

impl Run<'_> {
    fn until_the_end(mut self, tell: &mut dyn FnMut(u64, &Tally)) -> Result<Tally, Failure> {
        let mut next_line = self.plan.interval.map(|interval| self.begin + interval);
        loop {
            let now = self.generator.now();
            self.begin_and_end(now);
            if self.is_sending {
                self.send_due(now)?;
            } else if self.generator.outstanding.oldest().is_none() && self.ended.is_some() {
                self.tally.scheduled = match &self.schedule {
                    Some(schedule) => schedule.scheduled_until(self.sending_until),
                    None => self.begun,
                };
                return Ok(self.tally);
            }
            if self.is_hopeless() {
                return Err(Failure::Send(Errno::ECONNREFUSED.into()));
            }
            if let (Some(at), Some(interval)) = (next_line, self.plan.interval)
                && now >= at
            {
                tell(now - self.begin, &self.tally);
                next_line = Some(now + interval);
            }
            self.take_replies(now, next_line)?;
            // All that had come by then has been taken.
            self.give_up(now);
        }
    }

    /// Begins and ends the measurement, and the sending.
    fn begin_and_end(&mut self, now: u64) {
        if !self.is_measuring && now >= self.measured_from {
            self.is_measuring = true;
            self.tally.arrived = 0;
            self.tally.started = Some(SystemTime::now());
            self.processor_at_begin = processor_time();
        }
        let is_stopped = self.generator.stop.is_wanted();
        let is_too_late = now >= self.deadline.saturating_add(BEHIND);
        if is_too_late && self.is_sending && !is_stopped {
            // What is left was scheduled, and is unsent.
            self.sending_until = self.deadline;
        }
        if is_stopped || is_too_late || self.has_sent_all(now) {
            self.is_sending = false;
        }
        let end = match self.plan.end {
            _ if is_stopped => Some(now),
            End::After(_) => Some(now).filter(|now| *now >= self.deadline && !self.is_sending),
            End::Count(_) => {
                let is_done = !self.is_sending && self.generator.outstanding.oldest().is_none();
                // What is lost at the end is not waited for in the measurement, unless all is lost.
                is_done.then(|| self.last_reply.map_or(now, |reply| reply.max(self.sending_until)))
            }
        };
        if let (Some(end), None) = (end, self.ended) {
            self.ended = Some(end);
            self.tally.is_interrupted = is_stopped;
            self.tally.nanoseconds = end.saturating_sub(self.measured_from);
            if self.is_measuring {
                self.tally.cpu_seconds = processor_time() - self.processor_at_begin;
                self.tally.cpu_nanoseconds = now - self.measured_from;
            }
        }
    }

    /// Waits until something is to be done, and takes the replies that have come.
    fn take_replies(&mut self, now: u64, next_line: Option<u64>) -> Result<(), Failure> {
        let phase = if self.is_measuring { self.deadline } else { self.measured_from };
        let expiry = self.generator.outstanding.oldest().map(|since| since + self.generator.timeout);
        let next_due = self.schedule.as_ref().filter(|_| self.is_sending).and_then(Schedule::next_due);
        let until = [Some(phase).filter(|_| self.ended.is_none()), expiry, next_line, next_due]
            .into_iter()
            .flatten()
            .fold(now + STOP_PERIOD, u64::min);
        let patience = until.saturating_sub(self.generator.now());
        match self.rhythm.nap(self.answered_ever, now).filter(|nap| self.is_busy && *nap < patience) {
            Some(nap) => thread::sleep(Duration::from_nanos(nap)),
            None if self.is_busy => {}
            None => {
                let waited = self.generator.sockets.wait(patience, &mut self.ready);
                waited.map_err(|why| Failure::Receive(why.into()))?;
            }
        }
        let sockets = self.generator.sockets.len();
        let mut is_any = false;
        for at in 0..self.ready.len() {
            is_any |= self.receive(self.ready[at])?;
        }
        self.is_busy = is_any && sockets <= FEW_SOCKETS;
        if self.is_busy {
            self.ready.clear();
            self.ready.extend(0..sockets);
        }
        Ok(())
    }

    /// Whether nothing was ever answered and the server's port is closed.
    fn is_hopeless(&self) -> bool {
        self.answered_ever == 0 && self.given_up_ever > 0 && self.generator.refusals > 0
    }

    fn has_sent_all(&self, now: u64) -> bool {
        match &self.schedule {
            Some(schedule) => schedule.next_due().is_none(),
            None => now >= self.deadline || self.has_begun_all(),
        }
    }

    fn has_begun_all(&self) -> bool {
        matches!(self.plan.end, End::Count(count) if self.begun >= count)
    }

    /// Gives up what was sent a timeout before `now` or earlier.
    fn give_up(&mut self, now: u64) {
        let Some(until) = now.checked_sub(self.generator.timeout) else { return };
        while let Some(sent) = self.generator.outstanding.give_up(until) {
            self.given_up_ever += 1;
            self.tally.lost += u64::from(sent.is_counted);
            self.due[sent.socket] += 1;
        }
    }

    fn send_due(&mut self, now: u64) -> Result<(), Failure> {
        self.sending_until = now;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.generator.encoder.set_time(i64::try_from(seconds).unwrap_or(0));
        if self.schedule.is_some() { self.keep_schedule(now) } else { self.fill_windows(now) }
    }

    /// Sends requests of a closed loop, as many as have been answered.
    fn fill_windows(&mut self, now: u64) -> Result<(), Failure> {
        for socket in 0..self.due.len() {
            let is_counted = self.is_measuring;
            let mut written = 0;
            while self.due[socket] > 0 && written < BATCH && !(is_counted && self.has_begun_all()) {
                if !self.write(socket, now, is_counted) {
                    break;
                }
                self.begun += u64::from(is_counted);
                self.due[socket] -= 1;
                written += 1;
            }
            if written > 0 {
                self.flush(socket)?;
            }
        }
        Ok(())
    }

    /// Sends requests of an open loop that are due. What is overdue for longer than the timeout is passed over:
    /// a client would have given it up.
    fn keep_schedule(&mut self, now: u64) -> Result<(), Failure> {
        let oldest = now.saturating_sub(self.generator.timeout);
        if let Some(schedule) = &mut self.schedule {
            schedule.skip_before(oldest);
        }
        let socket = self.turn;
        let mut written = 0;
        while written < BATCH
            && let Some(Due { at, is_counted }) =
                self.schedule.as_mut().and_then(|schedule| schedule.take(now))
            && self.write(socket, at, is_counted)
        {
            written += 1;
        }
        if written > 0 {
            self.turn = (self.turn + 1) % self.generator.sockets.len();
            self.flush(socket)?;
        }
        Ok(())
    }

    /// Writes the next request, for which there may be no room; says whether there was one.
    fn write(&mut self, socket: usize, since: u64, is_counted: bool) -> bool {
        let Some((op, digest)) = self.plan.source.next() else {
            self.is_sending = false;
            return false;
        };
        let sent = Sent { op, socket, since, at: since, is_counted };
        if let Some(thread) = self.generator.outstanding.add(sent) {
            self.outbox.push(&self.generator.encoder, op, &digest, thread);
        }
        true
    }

    /// Sends what has been written.
    fn flush(&mut self, socket: usize) -> Result<(), Failure> {
        let Generator { sockets, outstanding, refusals, epoch, .. } = &mut *self.generator;
        let is_open = self.schedule.is_some();
        let sent = self.outbox.flush(sockets, socket, !is_open, refusals, |thread| {
            outstanding.cancel(thread);
        });
        let sent = sent.map_err(|error| Failure::Send(error.into()))?;
        let now = epoch.elapsed().as_nanos() as u64;
        for request in sent.iter().filter_map(|thread| outstanding.sent(*thread, now)) {
            self.tally.sent += u64::from(request.is_counted);
            if is_open && request.is_counted {
                self.tally.lag.saturating_record(now.saturating_sub(request.since));
            }
        }
        Ok(())
    }

    /// Takes the replies to a socket; says whether there were any.
    fn receive(&mut self, socket: usize) -> Result<bool, Failure> {
        let mut is_any = false;
        for _ in 0..TURNS {
            let Self { generator, tally, due, is_measuring, ended, answered_ever, last_reply, .. } = self;
            let Generator { sockets, outstanding, epoch, .. } = &mut **generator;
            let mut now = None;
            let outcome = sockets.receive(socket, |datagram| {
                let now = *now.get_or_insert_with(|| epoch.elapsed().as_nanos() as u64);
                let reply = ReceivedReply::parse(datagram);
                let matched = reply.map_or(Match::Unknown, |reply| outstanding.answer(reply.thread));
                match (matched, reply) {
                    (Match::Request(sent), Some(reply)) => {
                        *answered_ever += 1;
                        due[sent.socket] += 1;
                        if sent.is_counted {
                            *last_reply = Some(now);
                            tally.answer(sent, reply, now.saturating_sub(sent.since));
                        }
                        tally.arrived += u64::from(ended.is_none());
                    }
                    (Match::Late, _) => tally.late += u64::from(*is_measuring),
                    _ => tally.unknown += u64::from(*is_measuring),
                }
            });
            match outcome {
                Ok(true) => is_any = true,
                Ok(false) => return Ok(true),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(Errno::ECONNREFUSED) => self.generator.refusals += 1,
                Err(error) => return Err(Failure::Receive(error.into())),
            }
        }
        Ok(is_any)
    }
}
