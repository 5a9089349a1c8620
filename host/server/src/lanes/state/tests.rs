//! The queue's decisions, tried on a clock of their own and no threads.

#![allow(clippy::unwrap_used)]
use super::*;

/// A state with its own clock, all of whose threads are this one.
struct Simulation {
    state: State,
    now: Instant,
    turn: usize,
}

impl Simulation {
    fn new(lanes: usize) -> Self {
        let mut state = State::new(lanes, 2 * lanes + background(lanes), Box::new(|| {}));
        let gate = Arc::clone(&state.gate);
        for (number, thread) in state.threads.iter_mut().enumerate() {
            thread.standing = Some(Standing::own(number, 0, &gate));
        }
        let now = Instant::now();
        Self { state, now, turn: 0 }
    }

    fn pass(&mut self, ms: u64) {
        let time = Duration::from_millis(ms);
        self.now += time;
        // Those that are held take places by turns.
        let mut places = spare(self.state.lanes, self.going(), self.going());
        self.turn += 1;
        let threads = self.state.threads.len();
        for number in 0..threads {
            let thread = &self.state.threads[(number + self.turn) % threads];
            let standing = thread.standing.as_ref().unwrap();
            if thread.call.is_some() && standing.is_held() {
                if places == 0 {
                    standing.simulate_wait(time);
                }
                places = places.saturating_sub(1);
            }
        }
        self.state.make_room(self.now);
        self.state.settle(self.now);
    }

    fn submit(&mut self, tenant: &str, cost_us: u64) {
        let ticket = Ticket {
            tenant: tenant.into(),
            cost_us,
            bytes: 0,
            cancel: Cancel::default(),
        };
        self.state.push(Waiting {
            ticket,
            since: self.now,
            job: Box::new(|_| {}),
        });
        self.state.make_room(self.now);
    }

    /// Begins what can begin; its tenant, thread and place.
    fn begin(&mut self) -> Option<(String, usize, Place)> {
        let number = self.state.threads.iter().position(|thread| thread.call.is_none())?;
        let (tenant, place) = self.state.next(self.now)?;
        self.state.begin(number, &tenant, place, self.now).unwrap();
        Some((tenant.to_string(), number, place))
    }

    /// Calls in the foreground that go on.
    fn going(&self) -> usize {
        self.state.running.foreground - self.state.held
    }

    /// A call from its beginning to its end.
    fn call(&mut self, tenant: &str, ms: u64) {
        self.submit(tenant, ms * 1000);
        let (_, number, _) = self.begin().unwrap();
        self.pass(ms);
        self.state.finish(number, self.now);
    }
}

#[test]
fn who_has_had_much_waits_for_short_calls_of_who_has_not() {
    let mut simulation = Simulation::new(2);
    for _ in 0..40 {
        simulation.call("busy", 10);
    }
    // Short ones, so that they are not moved away.
    for _ in 0..2 {
        simulation.submit("busy", 10_000);
        simulation.begin().unwrap();
    }
    assert_eq!(simulation.state.held, 0, "nobody else is there");
    simulation.submit("modest", 10_000);
    let (tenant, number, place) = simulation.begin().unwrap();
    assert_eq!((tenant.as_str(), place), ("modest", Place::Foreground));
    assert_eq!(simulation.state.held, 2);
    simulation.submit("busy", 10_000);
    assert!(simulation.begin().is_none(), "nor does it begin another");
    simulation.pass(5);
    assert_eq!(simulation.state.held, 2);
    simulation.state.finish(number, simulation.now);
    assert_eq!(simulation.state.held, 0);

    // They do not wait for long.
    simulation.submit("modest", 10_000);
    simulation.begin().unwrap();
    let mut waited = 0;
    while simulation.state.held == 2 && waited < 1000 {
        simulation.pass(1);
        waited += 1;
    }
    assert!((10..200).contains(&waited), "{waited} ms");
}

#[test]
fn who_asks_for_less_than_a_share_never_waits_for_who_takes_all_there_is() {
    let mut simulation = Simulation::new(2);
    let mut running: Vec<(usize, u64)> = Vec::new();
    for ms in 0..5_000 {
        for tenant in ["a", "b", "c", "d", "e"] {
            if simulation.state.load(&tenant.into()).tenant_queued < 2 {
                // Some short, some long.
                simulation.submit(tenant, if ms % 3 == 0 { 8_000 } else { 400_000 });
            }
        }
        if ms % 60 == 59 {
            simulation.submit("modest", 6_000);
            let (tenant, number, place) = simulation.begin().unwrap();
            assert_eq!((tenant.as_str(), place), ("modest", Place::Foreground), "at {ms} ms");
            assert_eq!(simulation.going(), 1, "it runs alone");
            simulation.pass(6);
            simulation.state.finish(number, simulation.now);
        }
        while let Some((_, number, _)) = simulation.begin() {
            let takes = simulation.state.threads[number].call.as_ref().unwrap().cost_us / 1000;
            running.push((number, takes));
        }
        simulation.pass(1);
        running.retain(|(number, takes)| {
            let (call, worked) = simulation.state.threads[*number].call(simulation.now).unwrap();
            let over = us(worked.saturating_sub(call.started)) >= takes * 1000;
            if over {
                simulation.state.finish(*number, simulation.now);
            }
            !over
        });
    }
}

#[test]
fn who_was_alone_owes_nothing_to_who_comes() {
    let mut simulation = Simulation::new(2);
    for _ in 0..100 {
        simulation.call("first", 10);
    }
    for tenant in ["a", "b"] {
        simulation.submit(tenant, 10_000);
        simulation.begin().unwrap();
    }
    simulation.submit("first", 10_000);
    let time = |tenant| simulation.state.tenants[tenant].time;
    assert_eq!(time("a"), time("first") + 10_000, "they began as equals");
}

#[test]
fn equals_wait_for_nobody() {
    let mut simulation = Simulation::new(2);
    for _ in 0..40 {
        simulation.call("one", 10);
        simulation.call("other", 9);
    }
    for tenant in ["one", "other"] {
        simulation.submit(tenant, 10_000);
        simulation.begin().unwrap();
        assert_eq!(simulation.state.held, 0);
    }
    simulation.submit("one", 10_000);
    assert!(simulation.begin().is_none(), "there are two lanes");
}

#[test]
fn where_lanes_are_free_nobody_waits() {
    let mut simulation = Simulation::new(8);
    for _ in 0..40 {
        simulation.call("busy", 10);
    }
    for tenant in ["busy", "busy", "modest", "modest"] {
        simulation.submit(tenant, 10_000);
        simulation.begin().unwrap();
    }
    assert_eq!(simulation.state.held, 0);
}
