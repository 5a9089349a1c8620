//! Which imports a component may have: those of the world `model` and the allowed part of WASI, checked by name before
//! anything is compiled.

use std::collections::BTreeSet;

use wasmparser::{ComponentExternalKind, Encoding, Parser, Payload};

use crate::error::Error;

/// The largest component that is looked at.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// The interfaces of the contract, without a version.
const CONTRACT: &[&str] = &[
    "maquette:model/types",
    "maquette:model/tensors",
    "maquette:model/programs",
    "maquette:model/kv-cache",
    "maquette:model/weights",
    "maquette:model/assets",
    "maquette:model/files",
    "maquette:model/run",
];

/// What every component has to export, without a version.
const EXPORT: &str = "maquette:model/predictor";

/// Refuses what is no component, what imports anything outside the world (by name), and what does not export a predictor. Returns the
/// interfaces that it imports, without versions, sorted.
///
/// # Errors
/// With [`crate::ErrorKind::Component`], naming the import and what to do instead.
pub fn check_imports(wasm: &[u8]) -> Result<Vec<String>, Error> {
    if wasm.len() as u64 > MAX_COMPONENT_BYTES {
        return Err(Error::component(format!(
            "the component is {} bytes, the limit is {MAX_COMPONENT_BYTES}: put data into [weights] or [assets] instead of the code",
            wasm.len()
        )));
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(Error::component(
            "this is not WebAssembly: send the .wasm file that `maquette build` makes, neither packed nor compiled for a machine (.cwasm)",
        ));
    }
    let mut exports_predictor = false;
    let mut imports = BTreeSet::new();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(malformed)? {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => {
                return Err(Error::component(
                    "this is a core module, not a component: build it for the target wasm32-wasip2, as `maquette build` does",
                ));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let name = import.map_err(malformed)?.name.name;
                    check_import(name)?;
                    imports.insert(unversioned(name).to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    exports_predictor |=
                        export.kind == ComponentExternalKind::Instance && unversioned(export.name.name) == EXPORT;
                }
            }
            _ => {}
        }
    }
    if exports_predictor {
        Ok(imports.into_iter().collect())
    } else {
        Err(Error::component(format!(
            "the component does not export `{EXPORT}`: in Rust, implement `Model` and write `maquette::export!(YourModel);`"
        )))
    }
}

/// What is no well-formed WebAssembly.
pub(crate) fn malformed(e: wasmparser::BinaryReaderError) -> Error {
    Error::component(format!(
        "the component is not valid: {} at byte {:#x}; it is damaged or cut off: build it and send it again",
        e.message(),
        e.offset()
    ))
}

fn unversioned(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

fn check_import(name: &str) -> Result<(), Error> {
    let interface = unversioned(name);
    if CONTRACT.contains(&interface) || crate::wasi::ALLOWED.contains(&interface) {
        return Ok(());
    }
    let help = match interface.split('/').next() {
        Some("wasi:sockets" | "wasi:http") => "models have no network: send what they need as input, weights or assets",
        Some("wasi:filesystem") => "models have no files: read [assets] with `assets.read`",
        Some("maquette:model") => {
            "this host is older than the SDK that built the component: upgrade the host or use an older SDK"
        }
        _ => {
            "a model may import only `maquette:model/*` and what std needs of WASI 0.2: remove the dependency that pulls it in"
        }
    };
    Err(Error::component(format!(
        "the component imports `{name}`, which models may not use; {help}"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(wat: &str) -> String {
        check_imports(&wat::parse_str(wat).unwrap()).unwrap_err().message
    }

    #[test]
    fn an_import_outside_the_world_is_refused_by_name() {
        let message = refusal(r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#);
        assert!(
            message.contains("`wasi:sockets/tcp@0.2.0`") && message.contains("no network"),
            "{message}"
        );
        let message = refusal(r#"(component (import "evil" (func)))"#);
        assert!(message.contains("`evil`"), "{message}");
        let message = refusal(r#"(component (import "maquette:model/teleport@0.1.9" (instance)))"#);
        assert!(message.contains("upgrade the host"), "{message}");
    }

    #[test]
    fn what_is_no_model_component_is_refused() {
        assert!(refusal("(module)").contains("core module"));
        assert!(refusal("(component)").contains("does not export `maquette:model/predictor`"));
        assert!(
            check_imports(b"\0asm garbage")
                .unwrap_err()
                .message
                .starts_with("the component is not valid: ")
        );
        for other in [&b""[..], b"\0as", b"PK\x03\x04", b"\x7fELF", b"(component)"] {
            assert!(
                check_imports(other)
                    .unwrap_err()
                    .message
                    .starts_with("this is not WebAssembly: ")
            );
        }
    }
}
