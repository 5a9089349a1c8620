//! Whether a component fits the world `model`: a diff in words that a contributor understands.
//!
//! The contract is what `wit/` says; what languages' start-up code takes from WASI is allowed beside it. Nothing is run here, and
//! nothing compiled: this takes milliseconds and is safe on any bytes.

mod contract;
mod imports;
mod magic;
mod signature;

use std::fmt;

use serde::Serialize;
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{Resolve, WorldItem, WorldKey};

use crate::version::MAX_COMPONENT;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The host would refuse the component.
    Error,
    /// It would run, but perhaps not as meant.
    Warning,
}

/// Something about a component that should be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// Which part of the component it is about.
    #[serde(rename = "where")]
    pub where_: String,
    /// How to fix it.
    pub help: String,
}

/// What a check found. Displays as a list of problems, each with its place and the way out; empty if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Errors first.
    pub problems: Vec<Problem>,
    /// The size of the component in bytes.
    pub size: u64,
    /// The interfaces that it imports, such as `maquette:model/tensors@0.1.0`.
    pub imports: Vec<String>,
    /// The interfaces and functions that it exports.
    pub exports: Vec<String>,
}

/// Compares a component with the world `model`.
pub fn check(wasm: &[u8]) -> Report {
    let mut report = Report {
        size: wasm.len() as u64,
        ..Report::default()
    };
    if report.size > MAX_COMPONENT {
        let what = format!(
            "the component has {:.1} MiB, at most {} MiB are allowed",
            mib(report.size),
            MAX_COMPONENT >> 20
        );
        let help = "move data into [weights] or [assets] of maquette.toml; build with `lto = true` and `strip = true`";
        report.error(what, "the file", help);
        return report;
    }
    if let Err(problem) = magic::check(wasm) {
        report.problems.push(problem);
        return report;
    }
    if let Err(problem) = magic::validate(wasm) {
        report.problems.push(problem);
        return report;
    }
    match decode(wasm) {
        Ok(DecodedWasm::Component(resolve, world)) => compare(&resolve, world, &mut report),
        Ok(DecodedWasm::WitPackage(..)) => {
            let help = "this is the encoded form of .wit files; name the component that was built from code";
            report.error("this is a WIT package, not a component", "the file", help);
        }
        Err(why) => {
            let help = "build it with the SDK, or with a tool that makes components for a WIT world";
            report.error(
                format!("the component's types cannot be read: {why}"),
                "its imports and exports",
                help,
            );
        }
    }
    report.problems.sort_by_key(|p| p.severity);
    report
}

fn compare(theirs: &Resolve, world: wit_parser::WorldId, report: &mut Report) {
    let ours = match contract::contract() {
        Ok(ours) => ours,
        Err(why) => {
            report.error(
                format!("this build's own contract cannot be read: {why}"),
                "maquette",
                "report this as a bug",
            );
            return;
        }
    };
    let world = &theirs.worlds[world];
    for (key, item) in &world.imports {
        let name = theirs.name_world_key(key);
        // A type of the world itself is no import that a host has to provide.
        if !matches!(item, WorldItem::Type { .. }) {
            report.imports.push(name.clone());
            imports::check(&ours, theirs, &name, item, report);
        }
    }
    for (key, item) in &world.exports {
        report.exports.push(theirs.name_world_key(key));
        if let WorldItem::Interface { id, .. } = item {
            export(&ours, theirs, key, *id, report);
        }
    }
    for needed in ours.exports() {
        let there = world
            .exports
            .keys()
            .any(|key| contract::Name::parse(&theirs.name_world_key(key)).bare() == needed.bare());
        if !there {
            let help = "end src/lib.rs with `maquette_sdk::export!(YourModel);` and build a `cdylib`";
            report.error(format!("the component does not export `{needed}`"), "exports", help);
        }
    }
}

fn export(
    ours: &contract::Contract,
    theirs: &Resolve,
    key: &WorldKey,
    id: wit_parser::InterfaceId,
    report: &mut Report,
) {
    let full = theirs.name_world_key(key);
    let name = contract::Name::parse(&full);
    let place = format!("export `{full}`");
    let Some((our_name, our_id)) = ours.export(&name) else {
        report.warning(
            format!("the host never calls `{full}`"),
            &place,
            "nothing, if it is meant for another host; the host calls only `maquette:model/predictor`",
        );
        return;
    };
    if !our_name.serves(&name) {
        let what = format!("the component exports `{full}`, this host calls `{our_name}`");
        report.error(what, &place, imports::version_help(&our_name, &name));
        return;
    }
    let (expected, found) = (&ours.resolve.interfaces[our_id], &theirs.interfaces[id]);
    for (function, wanted) in &expected.functions {
        match found.functions.get(function) {
            None => report.error(
                format!("`{function}` is missing in the export `{full}`"),
                &place,
                "implement all of `describe`, `load` and `predict`; the SDK's `export!` does",
            ),
            Some(function) => signature::check(&ours.resolve, wanted, theirs, function, &place, report),
        }
    }
}

impl Report {
    /// Whether the host would take the component: no problem is an error.
    pub fn ok(&self) -> bool {
        self.errors().next().is_none()
    }

    /// The problems for which the host would refuse the component.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity == Severity::Error)
    }

    /// The errors in one line.
    pub fn summary(&self) -> String {
        let errors: Vec<&Problem> = self.errors().collect();
        match errors.as_slice() {
            [] => "no problem".to_owned(),
            [one] => format!("{}; {}", first_line(&one.what), first_line(&one.help)),
            [one, more @ ..] => format!(
                "{}; {} (and {} more)",
                first_line(&one.what),
                first_line(&one.help),
                more.len()
            ),
        }
    }

    fn error(&mut self, what: impl Into<String>, place: &str, help: impl Into<String>) {
        self.push(Severity::Error, what.into(), place, help.into());
    }

    fn warning(&mut self, what: impl Into<String>, place: &str, help: impl Into<String>) {
        self.push(Severity::Warning, what.into(), place, help.into());
    }

    fn push(&mut self, severity: Severity, what: String, place: &str, help: String) {
        self.problems.push(Problem {
            severity,
            what,
            where_: place.to_owned(),
            help,
        });
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(
            f,
            "{kind}: {}\n  --> {}\n  = help: {}",
            self.what, self.where_, self.help
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[allow(clippy::cast_precision_loss)] // For people to read.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
pub(crate) mod tests;
