//! Receiving replies, and expiring requests that have timed out.

use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::{Generator, LoadError, LoadRun};
use crate::outstanding::ReplyMatch;
use crate::schedule::Schedule;
use pyzor_wire::reply_reader::ReceivedReply;

/// The most batches of replies to take from a socket in one turn. As many as fit into its buffer, so that no request
/// times out whose reply has arrived.
const RECEIVES_PER_TURN: usize = 512;
/// The most sockets that are all polled after one of them has received replies.
const FEW_SOCKETS: usize = 8;
/// The longest wait before the next check for a signal, in nanoseconds.
const STOP_PERIOD: u64 = 50_000_000;

impl LoadRun<'_> {
    /// Waits until a reply arrives or another action is due, then takes all replies.
    pub(super) fn take_replies(&mut self, now: u64, next_line: Option<u64>) -> Result<(), LoadError> {
        let phase = if self.is_measuring { self.deadline } else { self.measured_from };
        let expiry = self.generator.outstanding.oldest().map(|since| since + self.generator.timeout);
        let next_due = self.schedule.as_ref().filter(|_| self.is_sending).and_then(Schedule::next_due);
        let until = [Some(phase).filter(|_| self.ended.is_none()), expiry, next_line, next_due]
            .into_iter()
            .flatten()
            .fold(now + STOP_PERIOD, u64::min);
        let patience = until.saturating_sub(self.generator.now());
        match self.naps.nap(self.answered_ever, now).filter(|nap| self.is_busy && *nap < patience) {
            Some(nap) => thread::sleep(Duration::from_nanos(nap)),
            None if self.is_busy => {}
            None => {
                let waited = self.generator.sockets.wait(patience, &mut self.ready);
                waited.map_err(|why| LoadError::Receive(why.into()))?;
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

    /// Counts requests as lost whose timeout has passed at `now`.
    pub(super) fn expire_requests(&mut self, now: u64) {
        let Some(until) = now.checked_sub(self.generator.timeout) else { return };
        while let Some(sent) = self.generator.outstanding.give_up(until) {
            self.lost_ever += 1;
            self.measurement.lost += u64::from(sent.is_counted);
            self.due[sent.socket] += 1;
        }
    }

    /// Takes the replies of a socket. Returns whether there were any.
    fn receive(&mut self, socket: usize) -> Result<bool, LoadError> {
        let mut is_any = false;
        for _ in 0..RECEIVES_PER_TURN {
            let Self { generator, measurement, due, is_measuring, ended, answered_ever, last_reply, .. } =
                self;
            let Generator { sockets, outstanding, epoch, .. } = &mut **generator;
            let mut now = None;
            let outcome = sockets.receive(socket, |datagram| {
                let now = *now.get_or_insert_with(|| epoch.elapsed().as_nanos() as u64);
                let reply = ReceivedReply::parse(datagram);
                let matched = reply.map_or(ReplyMatch::Unknown, |reply| outstanding.answer(reply.thread));
                match (matched, reply) {
                    (ReplyMatch::Request(sent), Some(reply)) => {
                        *answered_ever += 1;
                        due[sent.socket] += 1;
                        if sent.is_counted {
                            *last_reply = Some(now);
                            measurement.answer(sent, reply, now.saturating_sub(sent.since));
                        }
                        measurement.arrived += u64::from(ended.is_none());
                    }
                    (ReplyMatch::Late, _) => measurement.late += u64::from(*is_measuring),
                    _ => measurement.unknown += u64::from(*is_measuring),
                }
            });
            match outcome {
                Ok(true) => is_any = true,
                Ok(false) => return Ok(true),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(Errno::ECONNREFUSED) => self.generator.refusals += 1,
                Err(error) => return Err(LoadError::Receive(error.into())),
            }
        }
        Ok(is_any)
    }
}
