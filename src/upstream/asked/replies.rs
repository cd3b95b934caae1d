//! What replies and their absence mean.

use std::time::Instant;

use pyzor_wire::op::Op;
use pyzor_wire::reply::RecordCounts;
use pyzor_wire::reply_reader::{Code, ReceivedReply};

use super::silence::SILENT_IN_ROW;
use super::sockets::Sent;
use super::{AskedServer, Response, ServerEvent, SocketId};
use crate::stats::{CODES, OTHER_CODE};
use crate::upstream::UpstreamState;

impl AskedServer {
    /// A datagram has arrived at a socket. Only the reply to a request that was sent from that socket and waits has an
    /// effect.
    pub(in crate::upstream) fn received(&mut self, socket: SocketId, datagram: &[u8], now: Instant) {
        let reply = ReceivedReply::parse(datagram);
        let matched = reply.and_then(|reply| {
            let table = self.sockets.find(socket)?;
            let sent = table.take(u16::try_from(reply.thread).ok()?)?;
            Some((reply, sent, table.address))
        });
        match matched {
            Some((reply, Sent::Question(number), _)) => self.take_answer(number, reply, now),
            Some((_, Sent::Ping(_), address)) => self.ponged(address, now),
            Some((_, Sent::Over, _)) | None => self.tally.unmatched(),
        }
    }

    fn take_answer(&mut self, number: u64, reply: ReceivedReply, now: Instant) {
        if let Some(part) = self.under_way.remove(&number) {
            self.silent.end(part.sent);
        }
        self.sockets.tidy();
        let counts = match reply.code_for(Op::Check) {
            Code::Number(200) => reply.counts.map(|counts| RecordCounts {
                reports: counts.reports.max(0),
                whitelists: counts.whitelists.max(0),
            }),
            _ => None,
        };
        if counts.is_some() {
            self.tally.answered(now);
        } else {
            let code = match reply.code {
                // The number of different codes is bounded, because the other server chooses them.
                Code::Number(code) if code != 200 && CODES.contains(&code) => code,
                Code::Number(_) | Code::Echo | Code::WithoutCount => OTHER_CODE,
            };
            self.tally.refused(code, now);
            self.events.push(ServerEvent::Refused(code));
        }
        self.responses.push(Response { question: number, counts });
        self.replied(now);
    }

    /// Ends questions and pings whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.sockets.expire_pings(now, self.ping_wait());
        while let Some((number, part)) = self.under_way.first_key_value() {
            let (number, sent) = (*number, part.sent);
            if now < sent + self.timeout {
                return;
            }
            self.give_up(number, now);
            if self.state == UpstreamState::OnTrial {
                self.fell_silent("it replies to pings, but not to questions in time".to_owned(), now);
            } else if self.silent.add(sent) {
                self.fell_silent(format!("no reply in time to {SILENT_IN_ROW} questions in a row"), now);
            }
        }
    }
}
