//! Guests whose input says what they do. Its one field `a` begins with a letter and three digits; whatever follows is a nonce.

/// Digits of the input at an offset, as a number.
const COMMON: &str = r#"
  (func $digit (param $at i32) (result i32) (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
  (func $number (param $p i32) (result i32)
    (i32.add (i32.add (i32.mul (call $digit (i32.add (local.get $p) (i32.const 7))) (i32.const 100))
      (i32.mul (call $digit (i32.add (local.get $p) (i32.const 8))) (i32.const 10)))
      (call $digit (i32.add (local.get $p) (i32.const 9)))))
  (func $spend (param $ms i64) (local $start i64)
    (local.set $start (call $remaining))
    (loop $wait (br_if $wait
      (i64.lt_s (i64.sub (local.get $start) (call $remaining)) (local.get $ms)))))"#;

const IMPORTS: &str = r#"
  (import "maquette:model/run@0.1.0" "emit" (func $emit (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "remaining-ms" (func $remaining (result i64)))"#;

const INPUT: &str =
    r#"{"type":"object","required":["a"],"properties":{"a":{"type":"string","pattern":"^[a-z][0-9]{3}"}}}"#;

/// Spends the milliseconds that the digits say, then: `e` returns its input, `f` fails with `the guest says no`, `t` traps, `l` never
/// ends.
pub fn worker() -> Vec<u8> {
    let predict = r#"
  (data (i32.const 4096) "the guest says no")
  (func $predict (param $p i32) (param $n i32) (result i32) (local $do i32) (local $ret i32)
    (local.set $do (i32.load8_u offset=6 (local.get $p)))
    (call $spend (i64.extend_i32_u (call $number (local.get $p))))
    (if (i32.eq (local.get $do) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $do) (i32.const 108)) (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $do) (i32.const 102)) (then
      (local.set $ret (call $alloc (i32.const 16)))
      (i32.store (local.get $ret) (i32.const 1))
      (i32.store8 offset=4 (local.get $ret) (i32.const 0))
      (i32.store offset=8 (local.get $ret) (i32.const 4096))
      (i32.store offset=12 (local.get $ret) (i32.const 17))
      (return (local.get $ret))))
    (call $ok (local.get $p) (local.get $n)))"#;
    maquette_fixtures::component_with_schemas(IMPORTS, &format!("{predict}{COMMON}"), INPUT, "{}")
}

/// Streams as many items as the digits say, the numbers from 1000 on, each after some five milliseconds, and logs a line before
/// every tenth.
pub fn streamer() -> Vec<u8> {
    let predict = r#"
  (data (i32.const 4096) "line 1000")
  (func $write (param $at i32) (param $number i32) (local $i i32)
    (local.set $i (i32.const 3))
    (loop $digits
      (i32.store8 (i32.add (local.get $at) (local.get $i))
        (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
      (local.set $i (i32.sub (local.get $i) (i32.const 1)))
      (br_if $digits (i32.ge_s (local.get $i) (i32.const 0)))))
  (func $predict (param $p i32) (param $n i32) (result i32) (local $ret i32) (local $list i32) (local $i i32) (local $count i32)
    (local.set $count (call $number (local.get $p)))
    (local.set $ret (call $alloc (i32.const 32)))
    (local.set $list (call $alloc (i32.const 8192)))
    (block $done
      (loop $items
        (br_if $done (i32.ge_u (local.get $i) (local.get $count)))
        (i32.store8 (i32.add (local.get $list) (i32.mul (local.get $i) (i32.const 5))) (i32.const 44))
        (call $write (i32.add (i32.add (local.get $list) (i32.const 1)) (i32.mul (local.get $i) (i32.const 5)))
          (i32.add (i32.const 1000) (local.get $i)))
        (call $spend (i64.const 5))
        (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 10))) (then
          (call $write (i32.const 4101) (i32.add (i32.const 1000) (local.get $i)))
          (call $log (i32.const 1) (i32.const 4096) (i32.const 9))))
        (call $emit (i32.add (i32.add (local.get $list) (i32.const 1)) (i32.mul (local.get $i) (i32.const 5)))
          (i32.const 4) (local.get $ret))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $items)))
    (i32.store8 (local.get $list) (i32.const 91))
    (i32.store8 (i32.add (local.get $list) (i32.add (i32.mul (local.get $count) (i32.const 5))
      (i32.eqz (local.get $count)))) (i32.const 93))
    (call $ok (local.get $list) (i32.add (i32.add (i32.mul (local.get $count) (i32.const 5)) (i32.const 1))
      (i32.eqz (local.get $count)))))"#;
    let output = r#"{"type":"array","x-cog-array-type":"iterator"}"#;
    maquette_fixtures::component_with_schemas(IMPORTS, &format!("{predict}{COMMON}"), INPUT, output)
}

