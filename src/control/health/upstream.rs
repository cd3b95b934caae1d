//! The problems of second opinions.

use crate::control::figures::{counted, grouped, long_period};
use crate::upstream::{UpstreamServerStatus, UpstreamState};

/// The share of questions without an answer in time that is a problem: one in this many.
const TOLERATED_SILENCE: u64 = 10;
/// The least number of questions without an answer in time that is a problem.
const LEAST_SILENCE: u64 = 3;

/// The problems of one server that is asked for second opinions. Those of the last minute end within a minute after
/// their reason. Questions without an answer are named only while the server is up: otherwise its state says it.
pub(super) fn problems(status: &UpstreamServerStatus) -> Vec<String> {
    let mut problems = Vec::new();
    let mut add = |problem: String| problems.push(format!("upstream {}: {problem}", status.server));
    let since = long_period(status.since_seconds);
    match status.state {
        UpstreamState::Untried | UpstreamState::Available => {}
        UpstreamState::OnTrial => add(format!(
            "on trial for {since}: it replies to pings again; a check that finds nothing here makes it available if it \
             answers that within UpstreamTimeout"
        )),
        UpstreamState::Unavailable => add(format!(
            "unavailable for {since}{}; see that it runs and answers within UpstreamTimeout, or remove it from \
             UpstreamHomeDir",
            status.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
        )),
    }
    let (answered, refused) = (status.answered_last_minute, status.refused_last_minute);
    if refused > 0 {
        let refused = counted(refused, "question");
        let why = status
            .reason
            .as_deref()
            .filter(|_| status.state != UpstreamState::Unavailable)
            .map_or_else(|| "; pyzorctl stats has the codes".to_owned(), |reason| format!("; {reason}"));
        add(format!("{refused} refused in the last minute{why}"));
    }
    let (silent, replied) = (status.silent_last_minute, answered.saturating_add(refused));
    let is_frequent = silent.saturating_mul(TOLERATED_SILENCE) > replied.saturating_add(silent);
    if status.state.is_up() && silent >= LEAST_SILENCE && is_frequent {
        add(format!(
            "{} without a reply in time in the last minute, beside {} with one; raise UpstreamTimeout, or look at the \
             network and at rate limits of that server",
            counted(silent, "question"),
            grouped(replied)
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply::{Health, StatusReport};
    use crate::storage::{Availability, EngineStatus};
    use crate::upstream::UpstreamStatus;

    fn judged(status: UpstreamServerStatus, availability: Availability) -> StatusReport {
        let status = UpstreamServerStatus { server: "a:24441".to_owned(), ..status };
        let mut report = StatusReport {
            storage: EngineStatus { availability, ..EngineStatus::default() },
            upstream: Some(UpstreamStatus { servers: vec![status], cached: 9, waiting: 8192 }),
            ..StatusReport::default()
        };
        report.judge();
        report
    }

    #[track_caller]
    fn expect_problems(status: UpstreamServerStatus, problems: &[&str]) {
        let health = if problems.is_empty() { Health::Well } else { Health::Degraded };
        let report = judged(status, Availability::Available);
        assert_eq!(
            (report.health, report.problems),
            (health, problems.iter().map(|&it| it.into()).collect())
        );
    }

    fn last_minute(answered: u64, refused: u64, silent: u64) -> UpstreamServerStatus {
        UpstreamServerStatus {
            state: UpstreamState::Available,
            answered_last_minute: answered,
            refused_last_minute: refused,
            silent_last_minute: silent,
            ..UpstreamServerStatus::default()
        }
    }

    #[test]
    fn servers_that_are_asked_are_no_problem() {
        for state in [UpstreamState::Untried, UpstreamState::Available] {
            let status = UpstreamServerStatus { state, in_flight: 1024, ..UpstreamServerStatus::default() };
            expect_problems(status, &[]);
        }
    }

    #[test]
    fn server_that_is_unavailable_or_on_trial_is_a_problem_with_its_reason() {
        let away = UpstreamServerStatus {
            state: UpstreamState::Unavailable,
            since_seconds: 61,
            reason: Some("no reply to pings".to_owned()),
            ..last_minute(0, 0, 90)
        };
        let unavailable = "upstream a:24441: unavailable for 1 minute 1 second: no reply to pings; see that it runs and \
                           answers within UpstreamTimeout, or remove it from UpstreamHomeDir";
        expect_problems(away.clone(), &[unavailable]);
        expect_problems(
            UpstreamServerStatus { state: UpstreamState::OnTrial, reason: None, ..away.clone() },
            &[
                "upstream a:24441: on trial for 1 minute 1 second: it replies to pings again; a check that finds nothing \
               here makes it available if it answers that within UpstreamTimeout",
            ],
        );
        let report = judged(away, Availability::Unavailable);
        assert_eq!((report.health, report.problems.len()), (Health::Critical, 2));
        assert_eq!(report.problems[1], unavailable, "the database is the worst problem");
    }

    #[test]
    fn refusals_are_a_problem_with_their_reason() {
        let reason =
            Some("last refused: 401, it does not accept the account bob: check the clocks".to_owned());
        let refusing = UpstreamServerStatus { reason, ..last_minute(0, 1200, 0) };
        expect_problems(
            refusing.clone(),
            &[
                "upstream a:24441: 1,200 questions refused in the last minute; last refused: 401, it does not accept the \
                 account bob: check the clocks",
            ],
        );
        let away = UpstreamServerStatus { state: UpstreamState::Unavailable, ..refusing };
        assert_eq!(
            judged(away, Availability::Available).problems[1],
            "upstream a:24441: 1,200 questions refused in the last minute; pyzorctl stats has the codes"
        );
    }

    #[test]
    fn more_than_a_tenth_of_questions_without_a_reply_is_a_problem() {
        for (answered, refused, silent) in [(0, 0, 2), (27, 0, 3), (900, 0, 100)] {
            expect_problems(last_minute(answered, refused, silent), &[]);
        }
        expect_problems(
            last_minute(899, 0, 100),
            &[
                "upstream a:24441: 100 questions without a reply in time in the last minute, beside 899 with one; raise \
               UpstreamTimeout, or look at the network and at rate limits of that server",
            ],
        );
        let problems = |answered, refused, silent| {
            judged(last_minute(answered, refused, silent), Availability::Available).problems.len()
        };
        assert_eq!([problems(0, 0, 3), problems(26, 0, 3)], [1, 1]);
        assert_eq!([problems(0, 26, 3), problems(0, 27, 3)], [2, 1], "a refusal is a reply");
        assert_eq!(problems(u64::MAX, 0, u64::MAX), 0, "counts of a faulty server do not overflow");
    }
}
