//! What a pool's condition says about the models that shall be in memory before anybody asks. Pure: routers find out, this judges.

use crds::{
    condition::{REASON_LOADED, REASON_LOADING, REASON_NO_REPLICA, REASON_NOT_LOADED},
    demand::WarmModelReport,
};

use crate::condition::Fact;

/// `None` where no model is named. `told` is what all routers say of the pool.
pub(crate) fn fact(named: &[String], told: &[WarmModelReport], ready_replicas: i32) -> Option<Fact> {
    if named.is_empty() {
        return None;
    }
    let of = |id: &str| told.iter().filter(move |report| report.model_id == id).collect::<Vec<_>>();
    let missing: Vec<&String> = named.iter().filter(|id| of(id).iter().all(|report| report.replicas == 0)).collect();
    if ready_replicas == 0 {
        return Some(Fact::no(REASON_NO_REPLICA, "no replica takes work; with minReplicas 1 or more one always runs"));
    }
    if missing.is_empty() {
        return Some(Fact::yes(REASON_LOADED, "each one is in the memory of a replica"));
    }
    let problem = |id: &&String| Some(format!("{id}: {}", of(id).iter().find_map(|report| report.problem.as_ref())?));
    let problems: Vec<String> = missing.iter().filter_map(problem).collect();
    if problems.is_empty() {
        let names = missing.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
        return Some(Fact::no(REASON_LOADING, format!("on their way into memory: {names}")));
    }
    Some(Fact::no(REASON_NOT_LOADED, problems.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(id: &str, replicas: u32, problem: Option<&str>) -> WarmModelReport {
        WarmModelReport { pool: "p".to_owned(), model_id: id.to_owned(), replicas, problem: problem.map(str::to_owned) }
    }

    #[test]
    fn what_is_missing_makes_the_condition() {
        let named = ["a".to_owned(), "b".to_owned()];
        let fact = |reports: &[WarmModelReport], ready| {
            let fact = fact(&named, reports, ready).unwrap();
            (fact.holds, fact.reason, fact.message)
        };
        assert_eq!(super::fact(&[], &[], 1), None);
        assert_eq!(fact(&[], 0).1, REASON_NO_REPLICA);
        assert_eq!(fact(&[], 1), (false, REASON_LOADING, "on their way into memory: a, b".to_owned()));
        // One router asked before the other.
        assert_eq!(fact(&[told("a", 1, None), told("a", 0, None), told("b", 0, None)], 1).2, "on their way into memory: b");
        let lost = fact(&[told("a", 1, None), told("b", 0, Some("no such model is declared"))], 1);
        assert_eq!(lost, (false, REASON_NOT_LOADED, "b: no such model is declared".to_owned()));
        let loaded = fact(&[told("a", 1, None), told("b", 2, Some("a third one has no room"))], 1);
        assert_eq!((loaded.0, loaded.1), (true, REASON_LOADED));
    }
}
