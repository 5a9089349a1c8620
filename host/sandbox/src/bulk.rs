//! Divides what one instruction can do: `memory.fill`, `memory.copy` and `memory.init` of more than a piece become loops over pieces.
//!
//! Whether a guest has to stop or to stand back is looked at in loops and where functions begin. One such instruction over a gigabyte
//! would go on for half a second after its deadline, or beside whoever goes first.
//!
//! Where an instruction has more than a piece to do, a function is called in its place that is added to its module; other functions keep
//! their indices. A guest cannot tell the difference: where a piece does not fit into the memory it traps, as it would have, and nobody
//! sees what pieces before that have written, for the instance is never entered again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use wasm_encoder::{BlockType, Encode as _, Function, InstructionSink, RawSection, Section as _, ValType};
use wasmparser::{
    BinaryReader, CodeSectionReader, CompositeInnerType, DataSectionReader, FunctionSectionReader, ImportSectionReader,
    Operator, TypeRef, TypeSectionReader,
};

use crate::error::Error;
use crate::imports::malformed;
use crate::limits::{MAX_MEMORIES, MAX_MEMORY_BYTES};

/// The most that one instruction moves, in bytes: some 0.2 ms of work on fresh memory. In smaller pieces large copies cost more.
const PIECE: u32 = 1 << 20;

// Addresses that grow by pieces meet the end of the memory before they wrap around.
const _: () = assert!(MAX_MEMORY_BYTES + (PIECE as u64) < 1 << 32);

/// How deep components may lie in each other.
const MAX_DEPTH: usize = 16;

/// The bytes before the first section.
const HEADER: usize = 8;

/// Ids of sections of a component that hold modules and components.
const MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// Ids of sections of a module.
const CUSTOM: u8 = 0;
const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const CODE: u8 = 10;
const DATA: u8 = 11;

/// The types that are added: that of the functions, `(func (param i32 i32 i32))`, and that of the branch before them, which has the length
/// in a local: `(func (param i32 i32))`.
const ADDED_TYPES: [u8; 11] = [0x60, 3, 0x7f, 0x7f, 0x7f, 0, 0x60, 2, 0x7f, 0x7f, 0];

/// The part of the custom section `name` that names functions.
const FUNCTION_NAMES: u8 = 1;

type Read<T> = wasmparser::Result<T>;

/// A section of a module or component.
struct Section<'a> {
    id: u8,
    content: &'a [u8],
    /// Where the content begins in the component, for errors.
    at: usize,
}

impl<'a> Section<'a> {
    fn reader(&self) -> BinaryReader<'a> {
        BinaryReader::new(self.content, self.at)
    }
}

/// An instruction over bytes, with what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bulk {
    Fill { mem: u32 },
    Copy { to: u32, from: u32 },
    Init { mem: u32, data: u32 },
}

/// Divides the instructions of every module of a component. Returns it as it is if there is nothing to divide.
///
/// # Errors
/// With [`crate::ErrorKind::Component`] if it is malformed or nested too deeply. What is well-formed but not valid is left for the
/// compiler to refuse.
pub(crate) fn divide(component: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    divide_component(component, 0, 0)
}

fn divide_component(component: &[u8], at: usize, depth: usize) -> Result<Cow<'_, [u8]>, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::component(format!(
            "components lie in each other more than {MAX_DEPTH} deep: link them into fewer"
        )));
    }
    let mut changed = false;
    let mut parts = Vec::new();
    for section in sections(component, at).map_err(malformed)? {
        let content = match section.id {
            MODULE => divide_module(section.content, section.at).map_err(malformed)?,
            COMPONENT => divide_component(section.content, section.at, depth + 1)?,
            _ => Cow::Borrowed(section.content),
        };
        changed |= matches!(content, Cow::Owned(_));
        parts.push((section.id, content));
    }
    Ok(if changed {
        Cow::Owned(joined(component, parts))
    } else {
        Cow::Borrowed(component)
    })
}

/// Reads sections without looking into them.
fn sections(bytes: &[u8], at: usize) -> Read<Vec<Section<'_>>> {
    let mut reader = BinaryReader::new(bytes, at);
    reader.read_bytes(HEADER)?;
    let mut sections = Vec::new();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let size = reader.read_var_u32()? as usize;
        let at = reader.original_position();
        let content = reader.read_bytes(size)?;
        sections.push(Section { id, content, at });
    }
    Ok(sections)
}

