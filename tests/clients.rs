//! Today's Replicate clients work by changing the base URL: the official ones, as they are published, drive the real server.
//!
//! What each of them is held to stands in its script in `clients/`; a script prints a line a check, and every one has to have run.
//!
//! Beside them Schemathesis sends what nobody would. `MAQUETTE_EXAMPLES=200 cargo test --workspace --test clients whatever` lets it send more.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

#[path = "clients/install.rs"]
mod install;
#[path = "clients/serve.rs"]
mod serve;

use install::Kit;
use serve::{Mode, Serving};
use support::random::setting;

/// Runs the checks of a client against a server in each mode, one after the other on one data folder.
fn hold(kit: Kit, script: &str, expected: [(Mode, usize); 4]) {
    // What is missing on this machine is better known at once.
    kit.install();
    let data = serve::published();
    for (mode, checks) in expected {
        let server = Serving::start(mode, data.path());
        let (passed, said) = server.run(kit, script);
        drop(server);
        assert!(passed, "{script} against {mode:?}:\n{said}");
        let ran = said.lines().filter(|line| line.starts_with("ok ")).count();
        assert_eq!(
            ran, checks,
            "{script} against {mode:?} ran other checks than there are:\n{said}"
        );
    }
}

#[test]
fn python_1_works_by_changing_the_base_url() {
    hold(
        Kit::Python1,
        "python1.py",
        [
            (Mode::Http, 27),
            (Mode::Https, 6),
            (Mode::Full, 1),
            (Mode::Stumbling, 4),
        ],
    );
}

#[test]
fn python_2_works_by_changing_the_base_url() {
    hold(
        Kit::Python2,
        "python2.py",
        [
            (Mode::Http, 27),
            (Mode::Https, 6),
            (Mode::Full, 2),
            (Mode::Stumbling, 3),
        ],
    );
}

#[test]
fn javascript_works_by_changing_the_base_url() {
    hold(
        Kit::JavaScript,
        "javascript.mjs",
        [
            (Mode::Http, 24),
            (Mode::Https, 5),
            (Mode::Full, 2),
            (Mode::Stumbling, 3),
        ],
    );
}

#[test]
fn whatever_a_client_sends_is_answered_as_the_document_says_and_never_with_an_error_of_the_servers() {
    Kit::Schemathesis.install();
    let data = serve::published();
    let server = Serving::start(Mode::Http, data.path());
    let (passed, said) = server.fuzz(setting("MAQUETTE_EXAMPLES", 5));
    assert!(passed, "{said}");
    // The operations of the document, each tried.
    let tested = said.lines().find_map(|line| line.trim().strip_prefix("Tested: "));
    let tested: usize = tested.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(tested >= 55, "{said}");
}
