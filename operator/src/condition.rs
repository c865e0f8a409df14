//! Conditions by the API's conventions: a transition time changes only with the status, so that what is unchanged is written no more.

use crds::condition::{
    DEGRADED, FALSE, PROGRESSING, READY, REASON_ASLEEP, REASON_AVAILABLE, REASON_IMPORT_FAILED, REASON_IMPORTING, REASON_RECONCILED,
    REASON_REPLICAS_FAILING, REASON_REPLICAS_MISSING, REASON_REPLICAS_RUNNING, REASON_SCALED_TO_ZERO, REASON_SCALING, REASON_STARTING,
    TRUE,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message of a condition, in bytes; the API server allows 32,768.
const MAX_MESSAGE_BYTES: usize = 4096;

/// What one condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Whether it holds.
    pub holds: bool,
    /// CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What all conditions of an object say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It can be called.
    pub ready: Fact,
    /// Something is being done.
    pub progressing: Fact,
    /// It serves, but not as asked.
    pub degraded: Fact,
}

/// How a set of replicas stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Replicas that there shall be.
    pub wanted: i32,
    /// Those that exist.
    pub exist: i32,
    /// Those that take work.
    pub ready: i32,
    /// Whether the next call starts one where none runs.
    pub starts_on_call: bool,
    /// What keeps replicas from running.
    pub problem: Option<String>,
}

impl Fact {
    /// It holds.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: true, reason, message: message.into() }
    }

    /// It does not hold.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }

    /// The condition of this type, with the transition time of `previous` where it did not turn.
    pub fn condition(&self, kind: &str, previous: &[Condition], generation: Option<i64>, now: &Time) -> Condition {
        let status = if self.holds { TRUE } else { FALSE };
        let since = previous.iter().find(|condition| condition.type_ == kind && condition.status == status);
        Condition {
            last_transition_time: since.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone()),
            message: truncated(&self.message).to_owned(),
            observed_generation: generation,
            reason: self.reason.to_owned(),
            status: status.to_owned(),
            type_: kind.to_owned(),
        }
    }
}

impl Facts {
    /// It cannot be called, for this reason, and nothing is being done about it.
    pub fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            ready: Fact::no(reason, message),
            progressing: Fact::no(REASON_RECONCILED, "the operator has judged this generation"),
            degraded: Fact::no(REASON_RECONCILED, "no replicas are asked for"),
        }
    }

    /// It waits for its weights. `failed` says why they did not come.
    pub fn importing(message: impl Into<String>, failed: bool) -> Self {
        let message = message.into();
        let reason = if failed { REASON_IMPORT_FAILED } else { REASON_IMPORTING };
        Self { ready: Fact::no(reason, message), ..Self::refused("", "") }.while_importing(None, failed)
    }

    /// The same, while other weights than those that serve it come.
    pub fn while_importing(self, message: Option<&str>, failed: bool) -> Self {
        let message = message.unwrap_or(&self.ready.message).to_owned();
        let progressing = if failed { Fact::no(REASON_IMPORT_FAILED, message) } else { Fact::yes(REASON_IMPORTING, message) };
        Self { progressing, ..self }
    }

    /// It is served by replicas that are not its own.
    pub fn served(message: impl Into<String>) -> Self {
        Self { ready: Fact::yes(REASON_AVAILABLE, message), ..Self::refused("", "") }
    }

    /// What follows from how its replicas stand.
    pub fn of(running: &Running) -> Self {
        let Running { wanted, exist, ready, starts_on_call, problem } = running;
        let callable = match (wanted, ready, problem) {
            (0, _, _) if *starts_on_call => Fact::yes(REASON_ASLEEP, "no replica runs; the first call starts one"),
            (0, _, _) => Fact::no(REASON_SCALED_TO_ZERO, "it is scaled to zero: calls wait in vain until it is scaled up"),
            (_, 0, Some(problem)) => Fact::no(REASON_REPLICAS_FAILING, problem),
            (_, 0, None) => Fact::yes(REASON_STARTING, "the first replica starts; calls wait for it"),
            _ => Fact::yes(REASON_AVAILABLE, "replicas take work"),
        };
        let progressing = if exist == wanted && ready == wanted {
            Fact::no(REASON_RECONCILED, "there are as many replicas as wanted")
        } else {
            Fact::yes(REASON_SCALING, format!("{ready} of {wanted} replicas take work"))
        };
        let degraded = match problem {
            Some(problem) if ready < wanted => Fact::yes(REASON_REPLICAS_FAILING, problem),
            None if ready < wanted && *ready > 0 => Fact::yes(REASON_REPLICAS_MISSING, format!("{ready} of {wanted} replicas take work")),
            _ => Fact::no(REASON_REPLICAS_RUNNING, "nothing keeps replicas from running"),
        };
        Self { ready: callable, progressing, degraded }
    }

    /// The conditions, with the transition times of `previous` where nothing turned.
    pub fn conditions(&self, previous: &[Condition], generation: Option<i64>, now: &Time) -> Vec<Condition> {
        let facts = [(READY, &self.ready), (PROGRESSING, &self.progressing), (DEGRADED, &self.degraded)];
        facts.into_iter().map(|(kind, fact)| fact.condition(kind, previous, generation, now)).collect()
    }
}

