//! Functions and types as WIT text, to be compared and to be shown.

use std::collections::BTreeMap;

use wit_parser::{Function, FunctionKind, Handle, Resolve, Type, TypeDefKind, TypeId};

use super::Report;

/// Whether a function of the component is the function of the contract; if not, shows both.
pub(super) fn check(
    ours: &Resolve,
    expected: &Function,
    theirs: &Resolve,
    found: &Function,
    place: &str,
    report: &mut Report,
) {
    if text(ours, expected, Style::Whole) == text(theirs, found, Style::Whole) {
        return;
    }
    let shown = name(ours, expected);
    let (short_expected, short_found) = (text(ours, expected, Style::Named), text(theirs, found, Style::Named));
    let mut what = format!("`{shown}` has another type than in the contract");
    if short_expected == short_found {
        // The same words, but one of them means something else.
        let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
        types(ours, expected, &mut a);
        types(theirs, found, &mut b);
        for (name, expected) in a {
            if let Some(found) = b.get(&name).filter(|found| **found != expected) {
                what.push_str(&format!(
                    "\n  expected: type {name} = {expected}\n  found:    type {name} = {found}"
                ));
            }
        }
    } else {
        what.push_str(&format!("\n  expected: {short_expected}\n  found:    {short_found}"));
    }
    report.error(
        what,
        place,
        "build with the SDK, or with the .wit files, of this Maquette",
    );
}

/// A function's name as code says it: `program.compile` for `[static]program.compile`.
pub(super) fn name(resolve: &Resolve, function: &Function) -> String {
    match function.kind.resource().and_then(|id| resolve.types[id].name.clone()) {
        Some(resource) if matches!(function.kind, FunctionKind::Constructor(_)) => format!("{resource} (constructor)"),
        Some(resource) => format!("{resource}.{}", function.item_name()),
        None => function.name.clone(),
    }
}

/// How types with names are written.
#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// By their names.
    Named,
    /// By what they are, all the way down: equal texts are equal types.
    Whole,
}

fn text(resolve: &Resolve, function: &Function, style: Style) -> String {
    let kind = match function.kind {
        FunctionKind::Static(_) | FunctionKind::AsyncStatic(_) => "static ",
        FunctionKind::Constructor(_) => "constructor ",
        _ => "",
    };
    // A method's first parameter is the resource itself.
    let method = matches!(function.kind, FunctionKind::Method(_) | FunctionKind::AsyncMethod(_));
    let parameters = function.params.iter().skip(usize::from(method));
    let parameters: Vec<String> = parameters
        .map(|p| format!("{}: {}", p.name, ty(resolve, p.ty, style)))
        .collect();
    let wait = if function.kind.is_async() { "async " } else { "" };
    let result = function
        .result
        .map(|t| format!(" -> {}", ty(resolve, t, style)))
        .unwrap_or_default();
    format!(
        "{}: {kind}{wait}func({}){result}",
        function.item_name(),
        parameters.join(", ")
    )
}

fn ty(resolve: &Resolve, ty: Type, style: Style) -> String {
    let simple = match ty {
        Type::Bool => "bool",
        Type::U8 => "u8",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::S8 => "s8",
        Type::S16 => "s16",
        Type::S32 => "s32",
        Type::S64 => "s64",
        Type::F32 => "f32",
        Type::F64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::ErrorContext => "error-context",
        Type::Id(id) => return defined(resolve, id, style),
    };
    simple.to_owned()
}

fn defined(resolve: &Resolve, id: TypeId, style: Style) -> String {
    match &resolve.types[id].name {
        Some(name) if style == Style::Named => name.clone(),
        _ => body(resolve, id, style),
    }
}

