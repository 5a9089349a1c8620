//! What a hostile guest gets, and that the host is well afterwards.
//!
//! The cases, and the tests that prove them; those without a path are in this folder.
//!
//! | case | test |
//! |---|---|
//! | 1 a loop in predict | `a_guest_that_loops_is_stopped_at_its_deadline` |
//! | 2 a loop in load | `a_load_that_loops_is_refused` |
//! | 3 a loop in a start function | `a_start_function_that_loops_is_refused` |
//! | 4 a loop in the allocator | `an_allocator_that_loops_is_stopped_at_the_deadline` |
//! | 5 a loop in a destructor | `a_destructor_that_loops_is_stopped_at_the_deadline`, `a_destructor_that_loops_is_not_run_for_what_a_guest_left_behind` |
//! | 6 a loop after the return | `a_post_return_that_loops_is_stopped_at_the_deadline` |
//! | 7 a slow drip | `a_guest_that_calls_the_host_forever_is_stopped` |
//! | 8 bulk fills and copies | `bulk_fills_and_copies_in_a_loop_are_stopped`, `an_instruction_over_much_memory_is_looked_at_in_the_middle` |
//! | 9 sleeps and polls | `a_sleeping_guest_ends_with_its_deadline`, `a_poll_on_nothing_ends_the_sandbox`, `a_guest_that_floods_sleeps_is_ended` |
//! | 10 recursion | `a_guest_that_recurses_without_end_is_stopped` |
//! | 11 recursion through the host | `a_recursion_through_the_host_is_stopped` |
//! | 12 blow-up of a tokenizer or pattern | `an_input_that_blows_up_a_pattern_is_stopped_and_others_are_served` |
//! | 13 growth to the limit | `growth_beyond_the_limit_fails_in_a_way_the_guest_can_handle` |
//! | 14 growth without end | `a_guest_that_grows_meets_its_limit_and_the_caller_is_told` |
//! | 15 many memories | `many_memories_share_one_limit`, `more_memories_or_tables_than_a_sandbox_may_take_are_refused` |
//! | 16 many core instances | `more_core_instances_than_a_sandbox_may_take_are_refused`, `a_sandbox_that_takes_all_it_may_leaves_its_neighbours_their_room` |
//! | 17 a large initial memory | `an_initial_memory_beyond_the_limit_is_refused` |
//! | 18, 19 huge tables | `a_huge_table_is_refused_and_not_allocated`, `tables_count_with_memories_and_growth_beyond_fails` |
//! | 20 a data segment that does not fit | `a_data_segment_beyond_the_memory_is_refused`, `a_component_over_the_size_limit_is_refused_unread` |
//! | 21 tensors until refused | `tensors_are_refused_beyond_the_budget_and_the_guest_may_go_on` |
//! | 22 create and drop | `tensors_created_and_dropped_without_end_cost_what_one_costs` |
//! | 23, 24, 25 shapes that overflow or lie | `a_shape_whose_product_overflows_or_does_not_match_is_an_error`; `host/tensor/tests/hostile.rs`: `shapes_whose_product_wraps_around_are_refused`, `data_of_the_wrong_length_is_refused`, `empty_dimensions_are_computed_or_refused_but_never_crash` |
//! | 26 a terabyte | `host/tensor/tests/hostile.rs`: `a_huge_shape_is_refused_before_it_is_allocated` |
//! | 27, 28 amplification | `host/tensor/tests/hostile.rs`: `a_few_bytes_cannot_be_amplified_past_the_budget` |
//! | 29 handles leaked by a trap | `../leftovers.rs`: `ten_thousand_hostile_calls_leave_the_process_as_it_was` |
//! | 30 forged and dropped handles | `a_forged_or_dropped_handle_ends_the_sandbox`, `the_same_handle_twice_is_one_tensor_and_another_kinds_handle_is_refused` |
//! | 31 the same handle twice | `the_same_handle_twice_is_one_tensor_and_another_kinds_handle_is_refused`; `host/tensor/tests/caches.rs` for caches |
//! | 32 a borrow kept | `a_borrow_that_is_kept_past_its_call_ends_the_sandbox` |
//! | 33 a flood of handles | `a_flood_of_tensor_handles_is_refused_at_65536`, `a_flood_of_caches_or_forks_is_paid_for`, `programs_that_a_sandbox_holds_are_bounded_whatever_the_cache_does`; `host/tensor/tests/programs.rs`: `who_compiles_many_programs_pushes_out_their_own` |
//! | 34, 35 long arguments | `arguments_that_repeat_the_same_bytes_are_counted_each_time`, `an_upload_from_beyond_the_guests_memory_ends_the_sandbox` |
//! | 36 a long name | `a_long_name_is_quoted_back_and_harms_nobody` |
//! | 37 resources of the guest's own | `a_flood_of_the_guests_own_resources_ends_the_sandbox` |
//! | 38 an op that a device has no memory for | as case 26; `host/tensor/tests/gpu.rs`: `a_gpu_whose_memory_is_all_in_use_refuses_and_goes_on` |
//! | 39, 40 what kernels panic on | `host/tensor/tests/hostile.rs`: `no_op_crashes_on_any_shapes_dtypes_or_attributes`, `no_op_of_images_crashes_on_any_sizes`, `division_by_zero_and_not_a_number_never_crash`, `ids_past_the_rows_are_the_callers_fault` |
//! | 41 a flood of ops | `a_flood_of_small_ops_is_counted_and_ends_at_the_deadline` |
//! | 42 a caller who leaves | `a_cancelled_call_stops_within_a_tick_or_so`; `host/tensor/tests/hostile.rs`: `nothing_starts_after_the_deadline_or_a_cancel`; one op: `an_op_that_takes_long_is_left_at_the_deadline_and_the_caller_is_told_so_whatever_the_guest_does_then`, `an_op_that_is_left_because_the_caller_left_is_a_cancelled_call_whatever_the_guest_does_then`; `host/tensor/tests/stops.rs` |
//! | 43 another tenant's memory | `a_pattern_that_a_call_leaves_in_its_memory_is_in_no_later_call`; `host/tensor/tests/leaks.rs` |
//! | 44 a flood of output | `a_flood_of_standard_output_is_dropped_and_counted`, `a_log_flood_is_bounded_and_counted`, `streamed_items_are_bounded_in_bytes_and_in_number`, `output_files_are_bounded_together`, `a_flood_of_metrics_keeps_32_and_notes_the_rest_within_the_log` |
//! | 45 forged log lines | `a_forged_log_line_or_an_escape_sequence_is_tamed_wherever_it_comes_from`, `a_name_in_a_backtrace_is_cut_and_cannot_drive_a_terminal` |
//! | 46 outputs that are no JSON | `an_output_that_is_not_json_or_too_large_is_refused`, `not_a_number_and_deep_json_are_errors`, `an_output_that_is_not_utf8_ends_the_sandbox`, `an_output_beyond_the_guests_memory_ends_the_sandbox_and_nothing_else` |
//! | 47 a long error message | `an_error_message_is_cut_and_tamed_in_predict_and_in_load` |
//! | 48 hostile descriptions | `a_description_that_is_long_or_forged_is_refused`; `host/package/src/version/tests.rs` for manifests |
//! | 49 WASI that reaches out | `the_network_is_refused_by_name`; `host/package/src/check/tests.rs`: `imports_outside_the_world_are_named_with_cause_and_help` |
//! | 50, 51 unknown and newer imports | `host/package/src/check/tests.rs`: the same, `an_import_of_a_later_patch_that_this_host_can_serve_is_no_problem`, `a_component_of_another_minor_version_is_told_which_side_to_renew` |
//! | 52 environment, arguments, folder | `the_environment_arguments_folder_and_files_are_empty`, `standard_input_is_empty` |
//! | 53, 54 what belongs to others, paths | `assets_and_weights_of_other_names_are_not_found_whatever_the_name` |
//! | 55 clocks | `clocks_are_no_finer_than_a_millisecond` |
//! | 56 random bytes | `random_bytes_are_bounded` |
//! | 57 broken binaries | `a_component_cut_anywhere_or_with_a_byte_changed_is_refused_or_harmless`, `nested_components_instances_and_sections_without_end_are_refused`, `a_large_custom_section_is_not_kept`, `a_core_module_and_compiled_code_are_refused`; `host/server/tests/bombs.rs`; of archives the server reads none, and what is fetched is counted as it unpacks: `host/server/src/outbound/tests.rs`: `compressed_answers_are_counted_as_they_unpack` |
//! | 58 compiled code uploaded | `a_core_module_and_compiled_code_are_refused`; `host/server/tests/bombs.rs` |
//! | 59 compiled code changed on disk | `a_tampered_cache_is_never_run_and_is_rebuilt` |
//! | 60 a tag that moved | `host/package/src/blobs/tests.rs`: `bytes_with_another_digest_are_refused_and_leave_nothing`; versions are named by digest |
//! | 61 a bomb for the compiler | `host/server/tests/publish.rs`: `a_component_that_wastes_the_compilers_time_is_refused`; `host/server/tests/bombs.rs`: `bombs_are_refused_within_limits_and_the_next_publish_is_served` |
//! | 62 a trap on every call | `a_version_that_traps_on_every_call_harms_no_neighbour`; `host/server/tests/quarantine.rs`; `tests/neighbours.rs`: `a_good_plugin_waits_for_no_hostile_call_beside_it` |
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod binary;
mod device;
mod escape;
mod guest_memory;
mod host_memory;
mod lifecycle;
mod output;
mod resources;
mod time;