fn truncated(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    #[test]
    fn replicas_make_the_conditions() {
        let running = |wanted, ready, problem: Option<&str>| {
            let problem = problem.map(str::to_owned);
            let facts = Facts::of(&Running { wanted, exist: wanted, ready, starts_on_call: true, problem });
            (facts.ready.holds, facts.ready.reason, facts.progressing.holds, facts.degraded.holds)
        };
        assert_eq!(running(0, 0, None), (true, REASON_ASLEEP, false, false));
        assert_eq!(running(1, 0, None), (true, REASON_STARTING, true, false));
        assert_eq!(running(1, 0, Some("no node")), (false, REASON_REPLICAS_FAILING, true, true));
        assert_eq!(running(2, 1, None), (true, REASON_AVAILABLE, true, true));
        assert_eq!(running(2, 1, Some("no node")), (true, REASON_AVAILABLE, true, true));
        assert_eq!(running(2, 2, None), (true, REASON_AVAILABLE, false, false));
        let stopped = Facts::of(&Running::default());
        assert_eq!((stopped.ready.holds, stopped.ready.reason), (false, REASON_SCALED_TO_ZERO));
    }

    #[test]
    fn a_model_that_waits_for_its_weights_says_so() {
        let of = |facts: &Facts| (facts.ready.holds, facts.ready.reason, facts.progressing.holds, facts.progressing.reason);
        assert_eq!(of(&Facts::importing("half", false)), (false, REASON_IMPORTING, true, REASON_IMPORTING));
        assert_eq!(of(&Facts::importing("404", true)), (false, REASON_IMPORT_FAILED, false, REASON_IMPORT_FAILED));
        let serving = Facts::served("fine").while_importing(Some("half"), false);
        assert_eq!(of(&serving), (true, REASON_AVAILABLE, true, REASON_IMPORTING));
        assert_eq!((serving.ready.message.as_str(), serving.progressing.message.as_str()), ("fine", "half"));
    }

    #[test]
    fn a_transition_time_changes_only_with_the_status() {
        let (first, later) = (time("2026-01-01T00:00:00Z"), time("2026-01-02T00:00:00Z"));
        let refused = Facts::refused("Invalid", "wrong").conditions(&[], Some(1), &first);
        let still = Facts::refused("Conflict", "taken").conditions(&refused, Some(2), &later);
        assert_eq!((still[0].reason.as_str(), &still[0].last_transition_time), ("Conflict", &first));
        let served = Facts::served("fine").conditions(&still, Some(2), &later);
        assert_eq!((served[0].status.as_str(), &served[0].last_transition_time), (TRUE, &later));
        assert_eq!(served[1].last_transition_time, first, "it was not progressing before, and is not now");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "ä".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(truncated(&format!("x{long}")).len(), MAX_MESSAGE_BYTES - 1);
    }
}