/// How long [`holder`] holds what it has taken, in milliseconds.
pub const HOLDS_MS: u64 = 3000;

/// Takes as many MiB as the digits say: `h` and `m` of linear memory, `t` and `u` of tensors. `h` and `t` hold them for a while. Returns
/// its input; where it gets no memory it traps, and where it gets no tensor it says so itself.
pub fn holder() -> Vec<u8> {
    let predict = r#"
  (data (i32.const 4096) "\00\04\00\00\01\00\00\00\00\04\00\00") (data (i32.const 4112) "matmul/1")
  (data (i32.const 4128) "the guest says no")
  (func $vector (param $shape i32) (result i32)
    (call $upload (i32.const 0) (local.get $shape) (i32.const 2) (i32.const 8192) (i32.const 4096) (i32.const 5000))
    (if (i32.load8_u (i32.const 5000)) (then unreachable))
    (i32.load (i32.const 5004)))
  (func $predict (param $p i32) (param $n i32) (result i32) (local $do i32) (local $left i32) (local $op i32) (local $ret i32)
    (local.set $do (i32.load8_u offset=6 (local.get $p)))
    (local.set $left (call $number (local.get $p)))
    (if (i32.lt_u (local.get $do) (i32.const 110))
      (then
        (if (i32.lt_s (memory.grow (i32.mul (local.get $left) (i32.const 16))) (i32.const 0)) (then unreachable)))
      (else
        (i32.store (i32.const 4300) (call $vector (i32.const 4096)))
        (i32.store (i32.const 4304) (call $vector (i32.const 4100)))
        (call $resolve (i32.const 4112) (i32.const 8) (i32.const 5000))
        (local.set $op (i32.load (i32.const 5004)))
        (loop $more
          (call $apply (local.get $op) (i32.const 4300) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 5000))
          (if (i32.load8_u (i32.const 5000)) (then
            (local.set $ret (call $alloc (i32.const 16)))
            (i32.store (local.get $ret) (i32.const 1))
            (i32.store8 offset=4 (local.get $ret) (i32.const 4))
            (i32.store offset=8 (local.get $ret) (i32.const 4128))
            (i32.store offset=12 (local.get $ret) (i32.const 17))
            (return (local.get $ret))))
          (local.set $left (i32.sub (local.get $left) (i32.const 4)))
          (br_if $more (i32.gt_s (local.get $left) (i32.const 0))))))
    (if (i32.or (i32.eq (local.get $do) (i32.const 104)) (i32.eq (local.get $do) (i32.const 116))) (then
      (call $spend (i64.const HOLDS_MS))))
    (call $ok (local.get $p) (local.get $n)))"#;
    let predict = predict.replace("HOLDS_MS", &HOLDS_MS.to_string());
    let imports = format!("{IMPORTS}{TENSORS}");
    maquette_fixtures::component_with_schemas(&imports, &format!("{predict}{COMMON}"), INPUT, "{}")
}

const TENSORS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))
  (import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "apply" (func $apply (param i32 i32 i32 i32 i32 i32)))"#;

/// Uploads a square matrix of zeros in f32, `side` on a side, and multiplies it by itself: `$multiply` once.
fn products(side: u32) -> String {
    let shape: String = side.to_le_bytes().map(|byte| format!("\\{byte:02x}")).concat();
    format!(
        r#"
  (data (i32.const 4096) "{shape}{shape}") (data (i32.const 4112) "matmul/1")
  (global $op (mut i32) (i32.const 0))
  (func $matrix (local $at i32)
    (local.set $at (call $alloc (i32.const {bytes})))
    (call $upload (i32.const 0) (i32.const 4096) (i32.const 2) (local.get $at) (i32.const {bytes}) (i32.const 5000))
    (if (i32.load8_u (i32.const 5000)) (then unreachable))
    (i32.store (i32.const 4300) (i32.load (i32.const 5004)))
    (i32.store (i32.const 4304) (i32.load (i32.const 5004)))
    (call $resolve (i32.const 4112) (i32.const 8) (i32.const 5000))
    (global.set $op (i32.load (i32.const 5004))))
  (func $multiply
    (call $apply (global.get $op) (i32.const 4300) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 5000))
    (if (i32.load8_u (i32.const 5000)) (then unreachable))
    (call $drop (i32.load (i32.const 5004))))"#,
        bytes = side * side * 4
    )
}

