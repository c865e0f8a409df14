//! Which models are in memory, and which go when another needs their place. Decisions only: loading is the worker's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What makes two dispatches ask for the same weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelKey {
    /// Resolved: no links in it.
    pub folder: PathBuf,
    /// Of a single file, the folder whose configurations replace the built-in ones; resolved.
    pub config: Option<PathBuf>,
    /// Parts from elsewhere, by name.
    pub components: BTreeMap<String, Component>,
    /// The digest it must have, where one was declared.
    pub sha256: Option<String>,
    /// What is merged into the weights, in this order.
    pub merges: Vec<Merge>,
}

impl ModelKey {
    /// A folder, or an adapter's file, with nothing merged into it and no digest declared.
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), config: None, components: BTreeMap::new(), sha256: None, merges: Vec::new() }
    }
}

/// A part from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Component {
    /// Resolved: no links in it.
    pub path: PathBuf,
    /// The digest it must have, where one was declared.
    pub sha256: Option<String>,
}

/// An adapter that becomes part of a model's weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Merge {
    /// Resolved: no links in it.
    pub file: PathBuf,
    /// The digest it must have, where one was declared.
    pub sha256: Option<String>,
    /// Of the strength, so that keys can be compared.
    scale_bits: u64,
}

impl Merge {
    pub fn new(file: PathBuf, sha256: Option<String>, scale: f64) -> Self {
        Self { file, sha256, scale_bits: scale.to_bits() }
    }

    /// How strongly it acts.
    pub fn scale(&self) -> f64 {
        f64::from_bits(self.scale_bits)
    }
}

/// A model in memory, as the choice of what goes sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupant {
    pub bytes: u64,
    /// Larger is later.
    pub last_used: u64,
    pub in_use: bool,
    /// It goes after all that are not.
    pub warm: bool,
}

/// How a model can get its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// It fits once these, by position, are gone; none if there is room already.
    After(Vec<usize>),
    /// It fits once something that is in use now is not.
    Wait,
    /// It fits in no case.
    Never,
}

/// Frees `needed` bytes under `limit` by letting the least recently used models go, warm ones last; never one in use.
pub fn make_room(occupants: &[Occupant], needed: u64, limit: u64) -> Room {
    if needed > limit {
        return Room::Never;
    }
    let mut held = occupants.iter().fold(0_u64, |held, occupant| held.saturating_add(occupant.bytes));
    let fits = |held: u64| needed <= limit.saturating_sub(held);
    let mut unused: Vec<usize> = (0..occupants.len()).filter(|&index| !occupants[index].in_use).collect();
    unused.sort_by_key(|&index| (occupants[index].warm, occupants[index].last_used));
    let mut gone = Vec::new();
    for index in unused {
        if fits(held) {
            break;
        }
        held -= occupants[index].bytes;
        gone.push(index);
    }
    if fits(held) { Room::After(gone) } else { Room::Wait }
}

/// A resident model.
#[derive(Debug)]
pub struct Resident<M> {
    pub key: ModelKey,
    /// The API's name, as the dispatch that loaded it said.
    pub id: String,
    pub digest: String,
    pub bytes: u64,
    /// Whoever works with the model holds a second reference; that is what "in use" means.
    pub model: Arc<M>,
    last_used: u64,
    used_at: Instant,
}

impl<M> Resident<M> {
    pub fn in_use(&self) -> bool {
        Arc::strong_count(&self.model) > 1
    }
}

/// All resident models, under one bound of bytes.
#[derive(Debug)]
pub struct Residency<M> {
    residents: Vec<Resident<M>>,
    limit_bytes: u64,
    /// Counts uses; a clock without time.
    uses: u64,
}

impl<M> Residency<M> {
    pub fn new(limit_bytes: u64) -> Self {
        Self { residents: Vec::new(), limit_bytes, uses: 0 }
    }

    pub fn residents(&self) -> &[Resident<M>] {
        &self.residents
    }

    pub fn bytes(&self) -> u64 {
        self.residents.iter().map(|resident| resident.bytes).sum()
    }

    pub fn contains(&self, key: &ModelKey) -> bool {
        self.residents.iter().any(|resident| resident.key == *key)
    }

    /// The model, counted as used now.
    pub fn lease(&mut self, key: &ModelKey) -> Option<Arc<M>> {
        self.uses += 1;
        let uses = self.uses;
        let resident = self.residents.iter_mut().find(|resident| resident.key == *key)?;
        resident.last_used = uses;
        resident.used_at = Instant::now();
        Some(Arc::clone(&resident.model))
    }

    /// What is in use now is not idle.
    pub fn note_use(&mut self, now: Instant) {
        for resident in self.residents.iter_mut().filter(|resident| resident.in_use()) {
            resident.used_at = now;
        }
    }

    /// Lets models go until `needed` bytes are free, if they can be: `warm` ones after all others. The answer's positions are those before
    /// anything went.
    pub fn evict_for(&mut self, needed: u64, warm: &[ModelKey]) -> Room {
        self.evict(needed, |resident| (resident.in_use(), warm.contains(&resident.key)))
    }

