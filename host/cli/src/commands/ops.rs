//! `maquette ops`: the op table, from which the tensor interface, its checks and this documentation all come.

use maquette_ops::{Accepts, AttrKind, AttrSpec, InputSpec, Occurs, OpSpec};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  maquette ops                 every op in a line
  maquette ops softmax/1       one op
  maquette ops --json          the table for a program";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only this op, such as `softmax/1` or `softmax`.
    name: Option<String>,
}

/// Prints the table or a row of it.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let Some(name) = &args.name else {
        let table: Vec<Value> = maquette_ops::table().iter().map(to_json).collect();
        return ui.result(&json!({ "ops": table }), |ui| {
            let rows = maquette_ops::table()
                .iter()
                .map(|op| (signature(op), summary(op), devices(op)));
            let width = maquette_ops::table()
                .iter()
                .map(|op| signature(op).chars().count())
                .max()
                .unwrap_or(0)
                .min(56);
            rows.map(|(signature, summary, devices)| {
                let pad = " ".repeat(width.saturating_sub(signature.chars().count()));
                format!("{}{pad}  {devices:<8}  {summary}\n", ui.strong(&signature))
            })
            .collect()
        });
    };
    let full = if name.contains('/') {
        name.clone()
    } else {
        format!("{name}/1")
    };
    let id =
        maquette_ops::lookup(&full).map_err(|e| Failure::usage(e.message).help("`maquette ops` lists them all"))?;
    let op = maquette_ops::spec(id).ok_or_else(|| Failure::usage(format!("there is no op `{name}`")))?;
    ui.result(&to_json(op), |ui| {
        let mut out = format!("{}\n{}\n", ui.strong(&signature(op)), op.doc);
        out.push_str(&format!("  {:<10} {}\n", "devices", devices(op)));
        for input in op.inputs {
            out.push_str(&format!("  {:<10} {}\n", input.name, describe_input(input)));
        }
        for attr in op.attrs {
            out.push_str(&format!("  {:<10} {}\n", attr.name, describe_attr(attr)));
        }
        out
    })
}

fn signature(op: &OpSpec) -> String {
    let inputs = op.inputs.iter().map(|i| match i.occurs {
        Occurs::Once => i.name.to_owned(),
        Occurs::Optional => format!("{}?", i.name),
        Occurs::Repeated => format!("{}…", i.name),
    });
    let attrs = op.attrs.iter().map(|a| match default(a) {
        Some(default) => format!("{}={default}", a.name),
        None => a.name.to_owned(),
    });
    let (inputs, attrs) = (
        inputs.collect::<Vec<_>>().join(", "),
        attrs.collect::<Vec<_>>().join(", "),
    );
    let gap = if attrs.is_empty() || inputs.is_empty() { "" } else { " " };
    let semicolon = if attrs.is_empty() { "" } else { ";" };
    format!("{}({inputs}{semicolon}{gap}{attrs})", op.name)
}

/// Where it runs.
fn devices(op: &OpSpec) -> &'static str {
    if op.has_cuda() { "cpu cuda" } else { "cpu" }
}

/// The first sentence.
fn summary(op: &OpSpec) -> &str {
    op.doc
        .split_once(". ")
        .map_or(op.doc, |(first, _)| first)
        .trim_end_matches('.')
}

fn default(attr: &AttrSpec) -> Option<String> {
    match attr.kind {
        AttrKind::Flag(flag) => Some(flag.to_string()),
        AttrKind::Axis(axis) => axis.map(|a| a.to_string()),
        AttrKind::Float(float) => float.map(|f| f.to_string()),
        AttrKind::Int(int) => int.map(|i| i.to_string()),
        AttrKind::Pair(pair) => pair.map(|[y, x]| format!("[{y}, {x}]")),
        AttrKind::Padding => Some("0".to_owned()),
        AttrKind::Axes => Some("all".to_owned()),
        AttrKind::DType(dtype) => dtype.map(|d| d.name().to_owned()),
        AttrKind::Shape | AttrKind::Size => None,
    }
}

fn accepts(accepts: Accepts) -> &'static str {
    match accepts {
        Accepts::Float => "f32, f16 or bf16",
        Accepts::Any => "any dtype",
        Accepts::Index => "u8, u32 or i64",
    }
}

fn describe_input(input: &InputSpec) -> String {
    let occurs = match input.occurs {
        Occurs::Once => "",
        Occurs::Optional => ", optional",
        Occurs::Repeated => ", one or more",
    };
    format!("tensor, {}{occurs}", accepts(input.accepts))
}

fn kind(kind: AttrKind) -> &'static str {
    match kind {
        AttrKind::Flag(_) => "flag",
        AttrKind::Axis(_) => "axis",
        AttrKind::Float(_) => "float",
        AttrKind::Int(_) => "integer",
        AttrKind::Pair(_) => "pair",
        AttrKind::Padding => "padding",
        AttrKind::Axes => "axes",
        AttrKind::Shape => "shape",
        AttrKind::Size => "size",
        AttrKind::DType(_) => "dtype",
    }
}

fn describe_attr(attr: &AttrSpec) -> String {
    match default(attr) {
        Some(default) => format!("{}, {default} unless given", kind(attr.kind)),
        None => format!("{}, required", kind(attr.kind)),
    }
}

fn to_json(op: &OpSpec) -> Value {
    let inputs = op.inputs.iter().map(|i| {
        json!({"name": i.name, "dtypes": accepts(i.accepts), "optional": i.occurs == Occurs::Optional, "repeated": i.occurs == Occurs::Repeated})
    });
    let attrs = op
        .attrs
        .iter()
        .map(|a| json!({"name": a.name, "kind": kind(a.kind), "default": default(a)}));
    json!({
        "name": op.name,
        "doc": op.doc,
        "cuda": op.has_cuda(),
        "inputs": inputs.collect::<Vec<_>>(),
        "attrs": attrs.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn op(name: &str) -> &'static OpSpec {
        maquette_ops::spec(maquette_ops::lookup(name).unwrap()).unwrap()
    }

    #[test]
    fn signatures_show_inputs_attributes_and_defaults() {
        assert_eq!(signature(op("matmul/1")), "matmul/1(a, b)");
        assert_eq!(signature(op("softmax/1")), "softmax/1(x; dim=-1)");
        assert!(signature(op("cat/1")).starts_with("cat/1(") && signature(op("cat/1")).contains('…'));
    }

    #[test]
    fn every_op_is_documented_in_both_forms() {
        for op in maquette_ops::table() {
            assert!(!summary(op).is_empty(), "{}", op.name);
            assert_eq!(to_json(op)["name"], op.name);
            assert_eq!(to_json(op)["cuda"], op.has_cuda());
            assert_eq!(devices(op).contains("cuda"), op.has_cuda());
        }
    }
}
