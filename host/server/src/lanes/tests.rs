//! What the lanes promise, with real threads.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use super::*;

fn lanes(lanes: usize, queue: usize) -> Lanes {
    Lanes::start(
        Bounds {
            lanes,
            queue,
            wait: Duration::from_secs(3600),
            bytes: 1 << 20,
        },
        0,
        Box::new(|| {}),
    )
    .unwrap()
}

fn ticket(tenant: &str, cost_us: u64) -> Ticket {
    Ticket {
        tenant: tenant.into(),
        cost_us,
        bytes: 1,
        cancel: Cancel::default(),
    }
}

/// Occupies a lane until the sender is dropped.
fn block(lanes: &Lanes) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    let job: Job = Box::new(move |_| {
        started.send(()).unwrap();
        let _ = held.recv();
    });
    lanes.submit(ticket("blocker", 1_000_000), job).unwrap();
    running.recv().unwrap();
    release
}

#[test]
fn tenants_are_served_in_turn_however_many_calls_one_has_waiting() {
    let lanes = lanes(1, 100);
    let release = block(&lanes);
    let (order, served) = mpsc::channel();
    for (tenant, count) in [("greedy", 20), ("modest", 3)] {
        for _ in 0..count {
            let order = order.clone();
            lanes
                .submit(
                    ticket(tenant, 1_000_000),
                    Box::new(move |_| order.send(tenant).unwrap()),
                )
                .unwrap();
        }
    }
    drop((release, order));
    let order: Vec<_> = served.iter().collect();
    assert_eq!(order.len(), 23);
    let last = order.iter().rposition(|tenant| *tenant == "modest").unwrap();
    assert!(last < 7, "three calls are done among the first seven: {order:?}");
}

#[test]
fn fairness_counts_cost_not_calls() {
    let lanes = lanes(1, 100);
    let release = block(&lanes);
    let (order, served) = mpsc::channel();
    for _ in 0..10 {
        for (tenant, cost) in [("heavy", 3_000_000), ("light", 1_000_000)] {
            let order = order.clone();
            lanes
                .submit(ticket(tenant, cost), Box::new(move |_| order.send(tenant).unwrap()))
                .unwrap();
        }
    }
    drop((release, order));
    let first: Vec<_> = served.iter().take(11).collect();
    assert!(
        first.iter().filter(|tenant| **tenant == "light").count() >= 7,
        "{first:?}"
    );
}

#[test]
fn a_full_queue_refuses_at_once_and_cancelled_calls_make_room() {
    let lanes = lanes(1, 4);
    let release = block(&lanes);
    let cancel = Cancel::default();
    for i in 0..2 {
        let cancel = if i == 0 { cancel.clone() } else { Cancel::default() };
        lanes
            .submit(
                Ticket {
                    cancel,
                    ..ticket("a", 3_000_000)
                },
                Box::new(|_| {}),
            )
            .unwrap();
    }
    assert_eq!(
        lanes.submit(ticket("a", 1), Box::new(|_| {})),
        Err(Refusal::OverShare(6))
    );
    for tenant in ["b", "c"] {
        lanes.submit(ticket(tenant, 1_000_000), Box::new(|_| {})).unwrap();
    }
    assert_eq!(lanes.submit(ticket("d", 1), Box::new(|_| {})), Err(Refusal::Full(9)));
    assert_eq!(lanes.depth(), (4, 1));
    cancel.cancel();
    lanes.submit(ticket("d", 1), Box::new(|_| {})).unwrap();
    drop(release);
}

#[test]
fn closing_finishes_what_was_accepted_and_takes_nothing_new() {
    let lanes = Arc::new(lanes(2, 100));
    let (done, finished) = mpsc::channel();
    for _ in 0..10 {
        let done = done.clone();
        let job: Job = Box::new(move |_| {
            std::thread::sleep(Duration::from_millis(5));
            done.send(()).unwrap();
        });
        lanes.submit(ticket("a", 1), job).unwrap();
    }
    drop(done);
    lanes.close(Duration::from_secs(30));
    assert_eq!(finished.iter().count(), 10);
    assert_eq!(lanes.submit(ticket("a", 1), Box::new(|_| {})), Err(Refusal::Closed));
}

