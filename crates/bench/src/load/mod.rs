//! The load generator: sends requests that are due, receives replies, and counts requests without a reply as lost.

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

/// The most time that an open loop behind its schedule may keep sending after its end, in nanoseconds.
const MOST_BEHIND: u64 = 100_000_000;

/// The reason why a run failed.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    #[error("cannot send: {0}")]
    Send(io::Error),
    #[error("cannot receive: {0}")]
    Receive(io::Error),
}

/// The state that is kept from one run to the next.
pub(super) struct Generator {
    pub(super) sockets: Sockets,
    pub(super) outstanding: Outstanding,
    pub(super) encoder: Encoder,
    pub(super) stop: StopFlag,
    /// The time after which a request without a reply is lost, in nanoseconds.
    pub(super) timeout: u64,
    /// The start of all times of runs.
    pub(super) epoch: Instant,
    /// The number of reports by the server's host that its port is closed.
    pub(super) refusals: u64,
}

/// One run. Times are nanoseconds since the generator's epoch.
struct LoadRun<'a> {
    generator: &'a mut Generator,
    plan: LoadPlan,
    outbox: RequestOutbox,
    /// In a closed loop, how many requests may be sent now, by socket.
    due: Vec<usize>,
    /// The schedule of an open loop; `None` in a closed loop.
    schedule: Option<Schedule>,
    /// In an open loop, the socket for the next requests.
    turn: usize,
    begin: u64,
    /// The end of the warm-up.
    measured_from: u64,
    /// The end of sending.
    deadline: u64,
    /// The end of the measurement. After it, the run only waits for outstanding replies.
    ended: Option<u64>,
    measurement: Measurement,
    /// The processor time at the start of the measurement, in seconds.
    processor_at_begin: f64,
    is_measuring: bool,
    is_sending: bool,
    /// All requests due until this time have been sent or skipped.
    sending_until: u64,
    /// In a closed loop, how many requests of the measurement have been written.
    begun: u64,
    /// Requests answered since the start of the run, including the warm-up.
    answered_ever: u64,
    /// Requests lost since the start of the run, including the warm-up.
    lost_ever: u64,
    /// The arrival of the last reply to a request of the measurement.
    last_reply: Option<u64>,
    naps: NapPlanner,
    /// Whether to poll all sockets instead of waiting, because replies have just arrived and more are likely.
    is_busy: bool,
    /// The sockets to receive from.
    ready: Vec<usize>,
}

/// Returns the processor time of this process, in seconds.
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

    /// Runs the plan. Calls `progress` at its interval, with the nanoseconds since the start and the counts so far.
    ///
    /// # Errors
    ///
    /// Fails if the system cannot send or receive, or if the server's port is closed.
    pub(super) fn run(
        &mut self,
        plan: LoadPlan,
        progress: &mut dyn FnMut(u64, &Measurement),
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
        let run = LoadRun {
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
            lost_ever: 0,
            last_reply: None,
            naps: NapPlanner::new(window, begin),
            is_busy: false,
            ready: Vec::with_capacity(sockets),
        };
        run.until_the_end(progress)
    }
}

impl LoadRun<'_> {
    fn until_the_end(
        mut self,
        progress: &mut dyn FnMut(u64, &Measurement),
    ) -> Result<Measurement, LoadError> {
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
                progress(now - self.begin, &self.measurement);
                next_line = Some(now + interval);
            }
            self.take_replies(now, next_line)?;
            // After taking replies, so that no request times out whose reply had arrived by `now`.
            self.expire_requests(now);
        }
    }

    /// Starts and ends the measurement and the sending when they are due.
    fn begin_and_end(&mut self, now: u64) {
        if !self.is_measuring && now >= self.measured_from {
            self.is_measuring = true;
            self.measurement.arrived = 0;
            self.measurement.started = Some(SystemTime::now());
            self.processor_at_begin = processor_time();
        }
        let is_stopped = self.generator.stop.is_requested();
        let is_too_late = now >= self.deadline.saturating_add(MOST_BEHIND);
        if is_too_late && self.is_sending && !is_stopped {
            // The rest of the schedule counts as unsent.
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
                // The timeouts of requests lost at the end do not prolong the measurement, unless all are lost.
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

    /// Whether the server's port is closed and no request was ever answered.
    fn is_port_closed(&self) -> bool {
        self.answered_ever == 0 && self.lost_ever > 0 && self.generator.refusals > 0
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
