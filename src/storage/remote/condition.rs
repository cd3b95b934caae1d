//! The availability of stores on other machines, for operators.

use std::time::Instant;

use super::changes::ChangeAcceptance;
use super::presence::Presence;
use crate::storage::{Availability, EngineStatus, one_line};

/// What is known of one server of a store.
pub(crate) struct ServerCondition {
    /// Name of the server in reasons; empty for the only one.
    pub(crate) name: String,
    pub(crate) availability: Availability,
    /// The last change of its availability.
    pub(crate) since: Option<Instant>,
    pub(crate) why: String,
}

impl ServerCondition {
    /// Returns the condition of a server with this presence, which accepts changes or not.
    pub(crate) fn of(name: String, presence: &Presence, changes: &ChangeAcceptance) -> Self {
        let (availability, since, why) = match (presence.outage(), changes.refusal()) {
            (Some((since, why)), _) => (Availability::Unavailable, Some(since), why),
            (None, Some((since, why))) => (Availability::ReadOnly, Some(since), why),
            (None, None) => {
                let since = presence.returned().max(changes.accepted_since());
                (Availability::Available, since, String::new())
            }
        };
        Self { name, availability, since, why }
    }

    fn reason(&self) -> String {
        let what = match self.availability {
            Availability::ReadOnly => "refuses changes",
            _ => "is unavailable",
        };
        match self.name.as_str() {
            "" => self.why.clone(),
            name => format!("{name} {what}: {}", self.why),
        }
    }
}

/// Adds the availability of a store on some servers to a status. If all are in the same condition, so is the store.
pub(crate) fn describe(servers: &[ServerCondition], status: &mut EngineStatus, now: Instant) {
    let affected = || servers.iter().filter(|server| server.availability != Availability::Available);
    let has = |availability| servers.iter().filter(|server| server.availability == availability).count();
    status.availability = match servers.len() {
        _ if affected().next().is_none() => Availability::Available,
        all if has(Availability::Unavailable) == all => Availability::Unavailable,
        all if has(Availability::ReadOnly) == all => Availability::ReadOnly,
        _ => Availability::Partial,
    };
    let since = match status.availability {
        Availability::Available => servers.iter().filter_map(|server| server.since).max(),
        // All must be affected; the last one completed that.
        Availability::Unavailable | Availability::ReadOnly => {
            affected().filter_map(|server| server.since).max()
        }
        Availability::Partial => affected().filter_map(|server| server.since).min(),
    };
    status.since_seconds = since.map(|since| now.saturating_duration_since(since).as_secs());
    let first = servers.iter().find(|server| server.availability == Availability::Unavailable);
    status.reason = first.or(affected().next()).map(|first| {
        let more = match affected().count() {
            1 => String::new(),
            all => format!(" ({all} of {} servers are affected)", servers.len()),
        };
        format!("{}{more}", one_line(&first.reason()))
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(availability: Availability, age: u64) -> ServerCondition {
        let since = Instant::now().checked_sub(Duration::from_secs(age));
        ServerCondition { name: format!("node {age}"), availability, since, why: "so".to_owned() }
    }

    fn described(servers: &[ServerCondition]) -> EngineStatus {
        let mut status = EngineStatus::default();
        describe(servers, &mut status, Instant::now());
        status
    }

    #[test]
    fn store_is_partial_if_some_servers_are_unavailable_or_refuse_changes() {
        use Availability::{Available, Partial, ReadOnly, Unavailable};
        let cases: [(&[Availability], Availability, u64); 7] = [
            (&[Available, Available], Available, 1),
            (&[Unavailable], Unavailable, 1),
            (&[ReadOnly], ReadOnly, 1),
            (&[Unavailable, Unavailable], Unavailable, 1),
            (&[ReadOnly, ReadOnly, ReadOnly], ReadOnly, 1),
            (&[Available, Unavailable, Unavailable], Partial, 3),
            (&[ReadOnly, Available], Partial, 1),
        ];
        for (servers, expected, age) in cases {
            let servers: Vec<_> = (1..).zip(servers).map(|(age, kind)| server(*kind, age)).collect();
            let status = described(&servers);
            assert_eq!((status.availability, status.since_seconds), (expected, Some(age)), "{expected:?}");
            assert_eq!(status.reason.is_none(), expected == Available);
        }
    }

    #[test]
    fn reason_names_the_server_and_counts_the_others() {
        let mut servers = vec![server(Availability::ReadOnly, 1), server(Availability::Available, 2)];
        assert_eq!(described(&servers).reason.as_deref(), Some("node 1 refuses changes: so"));
        servers.push(server(Availability::Unavailable, 3));
        assert_eq!(
            described(&servers).reason.as_deref(),
            Some("node 3 is unavailable: so (2 of 3 servers are affected)")
        );
    }
}