use common::hostile::{RULE, TENSORS, ended, told, well};
use common::{Host, limits};
use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Code, Error, ErrorKind, Failure, Limits, Outcome, Report};

#[test]
fn every_test_that_the_table_names_is_where_the_table_says() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let read =
        |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut folder = String::new();
    for file in std::fs::read_dir(&here).unwrap() {
        folder += &read(&file.unwrap().path());
    }
    let mut cases = Vec::new();
    for line in include_str!("main.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
    {
        let (case, proofs) = line.split_once(" | ").unwrap();
        let numbers = case.split([' ', ',']).map_while(|word| match word {
            "" => Some(None),
            word => word.parse::<u32>().ok().map(Some),
        });
        cases.extend(numbers.flatten());
        for proof in proofs.split(';') {
            let mut text = folder.clone();
            for name in proof.split('`').skip(1).step_by(2) {
                if name.ends_with(".rs") {
                    let base = if name.starts_with("..") {
                        here.clone()
                    } else {
                        here.join("../../../..")
                    };
                    text = read(&base.join(name));
                    continue;
                }
                let at = text
                    .find(&format!("fn {name}("))
                    .unwrap_or_else(|| panic!("case {case}: no `{name}`"));
                let attributes = text[..at].rsplit("\n\n").next().unwrap();
                assert!(attributes.contains("test]"), "case {case}: `{name}` is no test");
            }
        }
    }
    assert_eq!(cases, (1..=62).collect::<Vec<_>>());
}

