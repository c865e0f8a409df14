//! Whose turn it is: fair between tenants by cost and plan weight, first come first served within a tenant. Pure: no clock, no tasks.
//!
//! Stride scheduling (Waldspurger and Weihl, 1995): each tenant has a pass; the eligible tenant with the lowest goes next, and its pass grows
//! by cost ÷ weight. A tenant that was idle starts at the pass of the last turn, so that it cannot save up time.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use crate::replicas::SetKey;

/// A request that waits for its turn.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) id: Uuid,
    pub(super) tenant: Uuid,
    /// The plan's share of a busy house.
    pub(super) weight: u32,
    /// Higher goes first, whatever the weight.
    pub(super) priority: i32,
    pub(super) images: u32,
    /// Images of the tenant that may be made at once. A request with more images than that goes alone.
    pub(super) parallel_images: u32,
    /// Steps × megapixels × images.
    pub(super) cost: f64,
    pub(super) set: SetKey,
    /// Requests that the set's replicas take at once.
    pub(super) set_capacity: u32,
}

impl Waiting {
    /// How far a turn moves its tenant back.
    fn stride(&self) -> f64 {
        self.cost.max(f64::MIN_POSITIVE) / f64::from(self.weight.max(1))
    }
}

#[derive(Debug, Default)]
struct Lane {
    pass: f64,
    /// With a number that tells who came first.
    waiting: VecDeque<(u64, Waiting)>,
    running_images: u32,
    /// Whether the tenant's images at other routers leave it no room.
    held_back: bool,
}

/// All that wait, and what runs of each tenant and set.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    lanes: HashMap<Uuid, Lane>,
    running_of_set: HashMap<SetKey, u32>,
    last_pass: f64,
    arrivals: u64,
}

