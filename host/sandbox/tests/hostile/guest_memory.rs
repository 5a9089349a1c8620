//! Guests that want more memory than they have.

use maquette_fixtures as fixtures;
use maquette_sandbox::{Code, Failure, Limits};

use crate::common::{Host, call, limits};
use crate::{predict, refused, survives, well};

#[test]
fn a_guest_that_grows_meets_its_limit_and_the_caller_is_told() {
    let body = "(func $predict (param i32 i32) (result i32)
        (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable)";
    let (failure, report) = predict(&Host::new(), "", body);
    assert_eq!(failure.code, Code::Quota);
    assert!(
        failure.message.starts_with("the model ran out of memory: it wanted"),
        "{}",
        failure.message
    );
    assert!(report.guest_memory_bytes <= limits().memory_bytes);
}

#[test]
fn many_memories_share_one_limit() {
    let host = Host::new();
    let body = "(memory $b 200) (memory $c 200)";
    let error = host
        .try_open(&host.parts(&fixtures::component("", body), limits()))
        .err()
        .unwrap();
    assert!(error.message.contains("ran out of memory"), "{error}");
}

#[test]
fn growth_beyond_the_limit_fails_in_a_way_the_guest_can_handle() {
    // To the limit, touched to the last byte, and one page more: -1, and the guest goes on.
    let body = r#"(func $predict (param $p i32) (param $n i32) (result i32)
        (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0))))
        (i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1))
        (call $ok (local.get $p) (local.get $n)))"#;
    let (json, report) = survives(&Host::new(), "", body);
    assert_eq!(json, "{}");
    assert!(
        report.guest_memory_bytes <= limits().memory_bytes
            && report.guest_memory_bytes > limits().memory_bytes - (64 << 10)
    );
}

#[test]
fn tables_count_with_memories_and_growth_beyond_fails() {
    // 100 pages and a table that grows by 8 KiB at a time until it is refused; then a page more is refused as well.
    let body = r#"(table $t 1 funcref)
      (func $predict (param $p i32) (param $n i32) (result i32)
        (drop (memory.grow (i32.const 250)))
        (loop $l (br_if $l (i32.ge_s (table.grow $t (ref.null func) (i32.const 1024)) (i32.const 0))))
        (if (i32.ge_s (memory.grow (i32.const 4)) (i32.const 0)) (then unreachable))
        (call $ok (local.get $p) (local.get $n)))"#;
    let (json, report) = survives(&Host::new(), "", body);
    assert_eq!(json, "{}");
    assert!(report.guest_memory_bytes <= limits().memory_bytes, "{report:?}");
}

#[test]
fn an_initial_memory_beyond_the_limit_is_refused() {
    for (memory, part) in [
        ("(memory $b 300)", "ran out of memory"),
        ("(memory $b 65536)", "exceeds the limit"),
    ] {
        let error = refused(&Host::new(), &fixtures::component("", memory));
        let told = format!("{} {:?}", error.message, error.detail);
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_huge_table_is_refused_and_not_allocated() {
    for table in [
        "(table $t 1000000 funcref)",
        "(table $t 4294967295 funcref)",
        "(table $t 99999 funcref) (table $u 99999 funcref) (table $v 99999 funcref) (memory $m 220)",
    ] {
        let error = refused(&Host::new(), &fixtures::component("", table));
        assert!(
            !error.message.is_empty() && !error.message.contains("panick"),
            "{error}"
        );
    }
}

#[test]
fn a_data_segment_beyond_the_memory_is_refused() {
    let error = refused(
        &Host::new(),
        &fixtures::component("", r#"(data (i32.const 131070) "beyond")"#),
    );
    assert!(
        error.message.starts_with("`start` failed: the model stopped"),
        "{error}"
    );
}

#[test]
fn more_memories_or_tables_than_a_sandbox_may_take_are_refused() {
    for part in ["(memory 0)", "(table 0 funcref)"] {
        let error = refused(&Host::new(), &fixtures::component("", &part.repeat(40)));
        assert!(
            error.message.contains("does not compile") || error.message.contains("does not fit"),
            "{error}"
        );
    }
}

#[test]
fn a_sandbox_that_takes_all_it_may_leaves_its_neighbours_their_room() {
    // Every lane but one holds all the memories that it may, and waits for its deadline.
    let host = Host::new();
    let body = "(memory 1) (memory 1) (memory 1) (table 9 funcref)
      (func $predict (param i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    let greedy = host.open(&fixtures::component("", body));
    let good = host.open(&fixtures::echo());
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..7)
            .map(|_| scope.spawn(|| call(&greedy, "{}").result.unwrap_err()))
            .collect();
        while !held.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            assert_eq!(call(&good, "[1]").result.unwrap().json, "[1]");
        }
        for thread in held {
            let Failure { code, .. } = thread.join().unwrap();
            assert_eq!(code, Code::Timeout, "it ran, and did not lack room");
        }
    });
    well(&host);
}

#[test]
fn a_pattern_that_a_call_leaves_in_its_memory_is_in_no_later_call() {
    // Each call looks through memory that the module did not initialise, grown pages included, and then fills it all with a
    // pattern. A second guest without the pattern shares the pool.
    let scan = |fill: &str| {
        format!(
            r#"(func $predict (param i32 i32) (result i32) (local $at i32) (local $end i32)
        (drop (memory.grow (i32.const 120)))
        (local.set $end (i32.mul (memory.size) (i32.const 65536)))
        (local.set $at (i32.const 81920))
        (loop $l
          (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (return (call $ok (i32.const 4097) (i32.const 1)))))
          (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end))))
        {fill}
        (call $ok (i32.const 4096) (i32.const 1)))
      (data (i32.const 4096) "01")"#
        )
    };
    let host = Host::new();
    let writes = "(memory.fill (i32.const 81920) (i32.const 165) (i32.sub (local.get $end) (i32.const 81920)))";
    let slow = Limits {
        timeout_ms: 20_000,
        ..limits()
    };
    let open = |fill: &str| {
        let wasm = fixtures::component("", &scan(fill));
        host.try_open(&host.parts(&wasm, slow)).unwrap().0
    };
    let (writer, reader) = (open(writes), open(""));
    for _ in 0..8 {
        assert_eq!(call(&writer, "{}").result.unwrap().json, "0");
        assert_eq!(call(&reader, "{}").result.unwrap().json, "0");
    }
    well(&host);
}