/// Sections behind the header of what they come from.
fn joined<'a>(original: &[u8], sections: impl IntoIterator<Item = (u8, Cow<'a, [u8]>)>) -> Vec<u8> {
    let mut bytes = original[..HEADER].to_vec();
    for (id, content) in sections {
        RawSection { id, data: &content }.append_to(&mut bytes);
    }
    bytes
}

/// What is said of a module elsewhere than in its code.
#[derive(Default)]
struct Declared {
    /// How many parameters each type has, if it is a function's.
    types: Vec<u32>,
    imported: u32,
    /// The types of functions that are not imported.
    functions: Vec<u32>,
    /// Sizes of the data segments.
    data: Vec<usize>,
}

impl Declared {
    fn of(sections: &[Section<'_>]) -> Read<Self> {
        let mut declared = Self::default();
        for section in sections {
            let reader = section.reader();
            match section.id {
                TYPES => {
                    for group in TypeSectionReader::new(reader)? {
                        for of in group?.types() {
                            let params = match &of.composite_type.inner {
                                CompositeInnerType::Func(func) => func.params().len(),
                                _ => 0,
                            };
                            declared.types.push(u32::try_from(params).unwrap_or(u32::MAX));
                        }
                    }
                }
                IMPORTS => {
                    for import in ImportSectionReader::new(reader)?.into_imports() {
                        declared.imported += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                    }
                }
                FUNCTIONS => {
                    for of in FunctionSectionReader::new(reader)? {
                        declared.functions.push(of?);
                    }
                }
                DATA => {
                    for segment in DataSectionReader::new(reader)? {
                        declared.data.push(segment?.data.len());
                    }
                }
                _ => {}
            }
        }
        Ok(declared)
    }

    /// How many types there are: the index of the first that is added.
    fn new_type(&self) -> u32 {
        u32::try_from(self.types.len()).unwrap_or(u32::MAX)
    }

    /// The index of the first function that is added.
    fn new_function(&self) -> u32 {
        let own = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
        self.imported.saturating_add(own)
    }

    /// How many parameters the function with a body has, by the body's place.
    fn params(&self, body: usize) -> u32 {
        let of = self.functions.get(body).and_then(|of| self.types.get(*of as usize));
        of.copied().unwrap_or(0)
    }

    /// The instruction to divide, if this is one. A data segment of no more than a piece needs no dividing, and what more memories
    /// than a module may have would need is not compiled anyway.
    fn bulk(&self, operator: &Operator<'_>) -> Option<Bulk> {
        let memory = |index| (index < MAX_MEMORIES).then_some(index);
        match *operator {
            Operator::MemoryFill { mem } => Some(Bulk::Fill { mem: memory(mem)? }),
            Operator::MemoryCopy { dst_mem, src_mem } => Some(Bulk::Copy {
                to: memory(dst_mem)?,
                from: memory(src_mem)?,
            }),
            Operator::MemoryInit { data_index, mem } => {
                let size = *self.data.get(data_index as usize)?;
                (size > PIECE as usize).then_some(Bulk::Init {
                    mem: memory(mem)?,
                    data: data_index,
                })
            }
            _ => None,
        }
    }
}

/// The functions that a module gets, and the indices by which they are called.
struct Added {
    first: u32,
    functions: BTreeMap<Bulk, u32>,
}

impl Added {
    fn index(&mut self, bulk: Bulk) -> u32 {
        let next = self
            .first
            .saturating_add(u32::try_from(self.functions.len()).unwrap_or(u32::MAX));
        *self.functions.entry(bulk).or_insert(next)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.functions.len()).unwrap_or(u32::MAX)
    }

    /// In the order of their indices.
    fn in_order(&self) -> Vec<(u32, Bulk)> {
        let mut functions: Vec<_> = self.functions.iter().map(|(bulk, index)| (*index, *bulk)).collect();
        functions.sort_unstable();
        functions
    }
}