impl FairQueue {
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.arrivals += 1;
        let lane = self.lanes.entry(waiting.tenant).or_default();
        if lane.waiting.is_empty() {
            lane.pass = lane.pass.max(self.last_pass);
        }
        lane.waiting.push_back((self.arrivals, waiting));
    }

    /// Takes a turn back that could not be used, for lack of room among the tenant's images at all routers: the request waits in front of the
    /// tenant's others, which wait as well until [`FairQueue::release`] or the end of one of the tenant's turns.
    pub(super) fn postpone(&mut self, turn: Waiting) {
        self.end(&turn);
        let lane = self.lanes.entry(turn.tenant).or_default();
        lane.pass -= turn.stride();
        lane.held_back = true;
        // It came before all that have not had a turn.
        lane.waiting.push_front((0, turn));
    }

    /// The tenant may have turns again.
    pub(super) fn release(&mut self, tenant: Uuid) {
        if let Some(lane) = self.lanes.get_mut(&tenant) {
            lane.held_back = false;
        }
    }

    /// Takes one out that waits no longer. False when it had its turn already.
    pub(super) fn remove(&mut self, tenant: Uuid, id: Uuid) -> bool {
        let Some(lane) = self.lanes.get_mut(&tenant) else { return false };
        let before = lane.waiting.len();
        lane.waiting.retain(|(_, waiting)| waiting.id != id);
        let removed = lane.waiting.len() < before;
        // If it was the one that was postponed, the next one asks.
        lane.held_back &= !removed;
        self.forget_idle(tenant);
        removed
    }

    /// Gives the next turn, if anybody may have one; [`FairQueue::end`] gives it back.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        let mut best: Option<(i32, f64, u64, Uuid, usize)> = None;
        for (tenant, lane) in &self.lanes {
            let eligible = lane.waiting.iter().position(|(_, waiting)| self.may_run(lane, waiting));
            let Some(position) = eligible else { continue };
            let (arrival, waiting) = &lane.waiting[position];
            let goes_before = best.is_none_or(|(priority, pass, first, ..)| {
                waiting.priority.cmp(&priority).reverse().then(lane.pass.total_cmp(&pass)).then(arrival.cmp(&first)).is_lt()
            });
            if goes_before {
                best = Some((waiting.priority, lane.pass, *arrival, *tenant, position));
            }
        }
        let (.., tenant, position) = best?;
        let lane = self.lanes.get_mut(&tenant)?;
        let (_, waiting) = lane.waiting.remove(position)?;
        self.last_pass = lane.pass;
        lane.pass += waiting.stride();
        lane.running_images += waiting.images;
        *self.running_of_set.entry(waiting.set.clone()).or_default() += 1;
        Some(waiting)
    }

    /// The turn is over.
    pub(super) fn end(&mut self, turn: &Waiting) {
        if let Some(lane) = self.lanes.get_mut(&turn.tenant) {
            lane.running_images = lane.running_images.saturating_sub(turn.images);
            lane.held_back = false;
        }
        if let Some(running) = self.running_of_set.get_mut(&turn.set) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running_of_set.remove(&turn.set);
            }
        }
        self.forget_idle(turn.tenant);
    }

    pub(super) fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    fn may_run(&self, lane: &Lane, waiting: &Waiting) -> bool {
        let set_has_room = self.running_of_set.get(&waiting.set).is_none_or(|running| *running < waiting.set_capacity);
        let plan_has_room = lane.running_images == 0 || lane.running_images.saturating_add(waiting.images) <= waiting.parallel_images;
        set_has_room && plan_has_room && !lane.held_back
    }

    /// Tenants without work are not kept: there may be half a million of them. One whose pass is ahead keeps it while others wait.
    fn forget_idle(&mut self, tenant: Uuid) {
        let is_idle = |lane: &Lane| lane.waiting.is_empty() && lane.running_images == 0;
        if self.lanes.get(&tenant).is_some_and(is_idle) {
            let last_pass = self.last_pass;
            let somebody_waits = self.lanes.values().any(|lane| !lane.waiting.is_empty());
            self.lanes.retain(|_, lane| !is_idle(lane) || (somebody_waits && lane.pass > last_pass));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tenant: u128, id: u128) -> Waiting {
        Waiting {
            id: Uuid::from_u128(id),
            tenant: Uuid::from_u128(tenant),
            weight: 1,
            priority: 0,
            images: 1,
            parallel_images: 100,
            cost: 1.0,
            set: SetKey::Pool("default".to_owned()),
            set_capacity: 1,
        }
    }

    fn turns(queue: &mut FairQueue, count: usize) -> Vec<u128> {
        (0..count)
            .map_while(|_| {
                let turn = queue.next()?;
                queue.end(&turn);
                Some(turn.tenant.as_u128())
            })
            .collect()
    }

    #[test]
    fn a_tenant_with_a_hundred_requests_does_not_hold_up_others() {
        let mut queue = FairQueue::default();
        for id in 0..100 {
            queue.push(request(1, id));
        }
        for tenant in 2..=5 {
            queue.push(request(tenant, 1000 + tenant));
        }
        let first: Vec<u128> = turns(&mut queue, 5);
        assert_eq!(first, [1, 2, 3, 4, 5]);
        assert_eq!(queue.waiting(), 99);
    }

    #[test]
    fn turns_follow_weight_and_cost() {
        let mut queue = FairQueue::default();
        for id in 0..60 {
            queue.push(Waiting { weight: 4, ..request(1, id) });
            queue.push(Waiting { weight: 4, cost: 2.0, ..request(2, 100 + id) });
            queue.push(request(3, 200 + id));
        }
        let order = turns(&mut queue, 70);
        let share = |tenant| order.iter().filter(|turn| **turn == tenant).count();
        assert_eq!((share(1), share(2), share(3)), (40, 20, 10));
    }

    #[test]
    fn a_tenant_that_was_idle_saves_up_nothing() {
        let mut queue = FairQueue::default();
        for id in 0..50 {
            queue.push(request(1, id));
        }
        turns(&mut queue, 40);
        for id in 0..50 {
            queue.push(request(2, 100 + id));
        }
        let order = turns(&mut queue, 10);
        assert_eq!(order.iter().filter(|turn| **turn == 2).count(), 5, "{order:?}");
    }

    #[test]
    fn leaving_and_coming_back_does_not_jump_the_queue() {
        let mut queue = FairQueue::default();
        for id in 0..10 {
            queue.push(request(1, id));
        }
        queue.push(Waiting { cost: 5.0, ..request(2, 100) });
        assert_eq!(turns(&mut queue, 2), [1, 2]);
        queue.push(request(2, 101));
        assert_eq!(turns(&mut queue, 6), [1, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn parallel_images_of_a_plan_are_held_and_a_larger_request_goes_alone() {
        let mut queue = FairQueue::default();
        let mut push = |id, images| queue.push(Waiting { images, parallel_images: 2, set_capacity: 10, ..request(1, id) });
        push(1, 4);
        push(2, 1);
        push(3, 1);
        push(4, 1);
        let large = queue.next().unwrap();
        assert_eq!(large.images, 4);
        assert!(queue.next().is_none(), "the large one goes alone");
        queue.end(&large);
        assert!(queue.next().is_some() && queue.next().is_some());
        assert!(queue.next().is_none(), "two images run");
    }

    #[test]
    fn a_postponed_turn_costs_nothing_and_comes_first_when_there_is_room() {
        let mut queue = FairQueue::default();
        for id in 1..=3 {
            queue.push(request(1, id));
            queue.push(request(2, 10 + id));
        }
        let postponed = queue.next().unwrap();
        assert_eq!(postponed.id, Uuid::from_u128(1));
        queue.postpone(postponed);
        // Its place in the set is free, and no other request of the tenant takes it.
        assert_eq!(turns(&mut queue, 2), [2, 2]);
        queue.release(Uuid::from_u128(1));
        let again = queue.next().unwrap();
        assert_eq!(again.id, Uuid::from_u128(1));
        queue.postpone(again);
        assert!(queue.remove(Uuid::from_u128(1), Uuid::from_u128(1)), "its caller left, so the next one asks");
        assert_eq!(turns(&mut queue, 9), [1, 1, 2]);
        assert!(queue.lanes.is_empty());
    }

    #[test]
    fn the_end_of_a_tenants_turn_lets_its_postponed_request_ask_again() {
        let mut queue = FairQueue::default();
        for id in 1..=2 {
            queue.push(Waiting { set_capacity: 2, ..request(1, id) });
        }
        let (running, postponed) = (queue.next().unwrap(), queue.next().unwrap());
        queue.postpone(postponed);
        assert!(queue.next().is_none());
        queue.end(&running);
        assert_eq!(queue.next().map(|turn| turn.id), Some(Uuid::from_u128(2)));
    }

    #[test]
    fn a_full_set_does_not_hold_up_another() {
        let mut queue = FairQueue::default();
        queue.push(request(1, 1));
        queue.push(request(1, 2));
        queue.push(Waiting { set: SetKey::Dedicated("other".to_owned()), ..request(1, 3) });
        let first = queue.next().unwrap();
        assert_eq!(queue.next().map(|turn| turn.id), Some(Uuid::from_u128(3)));
        assert!(queue.next().is_none());
        queue.end(&first);
        assert_eq!(queue.next().map(|turn| turn.id), Some(Uuid::from_u128(2)));
    }

    #[test]
    fn priority_goes_before_fairness_and_removed_ones_get_no_turn() {
        let mut queue = FairQueue::default();
        queue.push(request(1, 1));
        queue.push(Waiting { priority: 1, ..request(2, 2) });
        queue.push(request(3, 3));
        assert!(queue.remove(Uuid::from_u128(3), Uuid::from_u128(3)));
        assert!(!queue.remove(Uuid::from_u128(3), Uuid::from_u128(3)));
        assert_eq!(turns(&mut queue, 5), [2, 1]);
        assert!(queue.lanes.is_empty(), "nothing is kept of tenants without work");
    }
}