/// A call of a hostile guest under some limits.
fn called(host: &Host, imports: &str, functions: &str, limits: Limits) -> Outcome {
    let wasm = fixtures::component(imports, functions);
    let (guest, _) = host.try_open(&host.parts(&wasm, limits)).unwrap();
    let call = Call {
        input: "{}".into(),
        ..Call::default()
    };
    ended(host, &guest, call)
}

/// How a call of a hostile guest ends.
fn predict(host: &Host, imports: &str, functions: &str) -> (Failure, Report) {
    let outcome = called(host, imports, functions, limits());
    (outcome.result.unwrap_err(), outcome.report)
}

/// What a call of a hostile guest that goes on all the same returns.
fn survives(host: &Host, imports: &str, functions: &str) -> (String, Report) {
    let outcome = called(host, imports, functions, limits());
    (outcome.result.unwrap().json, outcome.report)
}

/// A call under a host that gives more time than the tests' limits do.
fn patient(host: &Host, imports: &str, functions: &str) -> Outcome {
    let slow = Limits {
        timeout_ms: 20_000,
        ..limits()
    };
    called(host, imports, functions, slow)
}

/// What a guest got from the host that returns the host's answer as its own: the code and text of an error.
fn passed_on(outcome: Outcome) -> (Code, String) {
    let failure = outcome.result.unwrap_err();
    assert_eq!(
        (failure.detail, failure.broke),
        (None, false),
        "it is the guest's own error"
    );
    (failure.code, failure.message)
}

/// Why a hostile component is not accepted.
fn refused(host: &Host, wasm: &[u8]) -> Error {
    let error = host.try_open(&host.parts(wasm, limits())).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Component, "{error}");
    well(host);
    error
}
