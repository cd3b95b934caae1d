//! The load itself: sends what is due, takes what comes, and gives up what does not.

mod receiving;
mod sending;

use std::io;
use std::time::{Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use thiserror::Error;

use crate::measurement::Measurement;
use crate::nap::NapPlanner;
use crate::outbox::RequestOutbox;
use crate::outstanding::Outstanding;
use crate::plan::{LoadPace, LoadPlan, MeasurementEnd};
use crate::request::Encoder;
use crate::schedule::Schedule;
use crate::sockets::Sockets;
use crate::stop::StopFlag;

/// How far behind its rate an open loop may be at its end, in nanoseconds, and still send the rest.
const MOST_BEHIND: u64 = 100_000_000;

/// Why there is no measurement.
#[derive(Debug, Error)]
pub(super) enum LoadError {
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
    pub(super) stop: StopFlag,
    /// After how many nanoseconds a request is given up.
    pub(super) timeout: u64,
    pub(super) epoch: Instant,
    /// How often the server's host said that its port is closed.
    pub(super) refusals: u64,
}

/// One run.
struct Run<'a> {
    generator: &'a mut Generator,
    plan: LoadPlan,
    outbox: RequestOutbox,
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
    measurement: Measurement,
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
    naps: NapPlanner,
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
    pub(super) fn run(
        &mut self,
        plan: LoadPlan,
        tell: &mut dyn FnMut(u64, &Measurement),
    ) -> Result<Measurement, LoadError> {
        let sockets = self.sockets.len();
        let begin = self.now();
        let measured_from = begin + plan.warm_up;
        let (window, schedule) = match plan.pace {
            LoadPace::Closed { window } => (window, None),
            LoadPace::Open { rate } => (0, Some(Schedule::new(rate, begin, measured_from, plan.end))),
        };
        let deadline = match plan.end {
            MeasurementEnd::After(duration) => measured_from + duration,
            MeasurementEnd::Count(_) => u64::MAX,
        };
        let run = Run {
            outbox: RequestOutbox::new(&self.encoder),
            generator: self,
            plan,
            due: (0..sockets).map(|at| window / sockets + usize::from(at < window % sockets)).collect(),
            schedule,
            turn: 0,
            begin,
            measured_from,
            deadline,
            ended: None,
            measurement: Measurement::default(),
            processor_at_begin: 0.0,
            is_measuring: false,
            is_sending: true,
            sending_until: begin,
            begun: 0,
            answered_ever: 0,
            given_up_ever: 0,
            last_reply: None,
            naps: NapPlanner::new(window, begin),
            is_busy: false,
            ready: Vec::with_capacity(sockets),
        };
        run.until_the_end(tell)
    }
}

impl Run<'_> {
    fn until_the_end(mut self, tell: &mut dyn FnMut(u64, &Measurement)) -> Result<Measurement, LoadError> {
        let mut next_line = self.plan.interval.map(|interval| self.begin + interval);
        loop {
            let now = self.generator.now();
            self.begin_and_end(now);
            if self.is_sending {
                self.send_due(now)?;
            } else if self.generator.outstanding.oldest().is_none() && self.ended.is_some() {
                self.measurement.scheduled = match &self.schedule {
                    Some(schedule) => schedule.scheduled_until(self.sending_until),
                    None => self.begun,
                };
                return Ok(self.measurement);
            }
            if self.is_port_closed() {
                return Err(LoadError::Send(Errno::ECONNREFUSED.into()));
            }
            if let (Some(at), Some(interval)) = (next_line, self.plan.interval)
                && now >= at
            {
                tell(now - self.begin, &self.measurement);
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
            self.measurement.arrived = 0;
            self.measurement.started = Some(SystemTime::now());
            self.processor_at_begin = processor_time();
        }
        let is_stopped = self.generator.stop.is_wanted();
        let is_too_late = now >= self.deadline.saturating_add(MOST_BEHIND);
        if is_too_late && self.is_sending && !is_stopped {
            // What is left was scheduled, and is unsent.
            self.sending_until = self.deadline;
        }
        if is_stopped || is_too_late || self.has_sent_all(now) {
            self.is_sending = false;
        }
        let end = match self.plan.end {
            _ if is_stopped => Some(now),
            MeasurementEnd::After(_) => Some(now).filter(|now| *now >= self.deadline && !self.is_sending),
            MeasurementEnd::Count(_) => {
                let is_done = !self.is_sending && self.generator.outstanding.oldest().is_none();
                // What is lost at the end is not waited for in the measurement, unless all is lost.
                is_done.then(|| self.last_reply.map_or(now, |reply| reply.max(self.sending_until)))
            }
        };
        if let (Some(end), None) = (end, self.ended) {
            self.ended = Some(end);
            self.measurement.is_interrupted = is_stopped;
            self.measurement.nanoseconds = end.saturating_sub(self.measured_from);
            if self.is_measuring {
                self.measurement.cpu_seconds = processor_time() - self.processor_at_begin;
                self.measurement.cpu_nanoseconds = now - self.measured_from;
            }
        }
    }

    /// Whether nothing was ever answered and the server's port is closed.
    fn is_port_closed(&self) -> bool {
        self.answered_ever == 0 && self.given_up_ever > 0 && self.generator.refusals > 0
    }

    fn has_sent_all(&self, now: u64) -> bool {
        match &self.schedule {
            Some(schedule) => schedule.next_due().is_none(),
            None => now >= self.deadline || self.has_begun_all(),
        }
    }

    fn has_begun_all(&self) -> bool {
        matches!(self.plan.end, MeasurementEnd::Count(count) if self.begun >= count)
    }
}