/// Some milliseconds of honest work, in the guest and in tensor ops, then its input.
pub fn good() -> Vec<u8> {
    let predict = r#"
  (func $predict (param $p i32) (param $n i32) (result i32) (local $i i32) (local $x i64)
    (call $matrix)
    (call $multiply) (call $multiply)
    (local.set $x (i64.const 1))
    (loop $work
      (local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (br_if $work (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 2000000))))
    (i64.store (i32.const 4200) (local.get $x))
    (call $ok (local.get $p) (local.get $n)))"#;
    maquette_fixtures::component(TENSORS, &format!("{predict}{}", products(256)))
}

/// Guests that take what they can get until they are stopped: a name, the component, and how its calls may end.
pub fn hostile() -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let predict = |body: &str| format!("(func $predict (param $p i32) (param $n i32) (result i32) {body} unreachable)");
    let matrices = |side, body: &str| predict(body) + &products(side);
    let caches = r#"
  (import "maquette:model/kv-cache@0.1.0" "[static]cache.create" (func $create (param i32 i32 i32 i32 i32 i32)))"#;
    let stopped: &[&str] = &["timeout"];
    let refused: &[&str] = &["quota", "timeout"];
    // They trap when an op is refused, which may be because time is over.
    let gives_up: &[&str] = &["internal", "timeout"];
    let touch = "(loop $more
      (local.set $n (memory.grow (i32.const 16)))
      (if (i32.ge_s (local.get $n) (i32.const 0)) (then
        (memory.fill (i32.mul (local.get $n) (i32.const 65536)) (i32.const 1) (i32.const 1048576))
        (br $more))))";
    let cases: [(&str, &str, String, &[&str]); 11] = [
        ("loops", "", predict("(loop $forever (br $forever))"), stopped),
        ("grows", "", predict(touch), refused),
        (
            "fills",
            "",
            predict(
                "(drop (memory.grow (i32.const 1000)))
                 (loop $forever (memory.fill (i32.const 65536) (i32.const 7) (i32.const 60000000)) (br $forever))",
            ),
            stopped,
        ),
        (
            "recurses",
            "",
            "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))".to_owned() + &predict("(drop (call $deep))"),
            refused,
        ),
        ("traps", "", predict(""), &["internal"]),
        (
            "uploads",
            TENSORS,
            matrices(
                256,
                "(loop $more (call $matrix) (br_if $more (i32.eqz (i32.load8_u (i32.const 5000)))))",
            ),
            &["quota", "internal", "timeout"],
        ),
        (
            "floods-ops",
            TENSORS,
            matrices(2, "(call $matrix) (loop $forever (call $multiply) (br $forever))"),
            gives_up,
        ),
        (
            "multiplies",
            TENSORS,
            matrices(2048, "(call $matrix) (loop $forever (call $multiply) (br $forever))"),
            gives_up,
        ),
        (
            "logs",
            IMPORTS,
            predict("(loop $forever (call $log (i32.const 1) (i32.const 0) (i32.const 4096)) (br $forever))"),
            stopped,
        ),
        (
            "emits",
            IMPORTS,
            predict(
                r#"(loop $more (call $emit (i32.const 4096) (i32.const 1) (i32.const 5000)) (br $more))"#,
            ) + r#"(data (i32.const 4096) "7")"#,
            stopped,
        ),
        (
            "caches",
            caches,
            predict(
                "(loop $more
                   (call $create (i32.const 1024) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const -1) (i32.const 5000))
                   (br $more))",
            ),
            stopped,
        ),
    ];
    let made = cases.map(|(name, imports, text, codes)| (name, maquette_fixtures::component(imports, &text), codes));
    made.into()
}