/// What a type is.
fn body(resolve: &Resolve, id: TypeId, style: Style) -> String {
    let of = |t: &Type| ty(resolve, *t, style);
    let maybe = |t: &Option<Type>| t.as_ref().map_or_else(|| "_".to_owned(), of);
    let list = |items: Vec<String>| items.join(", ");
    let definition = &resolve.types[id];
    match &definition.kind {
        TypeDefKind::Type(Type::Id(alias)) => body(resolve, *alias, style),
        TypeDefKind::Type(other) => of(other),
        TypeDefKind::Record(r) => {
            format!(
                "record {{ {} }}",
                list(r.fields.iter().map(|f| format!("{}: {}", f.name, of(&f.ty))).collect())
            )
        }
        TypeDefKind::Variant(v) => {
            let case = |c: &wit_parser::Case| {
                c.ty.as_ref()
                    .map_or_else(|| c.name.clone(), |t| format!("{}({})", c.name, of(t)))
            };
            format!("variant {{ {} }}", list(v.cases.iter().map(case).collect()))
        }
        TypeDefKind::Enum(e) => format!("enum {{ {} }}", list(e.cases.iter().map(|c| c.name.clone()).collect())),
        TypeDefKind::Flags(f) => format!("flags {{ {} }}", list(f.flags.iter().map(|f| f.name.clone()).collect())),
        TypeDefKind::Tuple(t) => format!("tuple<{}>", list(t.types.iter().map(of).collect())),
        TypeDefKind::Option(t) => format!("option<{}>", of(t)),
        TypeDefKind::Result(r) => match (&r.ok, &r.err) {
            (None, None) => "result".to_owned(),
            (Some(ok), None) => format!("result<{}>", of(ok)),
            (ok, Some(err)) => format!("result<{}, {}>", maybe(ok), of(err)),
        },
        TypeDefKind::List(t) => format!("list<{}>", of(t)),
        TypeDefKind::FixedLengthList(t, n) => format!("list<{}, {n}>", of(t)),
        TypeDefKind::Map(k, v) => format!("map<{}, {}>", of(k), of(v)),
        TypeDefKind::Future(t) => format!("future<{}>", maybe(t)),
        TypeDefKind::Stream(t) => format!("stream<{}>", maybe(t)),
        // A resource is its name.
        TypeDefKind::Handle(Handle::Own(t)) => resource(resolve, *t),
        TypeDefKind::Handle(Handle::Borrow(t)) => format!("borrow<{}>", resource(resolve, *t)),
        TypeDefKind::Resource => format!("resource {}", resource(resolve, id)),
        TypeDefKind::Unknown => "unknown".to_owned(),
    }
}

/// The name of a resource where it is defined.
fn resource(resolve: &Resolve, id: TypeId) -> String {
    match &resolve.types[id].kind {
        TypeDefKind::Type(Type::Id(alias)) => resource(resolve, *alias),
        _ => resolve.types[id].name.clone().unwrap_or_default(),
    }
}

/// Every named type that a function's type mentions, and what it is in terms of other named types.
fn types(resolve: &Resolve, function: &Function, found: &mut BTreeMap<String, String>) {
    let mut todo: Vec<Type> = function.params.iter().map(|p| p.ty).chain(function.result).collect();
    while let Some(next) = todo.pop() {
        let Type::Id(id) = next else { continue };
        let definition = &resolve.types[id];
        if let Some(name) = &definition.name
            && found.insert(name.clone(), body(resolve, id, Style::Named)).is_some()
        {
            continue;
        }
        match &definition.kind {
            TypeDefKind::Type(t) | TypeDefKind::Option(t) | TypeDefKind::List(t) => todo.push(*t),
            TypeDefKind::FixedLengthList(t, _) => todo.push(*t),
            TypeDefKind::Record(r) => todo.extend(r.fields.iter().map(|f| f.ty)),
            TypeDefKind::Variant(v) => todo.extend(v.cases.iter().filter_map(|c| c.ty)),
            TypeDefKind::Tuple(t) => todo.extend(&t.types),
            TypeDefKind::Result(r) => todo.extend(r.ok.iter().chain(&r.err)),
            TypeDefKind::Map(k, v) => todo.extend([*k, *v]),
            TypeDefKind::Future(t) | TypeDefKind::Stream(t) => todo.extend(t),
            TypeDefKind::Handle(_)
            | TypeDefKind::Resource
            | TypeDefKind::Enum(_)
            | TypeDefKind::Flags(_)
            | TypeDefKind::Unknown => {}
        }
    }
}
