//! What a linear layer takes over from the nodes after it: an activation, and a sum with something that is there already.

use std::collections::HashMap;

use maquette_kernels::gemm::Activation;
use maquette_ops::program::Description;
use maquette_ops::{Dim, Op, OpSpec, Type};

use super::Place;

/// What a step does after its product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fused {
    pub(super) activation: Activation,
    /// Added after it.
    pub(super) residual: Option<Place>,
}

/// Nodes that one step executes: the product's, and those that it takes over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    pub(super) activation: Activation,
    /// The value that is added.
    pub(super) residual: Option<u32>,
}

/// Which products take over what: by the number of the last node of each chain, that of the product and what follows it.
///
/// `nodes` are those that a run executes, by number; `packed` says whether a node is a product with a packed weight.
pub(super) fn chains(
    description: &Description,
    types: &[Type<Dim>],
    nodes: &[(u32, &'static OpSpec)],
    packed: impl Fn(u32) -> bool,
) -> HashMap<u32, (u32, Chain)> {
    let leaves = description.leaves() as u32;
    // How often each node's value is used, and by which node last.
    let mut uses: HashMap<u32, (u32, u32, &OpSpec)> = HashMap::new();
    for (node, spec) in nodes {
        for value in &description.nodes[*node as usize].inputs {
            let entry = uses.entry(*value).or_insert((0, *node, spec));
            *entry = (entry.0 + 1, *node, spec);
        }
    }
    for value in &description.outputs {
        uses.entry(*value).and_modify(|entry| entry.0 += 1);
    }
    let only = |node: u32| -> Option<(u32, &OpSpec)> {
        let (count, user, spec) = uses.get(&(leaves + node))?;
        (*count == 1 && !description.outputs.contains(&(leaves + node))).then_some((*user, *spec))
    };
    let mut chains = HashMap::new();
    for (node, spec) in nodes {
        if spec.op != Op::Linear || !packed(*node) {
            continue;
        }
        let mut chain = Chain::default();
        let mut last = *node;
        if let Some((user, spec)) = only(last) {
            let activation = match spec.op {
                Op::Relu => Activation::Relu,
                Op::Silu => Activation::Silu,
                Op::Gelu => Activation::Gelu,
                Op::GeluErf => Activation::GeluErf,
                _ => Activation::None,
            };
            if activation != Activation::None {
                (chain.activation, last) = (activation, user);
            }
        }
        if let Some((user, spec)) = only(last)
            && spec.op == Op::Add
        {
            let value = leaves + last;
            let other = match description.nodes[user as usize].inputs.as_slice() {
                [a, b] if *a == value => *b,
                [a, _] => *a,
                _ => continue,
            };
            let same = types[other as usize] == types[value as usize] && other != value;
            // What is added must be there when the product is: it is, because the chain runs in the place of its last node.
            if same {
                (chain.residual, last) = (Some(other), user);
            }
        }
        if last != *node {
            chains.insert(last, (*node, chain));
        }
    }
    chains
}
