//! Guests that want more memory than they have.

use maquette_fixtures as fixtures;
use maquette_sandbox::{Code, Limits};

use crate::common::{Host, call, limits};
use crate::{predict, refused, survives, told, well};

#[test]
fn a_guest_that_grows_meets_its_limit_and_the_caller_is_told() {
    let body = "(func $predict (param i32 i32) (result i32)
        (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable)";
    let (failure, report) = predict(&Host::new(), "", body);
    assert_eq!(
        told(&failure),
        (
            Code::Quota,
            "the model ran out of memory: it wanted 16908288 bytes, its limit is 16777216",
            Some("cause: wasm trap: wasm `unreachable` instruction executed\n  0: predict\n")
        )
    );
    assert!(report.guest_memory_bytes <= limits().memory_bytes);
}

#[test]
fn many_memories_share_one_limit() {
    let host = Host::new();
    let body = "(memory $b 200) (memory $c 200)";
    let error = refused(&host, &fixtures::component("", body));
    assert_eq!(
        error.message,
        "`start` failed: the model ran out of memory: it wanted 26345472 bytes, its limit is 16777216"
    );
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
    let error = refused(&Host::new(), &fixtures::component("", "(memory $b 300)"));
    assert_eq!(
        error.message,
        "`start` failed: the model ran out of memory: it wanted 19791872 bytes, its limit is 16777216"
    );
    assert_eq!(
        error.detail.unwrap(),
        "cause: memory minimum size of 300 pages exceeds memory limits\n"
    );
    let error = refused(&Host::new(), &fixtures::component("", "(memory $b 65536)"));
    let cause = "module memory does not fit in pooling allocator requirements: memory index 1 is unsupported in this pooling allocator \
                 configuration: memory has a minimum byte size of 4294967296 which exceeds the limit of 0x40000000 bytes";
    assert_eq!((error.message, error.detail), (format!("{ROOM}{cause}"), None));
}

#[test]
fn a_huge_table_is_refused_and_not_allocated() {
    for (table, cause) in [
        (
            "(table $t 1000000 funcref)",
            "table index 0 has a minimum element size of 1000000 which exceeds the limit of 100000",
        ),
        (
            "(table $t 4294967295 funcref)",
            "table index 0 has a minimum element size of 4294967295 which exceeds the limit of 100000",
        ),
        (
            "(table $t 99999 funcref) (table $u 99999 funcref) (table $v 99999 funcref) (memory $m 220)",
            "defined tables count of 3 exceeds the per-instance limit of 1",
        ),
    ] {
        let error = refused(&Host::new(), &fixtures::component("", table));
        let cause = format!("{ROOM}module table does not fit in pooling allocator requirements: {cause}");
        assert_eq!((error.message, error.detail), (cause, None));
    }
}

/// What a component is told that needs more than there is room for; the cause follows.
const ROOM: &str = "the component takes more than a sandbox has, which is 32 core instances, 4 memories of up to 1073741824 bytes, 16 tables of \
                    100000 elements, one for each core module: ";

#[test]
fn a_data_segment_beyond_the_memory_is_refused() {
    let error = refused(
        &Host::new(),
        &fixtures::component("", r#"(data (i32.const 131070) "beyond")"#),
    );
    assert_eq!(
        error.message,
        "`start` failed: the model stopped: wasm trap: out of bounds memory access"
    );
    assert_eq!(error.detail.unwrap(), "cause: wasm trap: out of bounds memory access\n");
}

#[test]
fn more_memories_or_tables_than_a_sandbox_may_take_are_refused() {
    for (part, cause) in [
        (
            "(memory 0)",
            "module memory does not fit in pooling allocator requirements: defined memories count of 41 exceeds the per-instance limit of 4",
        ),
        (
            "(table 0 funcref)",
            "module table does not fit in pooling allocator requirements: defined tables count of 40 exceeds the per-instance limit of 1",
        ),
    ] {
        let error = refused(&Host::new(), &fixtures::component("", &part.repeat(40)));
        assert_eq!((error.message, error.detail), (format!("{ROOM}{cause}"), None));
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
            // It ran, and did not lack room.
            assert_eq!(
                told(&thread.join().unwrap()),
                (
                    Code::Timeout,
                    "`predict` did not end within 300 ms",
                    Some("cause: the deadline passed\n  0: predict\n")
                )
            );
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