#[test]
fn closing_cancels_what_does_not_finish_in_time() {
    let lanes = lanes(1, 10);
    let cancel = Cancel::default();
    let seen = cancel.clone();
    let job: Job = Box::new(move |_| {
        while !seen.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    lanes
        .submit(
            Ticket {
                cancel: cancel.clone(),
                ..ticket("a", 1)
            },
            job,
        )
        .unwrap();
    lanes.close(Duration::from_millis(50));
    assert!(cancel.is_cancelled());
}

#[test]
fn a_job_that_panics_leaves_its_lane_working() {
    let lanes = lanes(1, 10);
    lanes
        .submit(
            ticket("a", 1),
            Box::new(|_| std::panic::resume_unwind(Box::new("on purpose"))),
        )
        .unwrap();
    let (done, finished) = mpsc::channel();
    lanes
        .submit(ticket("a", 1), Box::new(move |_| done.send(()).unwrap()))
        .unwrap();
    finished.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(lanes.depth().0, 0);
}

#[test]
fn lanes_stand_back_behind_the_threads_that_answer() {
    let priority = || rustix::process::getpriority_process(None).unwrap();
    let bounds = Bounds {
        lanes: 1,
        queue: 1,
        wait: Duration::from_secs(1),
        bytes: 1,
    };
    let lanes = Lanes::start(bounds, 3, Box::new(|| {})).unwrap();
    let (tell, told) = mpsc::channel();
    lanes
        .submit(ticket("a", 1), Box::new(move |_| tell.send(priority()).unwrap()))
        .unwrap();
    assert_eq!(told.recv().unwrap(), (priority() + 3).min(19));
}

/// Occupies a thread as a call of a tenant that was predicted to take so long.
fn occupy(lanes: &Lanes, tenant: &str, cost_us: u64) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    let job: Job = Box::new(move |_| {
        started.send(()).unwrap();
        let _ = held.recv();
    });
    lanes.submit(ticket(tenant, cost_us), job).unwrap();
    running.recv_timeout(Duration::from_secs(60)).unwrap();
    release
}

#[test]
fn a_short_call_never_waits_for_the_long_ones_of_others() {
    let lanes = lanes(2, 100);
    // Long by prediction, as many as there are lanes; then more, of which nobody knew that they would be.
    for (cost_us, count) in [(10_000_000, 2), (1, 4)] {
        let long: Vec<_> = (0..count)
            .map(|i| occupy(&lanes, &format!("long-{i}"), cost_us))
            .collect();
        for _ in 0..20 {
            let (done, finished) = mpsc::channel();
            let job: Job = Box::new(move |_| done.send(()).unwrap());
            lanes.submit(ticket("short", 1000), job).unwrap();
            finished.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        assert!(lanes.depth().1 >= long.len());
        drop(long);
        while lanes.depth() != (0, 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // All threads are back, and none of them is in the background.
    let all: Vec<_> = (0..2)
        .map(|i| occupy(&lanes, &format!("next-{i}"), 10_000_000))
        .collect();
    let state = lanes.shared.lock();
    assert_eq!((state.running.foreground, state.running.background), (2, 0));
    drop((state, all));
}

#[test]
fn equally_long_calls_wait_for_each_other_and_one_tenant_has_no_more_than_the_lanes() {
    let lanes = lanes(1, 100);
    let first = occupy(&lanes, "first", 100_000_000);
    let (done, finished) = mpsc::channel();
    for tenant in ["first", "second"] {
        let done = done.clone();
        lanes
            .submit(
                ticket(tenant, 100_000_000),
                Box::new(move |_| done.send(tenant).unwrap()),
            )
            .unwrap();
    }
    assert!(finished.recv_timeout(Duration::from_millis(50)).is_err());
    drop(first);
    let order: Vec<_> = (0..2)
        .map(|_| finished.recv_timeout(Duration::from_secs(60)).unwrap())
        .collect();
    assert_eq!(order, ["second", "first"]);
}

#[test]
fn calls_that_take_turns_use_what_there_is_while_a_modest_tenant_comes_and_goes() {
    let lanes = lanes(2, 1000);
    let over = AtomicBool::new(false);
    let worked = Arc::new(AtomicU64::new(0));
    let time = Duration::from_secs(2);
    std::thread::scope(|scope| {
        for owner in 0..5 {
            for number in 0..4 {
                let (lanes, over, worked) = (&lanes, &over, &worked);
                scope.spawn(move || {
                    let mut turn = number;
                    while !over.load(Ordering::Relaxed) {
                        turn += 1;
                        let take = Duration::from_micros(if turn % 2 == 0 { 500_000 } else { 200 });
                        let (done, finished) = mpsc::channel();
                        let counts = Arc::clone(worked);
                        let job: Job = Box::new(move |_| {
                            let began = Instant::now();
                            while began.elapsed() < take {
                                let at = Instant::now();
                                while at.elapsed() < Duration::from_millis(1).min(take) {}
                                counts.fetch_add(at.elapsed().as_micros() as u64, Ordering::Relaxed);
                                maquette_tensor::gate::pass(&|| began.elapsed() > take);
                            }
                            done.send(()).unwrap();
                        });
                        let ticket = ticket(&format!("greedy-{owner}"), take.as_micros() as u64);
                        lanes.submit(ticket, job).unwrap();
                        finished.recv().unwrap();
                    }
                });
            }
        }
        let began = Instant::now();
        while began.elapsed() < time {
            let (done, finished) = mpsc::channel();
            let job: Job = Box::new(move |_| {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(6) {}
                done.send(()).unwrap();
            });
            lanes.submit(ticket("modest", 6_000), job).unwrap();
            finished.recv().unwrap();
            std::thread::sleep(Duration::from_millis(60));
        }
        over.store(true, Ordering::Relaxed);
    });
    let worked = Duration::from_micros(worked.load(Ordering::Relaxed));
    assert!(worked > time, "{worked:?} of two lanes in {time:?}");
}