    /// The same for a model that nobody waits for: neither a `warm` model goes, nor one that was used within `idle_for` before `now`.
    pub fn evict_idle_for(&mut self, needed: u64, warm: &[ModelKey], idle_for: Duration, now: Instant) -> Room {
        let is_idle = |resident: &Resident<M>| now.saturating_duration_since(resident.used_at) >= idle_for;
        self.evict(needed, |resident| (resident.in_use() || warm.contains(&resident.key) || !is_idle(resident), false))
    }

    /// `stands` tells of a model whether it must stay, and whether it is warm.
    fn evict(&mut self, needed: u64, stands: impl Fn(&Resident<M>) -> (bool, bool)) -> Room {
        let occupant = |resident: &Resident<M>| {
            let (in_use, warm) = stands(resident);
            Occupant { bytes: resident.bytes, last_used: resident.last_used, in_use, warm }
        };
        let occupants: Vec<_> = self.residents.iter().map(occupant).collect();
        let room = make_room(&occupants, needed, self.limit_bytes);
        if let Room::After(gone) = &room {
            let mut position = 0;
            self.residents.retain(|resident| {
                let goes = gone.contains(&position);
                position += 1;
                if goes {
                    tracing::info!(model = resident.id, bytes = resident.bytes, "weights leave memory");
                }
                !goes
            });
        }
        room
    }

    pub fn insert(&mut self, key: ModelKey, id: String, digest: String, bytes: u64, model: Arc<M>) {
        self.uses += 1;
        self.residents.push(Resident { key, id, digest, bytes, model, last_used: self.uses, used_at: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupant(bytes: u64, last_used: u64, in_use: bool) -> Occupant {
        Occupant { bytes, last_used, in_use, warm: false }
    }

    fn key(name: &str) -> ModelKey {
        ModelKey::of(name)
    }

    #[test]
    fn nothing_goes_while_there_is_room() {
        assert_eq!(make_room(&[occupant(4, 1, false)], 6, 10), Room::After(vec![]));
    }

    #[test]
    fn least_recently_used_goes_first_and_no_more_than_needed() {
        let occupants = [occupant(4, 3, false), occupant(3, 1, false), occupant(3, 2, false)];
        assert_eq!(make_room(&occupants, 3, 10), Room::After(vec![1]));
        assert_eq!(make_room(&occupants, 6, 10), Room::After(vec![1, 2]));
        assert_eq!(make_room(&occupants, 10, 10), Room::After(vec![1, 2, 0]));
    }

    #[test]
    fn warm_models_go_last_and_go_all_the_same() {
        let occupants = [Occupant { warm: true, ..occupant(4, 1, false) }, occupant(3, 2, false), occupant(3, 3, false)];
        assert_eq!(make_room(&occupants, 6, 10), Room::After(vec![1, 2]));
        assert_eq!(make_room(&occupants, 7, 10), Room::After(vec![1, 2, 0]));
    }

    #[test]
    fn a_model_that_nobody_waits_for_takes_the_place_of_idle_ones_alone() {
        const IDLE: Duration = Duration::from_secs(60);
        let mut residency = Residency::new(10);
        let insert = |residency: &mut Residency<()>, name: &str, bytes| {
            residency.insert(key(name), name.to_owned(), String::new(), bytes, Arc::new(()));
        };
        insert(&mut residency, "warm", 4);
        insert(&mut residency, "called", 6);
        let (warm, now) = ([key("warm")], Instant::now());
        assert_eq!(residency.evict_idle_for(6, &warm, IDLE, now), Room::Wait, "it was used lately");
        let lease = residency.lease(&key("called"));
        residency.note_use(now + IDLE);
        drop(lease);
        assert_eq!(residency.evict_idle_for(6, &warm, IDLE, now + IDLE), Room::Wait);
        assert_eq!(residency.evict_idle_for(7, &warm, IDLE, now + IDLE * 2), Room::Wait, "warm models do not push each other out");
        assert_eq!(residency.evict_idle_for(6, &warm, IDLE, now + IDLE * 2), Room::After(vec![1]));
        assert_eq!(residency.evict_for(10, &warm), Room::After(vec![0]), "a call gets what it needs");
    }

    #[test]
    fn what_is_in_use_never_goes() {
        let occupants = [occupant(4, 1, true), occupant(4, 2, false)];
        assert_eq!(make_room(&occupants, 5, 10), Room::After(vec![1]));
        assert_eq!(make_room(&occupants, 7, 10), Room::Wait);
    }

    #[test]
    fn what_exceeds_the_limit_never_fits() {
        assert_eq!(make_room(&[], 11, 10), Room::Never);
        assert_eq!(make_room(&[occupant(1, 1, true)], u64::MAX, u64::MAX), Room::Wait);
    }

    #[test]
    fn leased_model_stays_and_returns_to_the_choice_when_dropped() {
        let mut residency = Residency::new(10);
        residency.insert(key("a"), "a".to_owned(), String::new(), 6, Arc::new(()));
        residency.insert(key("b"), "b".to_owned(), String::new(), 4, Arc::new(()));
        let lease = residency.lease(&key("a"));
        assert_eq!(residency.evict_for(8, &[]), Room::Wait);
        assert!(residency.contains(&key("a")) && residency.contains(&key("b")));
        drop(lease);
        // `b` is older than the lease of `a`, so it goes first; both must go.
        assert_eq!(residency.evict_for(8, &[]), Room::After(vec![1, 0]));
        assert_eq!(residency.bytes(), 0);
    }
}
