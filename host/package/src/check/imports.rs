//! What a component imports: parts of the contract, the WASI that start-up code needs, and what it may not have.

use wit_parser::{Resolve, WorldItem};

use super::contract::{Contract, Name};
use super::{Report, signature};
use crate::names;

/// The WASI 0.2 interfaces that the host links. They reach nothing: no file, no argument, no variable, no network.
const WASI: [&str; 20] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// Checks one import of the component.
pub(super) fn check(ours: &Contract, theirs: &Resolve, full: &str, item: &WorldItem, report: &mut Report) {
    let name = Name::parse(full);
    let place = format!("import `{full}`");
    let WorldItem::Interface { id, .. } = item else {
        let help = "it was built for another host; build it with the SDK, for wasm32-wasip2";
        report.error(
            format!("the component imports the function `{full}`, which no model may use"),
            &place,
            help,
        );
        return;
    };
    if name.package == "maquette:model" {
        contract_import(ours, theirs, &name, *id, &place, report);
    } else if !allowed_wasi(&name) {
        let (cause, help) = cause(&name);
        report.error(
            format!("the component imports `{full}`, which no model may use{cause}"),
            &place,
            help,
        );
    }
}

/// Words for two versions of an interface that do not fit together.
pub(super) fn version_help(ours: &Name, theirs: &Name) -> String {
    let newer = theirs.version > ours.version;
    if newer {
        "use a newer Maquette, or build with the SDK of this one (`maquette new` shows which)".to_owned()
    } else {
        "build again with the SDK of this Maquette (`maquette new` shows which)".to_owned()
    }
}

fn contract_import(
    ours: &Contract,
    theirs: &Resolve,
    name: &Name,
    id: wit_parser::InterfaceId,
    place: &str,
    report: &mut Report,
) {
    let Some((our_name, our_id)) = ours.import(name) else {
        let known: Vec<(Name, String)> = ours.imports().map(|(n, _)| (n.clone(), n.interface)).collect();
        let newer = name.version > known.first().and_then(|(n, _)| n.version.clone());
        let near = names::nearest(&name.interface, known.iter().map(|(_, interface)| interface.as_str()));
        let help = match near {
            _ if newer => "it was built with a newer SDK: use a newer Maquette, or the SDK of this one".to_owned(),
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let all: Vec<&str> = known.iter().map(|(_, interface)| interface.as_str()).collect();
                format!("the interfaces there are: {}", all.join(", "))
            }
        };
        report.error(format!("this host has no interface `{name}`"), place, help);
        return;
    };
    if !our_name.serves(name) {
        let what = format!("the component imports `{name}`, this host has `{our_name}`");
        report.error(what, place, version_help(&our_name, name));
        return;
    }
    let (has, wants) = (&ours.resolve.interfaces[our_id], &theirs.interfaces[id]);
    for (function, wanted) in &wants.functions {
        match has.functions.get(function) {
            Some(expected) => signature::check(&ours.resolve, expected, theirs, wanted, place, report),
            None => {
                let shown = signature::name(theirs, wanted);
                let help = if name.version > our_name.version {
                    format!("the component was built for {name}, this host has {our_name}: use a newer Maquette")
                } else {
                    let near = names::nearest(function, has.functions.keys().map(String::as_str));
                    let near = near
                        .and_then(|n| has.functions.get(n))
                        .map(|f| signature::name(&ours.resolve, f));
                    near.map_or_else(
                        || version_help(&our_name, name),
                        |near| format!("did you mean `{near}`?"),
                    )
                };
                report.error(
                    format!("this host's `{our_name}` has no function `{shown}`"),
                    place,
                    help,
                );
            }
        }
    }
}

fn allowed_wasi(name: &Name) -> bool {
    let listed = WASI.contains(&format!("{}/{}", name.package, name.interface).as_str());
    listed && name.version.as_ref().is_some_and(|v| v.major == 0 && v.minor == 2)
}

/// The likely cause of an import that is not allowed, and what to do.
fn cause(name: &Name) -> (&'static str, &'static str) {
    let other_version = WASI.contains(&format!("{}/{}", name.package, name.interface).as_str());
    match name.package.as_str() {
        _ if other_version => (
            ": the host has WASI 0.2",
            "build for wasm32-wasip2 with the tools that `maquette doctor` names",
        ),
        "wasi:sockets" => (
            " (`std::net`, or a crate that opens connections)",
            "models have no network: take what you need as input, or ship it in [weights] or [assets]; `cargo tree` shows which \
             crate it is",
        ),
        "wasi:http" => (
            " (an HTTP client)",
            "models have no network: take what you need as input, or ship it in [weights] or [assets]",
        ),
        "wasi:filesystem" => (
            " (`std::fs`)",
            "models have no files: ship data in [assets] of maquette.toml and read it with the SDK's `assets`",
        ),
        "wasi:nn" => (
            " (another host's inference)",
            "use the SDK's `Tensor` and `nn`: they run on the host",
        ),
        "wasi:keyvalue" | "wasi:blobstore" | "wasi:config" | "wasi:messaging" => (
            " (another host's services)",
            "each call starts from the same state: take what you need as input, or ship it in [assets]",
        ),
        "wasi:logging" => ("", "write to stderr, or use the SDK's `log`"),
        package if package.starts_with("wasi:") => (
            "",
            "only what languages' start-up needs of WASI 0.2 is there; `cargo tree` shows which crate wants more",
        ),
        "" => (
            " (code for another host, such as a browser)",
            "look for a crate feature named `js` or `wasm-bindgen` in `cargo tree -e features` and switch it off",
        ),
        _ => (
            " (an interface of another host)",
            "build with the SDK alone: models use `maquette:model` and a part of WASI 0.2",
        ),
    }
}