fn divide_module(module: &[u8], at: usize) -> Read<Cow<'_, [u8]>> {
    let sections = sections(module, at)?;
    let declared = Declared::of(&sections)?;
    let mut added = Added {
        first: declared.new_function(),
        functions: BTreeMap::new(),
    };
    let mut code = Vec::new();
    // A module with more than one is not valid.
    for section in sections.iter().filter(|section| section.id == CODE) {
        code = divide_code(section, &declared, &mut added)?;
    }
    if added.functions.is_empty() {
        return Ok(Cow::Borrowed(module));
    }
    let mut parts = Vec::with_capacity(sections.len());
    for section in sections {
        let content = section.content;
        let content = match section.id {
            TYPES => Cow::Owned(with_more(content, 2, &ADDED_TYPES)?),
            FUNCTIONS => {
                let mut types = Vec::new();
                for _ in 0..added.count() {
                    declared.new_type().encode(&mut types);
                }
                Cow::Owned(with_more(content, added.count(), &types)?)
            }
            CODE => {
                let mut bodies = Vec::new();
                for (_, bulk) in added.in_order() {
                    bulk.in_pieces().encode(&mut bodies);
                }
                Cow::Owned(with_more(&code, added.count(), &bodies)?)
            }
            CUSTOM => match BinaryReader::new(content, 0).read_unlimited_string()? {
                // Nobody minds names that cannot be read.
                "name" => with_names(content, &added).map_or(Cow::Borrowed(content), Cow::Owned),
                // They tell places in code that has moved: nothing is better than something wrong.
                name if name.starts_with(".debug_") || name.starts_with("metadata.code.") => continue,
                _ => Cow::Borrowed(content),
            },
            _ => Cow::Borrowed(content),
        };
        parts.push((section.id, content));
    }
    Ok(Cow::Owned(joined(module, parts)))
}

/// The code section with what may take long divided.
fn divide_code(section: &Section<'_>, declared: &Declared, added: &mut Added) -> Read<Vec<u8>> {
    let reader = CodeSectionReader::new(section.reader())?;
    let mut bytes = Vec::with_capacity(section.content.len());
    reader.count().encode(&mut bytes);
    for (number, body) in reader.into_iter().enumerate() {
        let body = body?;
        let found = found(&body, declared, added)?;
        let (start, old) = (body.range().start, body.as_bytes());
        if found.is_empty() {
            old.encode(&mut bytes);
            continue;
        }
        let mut new = Vec::with_capacity(old.len() + 24 * found.len());
        let (length, mut done) = with_local(&body, declared.params(number), &mut new)?;
        for (at, bulk, function) in found {
            new.extend_from_slice(&old[done..at.start - start]);
            bulk.branch(length, declared.new_type() + 1, function, &mut new);
            done = at.end - start;
        }
        new.extend_from_slice(&old[done..]);
        new.encode(&mut bytes);
    }
    Ok(bytes)
}

/// Writes the locals of a function and one more of type `i32`. The index of that, and where the code begins in the old body.
fn with_local(body: &wasmparser::FunctionBody<'_>, params: u32, new: &mut Vec<u8>) -> Read<(u32, usize)> {
    let mut locals = body.get_locals_reader()?;
    let mut index = params;
    let groups = locals.get_count();
    groups.saturating_add(1).encode(new);
    let first = locals.original_position();
    for _ in 0..groups {
        index = index.saturating_add(locals.read()?.0);
    }
    let (start, end) = (body.range().start, locals.original_position());
    new.extend_from_slice(&body.as_bytes()[first - start..end - start]);
    1_u32.encode(new);
    ValType::I32.encode(new);
    Ok((index, end - start))
}

/// Where a function has instructions to divide, and which function is to be called for each.
fn found(
    body: &wasmparser::FunctionBody<'_>,
    declared: &Declared,
    added: &mut Added,
) -> Read<Vec<(Range<usize>, Bulk, u32)>> {
    let mut reader = body.get_operators_reader()?;
    let mut found = Vec::new();
    // The length is the last operand. If it is written there, and small, there is nothing to divide.
    let mut short = false;
    while !reader.eof() {
        let (operator, start) = reader.read_with_offset()?;
        if !short && let Some(bulk) = declared.bulk(&operator) {
            found.push((start..reader.original_position(), bulk, added.index(bulk)));
        }
        short = matches!(operator, Operator::I32Const { value } if value.cast_unsigned() <= PIECE);
    }
    Ok(found)
}

