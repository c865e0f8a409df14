//! The models that routers want in memory before anybody asks. What is said of each is kept here; reading them is the device thread's business.
//!
//! ```text
//! PUT, again and again ─► wanted ─► opening (async): what was imported comes to the disk ─► key ─► device thread: in memory
//!                           ▲                                        │ problem                        │ problem
//!                           └─────── tried again after a while ◄─────┴────────────────────────────────┘
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime_api::{ModelSource, WarmModel, WarmState};

use crate::content::ContentLease;
use crate::residency::ModelKey;

/// Before a model that could not be brought into memory is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// All models that are wanted, in their order.
#[derive(Debug, Default)]
pub(super) struct Warm {
    wanted: Mutex<Vec<Wanted>>,
}

#[derive(Debug)]
struct Wanted {
    source: ModelSource,
    stage: Stage,
    resident: bool,
    /// Why it is not in memory, and when that was found.
    problem: Option<(String, Instant)>,
}

#[derive(Debug)]
enum Stage {
    /// Nobody looks for it now.
    Unopened,
    Opening,
    Opened {
        key: ModelKey,
        /// Keeps what was imported on the disk until it is in memory.
        content: Vec<ContentLease>,
    },
}

impl Warm {
    /// Takes in what is wanted from now on, and answers those that must be opened. What is known of the others stays.
    pub(super) fn want(&self, models: Vec<WarmModel>, now: Instant) -> Vec<WarmModel> {
        let mut wanted = self.lock();
        let mut before = std::mem::take(&mut *wanted);
        let mut unopened = Vec::new();
        for model in models {
            let known = before.iter().position(|wanted| wanted.source == model.source).map(|position| before.swap_remove(position));
            let mut known =
                known.unwrap_or_else(|| Wanted { source: model.source.clone(), stage: Stage::Unopened, resident: false, problem: None });
            if matches!(known.stage, Stage::Unopened) && known.may_be_tried(now) {
                known.stage = Stage::Opening;
                unopened.push(model);
            }
            wanted.push(known);
        }
        unopened
    }

    /// Takes in where a model is, or why that cannot be said.
    pub(super) fn opened(&self, source: &ModelSource, opened: Result<(ModelKey, Vec<ContentLease>), String>, now: Instant) {
        self.change(
            |wanted| wanted.source == *source,
            |wanted| match opened {
                Ok((key, content)) => {
                    wanted.stage = Stage::Opened { key, content };
                    wanted.problem = None;
                }
                Err(problem) => {
                    wanted.stage = Stage::Unopened;
                    wanted.problem = Some((problem, now));
                }
            },
        );
    }

    /// The first that is not in memory and may be tried.
    pub(super) fn next(&self, is_resident: impl Fn(&ModelKey) -> bool, now: Instant) -> Option<ModelKey> {
        let wanted = self.lock();
        wanted.iter().filter(|wanted| wanted.may_be_tried(now)).filter_map(Wanted::key).find(|key| !is_resident(key)).cloned()
    }

    /// Whether it is wanted, and by which name.
    pub(super) fn name(&self, key: &ModelKey) -> Option<String> {
        self.lock().iter().find(|wanted| wanted.key() == Some(key)).map(|wanted| wanted.source.id.clone())
    }

    /// What is wanted, and found.
    pub(super) fn keys(&self) -> Vec<ModelKey> {
        self.lock().iter().filter_map(Wanted::key).cloned().collect()
    }

    /// Takes in why a model did not come into memory.
    pub(super) fn failed(&self, key: &ModelKey, problem: &str, now: Instant) {
        self.change(
            |wanted| wanted.key() == Some(key),
            |wanted| {
                wanted.stage = Stage::Unopened;
                wanted.problem = Some((problem.to_owned(), now));
            },
        );
    }

    /// Takes in which models are in memory.
    pub(super) fn note_resident(&self, is_resident: impl Fn(&ModelKey) -> bool) {
        for wanted in self.lock().iter_mut() {
            let was_resident = wanted.resident;
            wanted.resident = wanted.key().is_some_and(&is_resident);
            match &mut wanted.stage {
                Stage::Opened { content, .. } if wanted.resident => {
                    content.clear();
                    wanted.problem = None;
                }
                // What was imported may have left the disk meanwhile.
                Stage::Opened { .. } if was_resident => wanted.stage = Stage::Unopened,
                Stage::Unopened | Stage::Opening | Stage::Opened { .. } => {}
            }
        }
    }

