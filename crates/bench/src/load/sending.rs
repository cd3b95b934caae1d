//! Sending the requests that are due.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Generator, LoadError, LoadRun};
use crate::outstanding::SentRequest;
use crate::schedule::Due;

/// The most requests to write before replies are taken again.
const REQUESTS_AT_A_TIME: usize = 256;

impl LoadRun<'_> {
    pub(super) fn send_due(&mut self, now: u64) -> Result<(), LoadError> {
        self.sending_until = now;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.generator.encoder.set_time(i64::try_from(seconds).unwrap_or(0));
        if self.schedule.is_some() { self.keep_schedule(now) } else { self.fill_windows(now) }
    }

    /// In a closed loop, sends a request for each one that was answered or lost.
    fn fill_windows(&mut self, now: u64) -> Result<(), LoadError> {
        for socket in 0..self.due.len() {
            let is_counted = self.is_measuring;
            let mut written = 0;
            while self.due[socket] > 0
                && written < REQUESTS_AT_A_TIME
                && !(is_counted && self.has_begun_all())
            {
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

    /// In an open loop, sends the requests that are due. Skips those that are overdue by more than the timeout, because
    /// a client would have stopped waiting for them.
    fn keep_schedule(&mut self, now: u64) -> Result<(), LoadError> {
        let oldest = now.saturating_sub(self.generator.timeout);
        if let Some(schedule) = &mut self.schedule {
            schedule.skip_before(oldest);
        }
        let socket = self.turn;
        let mut written = 0;
        while written < REQUESTS_AT_A_TIME
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

    /// Writes the next request, or drops it if too many are outstanding. Returns whether the source had a request.
    fn write(&mut self, socket: usize, since: u64, is_counted: bool) -> bool {
        let Some((op, digest)) = self.plan.source.next() else {
            self.is_sending = false;
            return false;
        };
        let sent = SentRequest { op, socket, since, at: since, is_counted };
        if let Some(thread) = self.generator.outstanding.add(sent) {
            self.outbox.push(&self.generator.encoder, op, &digest, thread);
        }
        true
    }

    /// Sends the requests that have been written.
    fn flush(&mut self, socket: usize) -> Result<(), LoadError> {
        let Generator { sockets, outstanding, refusals, epoch, .. } = &mut *self.generator;
        let is_open = self.schedule.is_some();
        let sent = self.outbox.flush(sockets, socket, !is_open, refusals, |thread| {
            outstanding.cancel(thread);
        });
        let sent = sent.map_err(|error| LoadError::Send(error.into()))?;
        let now = epoch.elapsed().as_nanos() as u64;
        for request in sent.iter().filter_map(|thread| outstanding.sent(*thread, now)) {
            self.measurement.sent += u64::from(request.is_counted);
            if is_open && request.is_counted {
                self.measurement.lag.saturating_record(now.saturating_sub(request.since));
            }
        }
        Ok(())
    }
}