impl Bulk {
    /// Writes what is in the place of the instruction: most have no more than a piece to do, and are not to cost more than before.
    fn branch(self, length: u32, operands: u32, function: u32, bytes: &mut Vec<u8>) {
        let mut code = InstructionSink::new(bytes);
        code.local_tee(length).i32_const(PIECE.cast_signed()).i32_gt_u();
        code.if_(BlockType::FunctionType(operands));
        code.local_get(length).call(function);
        code.else_().local_get(length);
        self.instruction(&mut code);
        code.end();
    }

    /// The function that does it piece by piece; its parameters are the instruction's operands.
    fn in_pieces(self) -> Function {
        const TO: u32 = 0;
        const FROM: u32 = 1;
        const LEFT: u32 = 2;
        let mut function = Function::new([]);
        let mut code = function.instructions();
        let piece = PIECE.cast_signed();
        if let Self::Copy { .. } = self {
            // What overlaps and moves up is moved from its end.
            code.local_get(TO).local_get(FROM).i32_gt_u().if_(BlockType::Empty);
            code.loop_(BlockType::Empty);
            code.local_get(LEFT).i32_const(piece).i32_sub().local_set(LEFT);
            code.local_get(TO).local_get(LEFT).i32_add();
            code.local_get(FROM).local_get(LEFT).i32_add();
            code.i32_const(piece);
            self.instruction(&mut code);
            code.local_get(LEFT).i32_const(piece).i32_gt_u().br_if(0);
            code.end();
            code.local_get(TO).local_get(FROM).local_get(LEFT);
            self.instruction(&mut code);
            code.return_().end();
        }
        code.loop_(BlockType::Empty);
        code.local_get(TO).local_get(FROM).i32_const(piece);
        self.instruction(&mut code);
        code.local_get(TO).i32_const(piece).i32_add().local_set(TO);
        if !matches!(self, Self::Fill { .. }) {
            code.local_get(FROM).i32_const(piece).i32_add().local_set(FROM);
        }
        code.local_get(LEFT).i32_const(piece).i32_sub().local_tee(LEFT);
        code.i32_const(piece).i32_gt_u().br_if(0);
        code.end();
        code.local_get(TO).local_get(FROM).local_get(LEFT);
        self.instruction(&mut code);
        code.end();
        function
    }

    fn instruction(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::Fill { mem } => code.memory_fill(mem),
            Self::Copy { to, from } => code.memory_copy(to, from),
            Self::Init { mem, data } => code.memory_init(mem, data),
        };
    }

    /// What backtraces call the function.
    fn name(self) -> &'static str {
        match self {
            Self::Fill { .. } => "memory.fill",
            Self::Copy { .. } => "memory.copy",
            Self::Init { .. } => "memory.init",
        }
    }
}

/// A list with more items behind those that it has.
fn with_more(list: &[u8], count: u32, items: &[u8]) -> Read<Vec<u8>> {
    let mut reader = BinaryReader::new(list, 0);
    let had = reader.read_var_u32()?;
    let mut bytes = Vec::with_capacity(list.len() + items.len() + 5);
    had.saturating_add(count).encode(&mut bytes);
    bytes.extend_from_slice(&list[reader.current_position()..]);
    bytes.extend_from_slice(items);
    Ok(bytes)
}

/// The custom section `name` with the names of functions that were added. One that names no functions stays as it is.
fn with_names(content: &[u8], added: &Added) -> Read<Vec<u8>> {
    let mut reader = BinaryReader::new(content, 0);
    reader.read_unlimited_string()?;
    let mut bytes = content[..reader.current_position()].to_vec();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let size = reader.read_var_u32()? as usize;
        let part = reader.read_bytes(size)?;
        bytes.push(id);
        if id == FUNCTION_NAMES {
            let mut names = Vec::new();
            for (index, bulk) in added.in_order() {
                index.encode(&mut names);
                bulk.name().encode(&mut names);
            }
            with_more(part, added.count(), &names)?.encode(&mut bytes);
        } else {
            part.encode(&mut bytes);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
