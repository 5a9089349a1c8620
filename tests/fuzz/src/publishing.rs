//! The bodies of publishing: a version with its id and aliases, a question for blobs, an alias.

use maquette_server::fuzzing;

pub(crate) fn run(data: &[u8]) {
    if let Ok(id) = fuzzing::version("acme/demo", data) {
        assert_eq!(id.len(), 64);
        assert_eq!(fuzzing::version("acme/demo", data).unwrap(), id);
        assert!(
            fuzzing::version("acme/other", data).is_err(),
            "the path and the manifest name two models"
        );
    }
    fuzzing::publishing(data);
}