    pub(super) fn states(&self) -> Vec<WarmState> {
        let state = |wanted: &Wanted| WarmState {
            id: wanted.source.id.clone(),
            resident: wanted.resident,
            problem: wanted.problem.as_ref().map(|(problem, _)| problem.clone()),
        };
        self.lock().iter().map(state).collect()
    }

    fn change(&self, which: impl Fn(&Wanted) -> bool, change: impl FnOnce(&mut Wanted)) {
        // One that is not wanted any more is not there.
        if let Some(wanted) = self.lock().iter_mut().find(|wanted| which(wanted)) {
            change(wanted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn key(&self) -> Option<&ModelKey> {
        match &self.stage {
            Stage::Opened { key, .. } => Some(key),
            Stage::Unopened | Stage::Opening => None,
        }
    }

    fn may_be_tried(&self, now: Instant) -> bool {
        self.problem.as_ref().is_none_or(|(_, at)| now.saturating_duration_since(*at) >= RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: &str) -> WarmModel {
        let source = ModelSource { id: id.to_owned(), uri: String::new(), config: None, sha256: None, vae: None, adapters: Vec::new() };
        WarmModel { source, contents: Vec::new() }
    }

    fn ids(models: Vec<WarmModel>) -> Vec<String> {
        models.into_iter().map(|model| model.source.id).collect()
    }

    fn key(name: &str) -> ModelKey {
        ModelKey::of(name)
    }

    #[test]
    fn each_model_is_opened_once_and_brought_in_by_its_order() {
        let (warm, now) = (Warm::default(), Instant::now());
        assert_eq!(ids(warm.want(vec![model("a"), model("b")], now)), ["a", "b"]);
        assert!(warm.want(vec![model("a"), model("b")], now).is_empty(), "it is being opened");
        assert_eq!(warm.next(|_| false, now), None);
        for name in ["b", "a"] {
            warm.opened(&model(name).source, Ok((key(name), Vec::new())), now);
        }
        assert_eq!(warm.next(|_| false, now), Some(key("a")));
        assert_eq!(warm.next(|resident| *resident == key("a"), now), Some(key("b")));
        warm.note_resident(|resident| *resident == key("a"));
        assert_eq!(warm.states().iter().map(|state| state.resident).collect::<Vec<_>>(), [true, false]);
        assert!(warm.want(vec![model("b"), model("c")], now).iter().all(|model| model.source.id == "c"));
        assert_eq!((warm.name(&key("a")), warm.name(&key("b")), warm.keys()), (None, Some("b".to_owned()), vec![key("b")]));
    }

    #[test]
    fn a_problem_is_told_and_tried_again_after_a_while() {
        let (warm, now) = (Warm::default(), Instant::now());
        warm.want(vec![model("lost"), model("huge")], now);
        warm.opened(&model("lost").source, Err("no such file".to_owned()), now);
        warm.opened(&model("huge").source, Ok((key("huge"), Vec::new())), now);
        warm.failed(&key("huge"), "no room", now);
        let problems = |warm: &Warm| warm.states().into_iter().map(|state| state.problem).collect::<Vec<_>>();
        assert_eq!(problems(&warm), [Some("no such file".to_owned()), Some("no room".to_owned())]);
        assert!(warm.want(vec![model("lost"), model("huge")], now).is_empty());
        assert_eq!(warm.next(|_| false, now), None);
        let later = now + RETRY_AFTER;
        assert_eq!(ids(warm.want(vec![model("lost"), model("huge")], later)), ["lost", "huge"]);
        warm.opened(&model("huge").source, Ok((key("huge"), Vec::new())), later);
        assert_eq!(warm.next(|_| false, later), Some(key("huge")));
        warm.note_resident(|_| true);
        assert_eq!(problems(&warm), [Some("no such file".to_owned()), None]);
    }

    #[test]
    fn one_that_left_memory_is_opened_again() {
        let (warm, now) = (Warm::default(), Instant::now());
        warm.want(vec![model("a")], now);
        warm.opened(&model("a").source, Ok((key("a"), Vec::new())), now);
        warm.note_resident(|_| false);
        assert_eq!(warm.next(|_| false, now), Some(key("a")), "it has not been there yet");
        warm.note_resident(|_| true);
        warm.note_resident(|_| false);
        assert_eq!(warm.next(|_| false, now), None);
        assert_eq!(ids(warm.want(vec![model("a")], now)), ["a"]);
    }
}
