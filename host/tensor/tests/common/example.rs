//! For each op, inputs that it takes.

use maquette_tensor::ops::{Attr, AttrKind, DType, Occurs, OpSpec};

/// Inputs of some 10,000 elements each that the op takes, and attributes.
pub fn example(spec: &OpSpec, dtype: DType, rank: usize) -> (Vec<(Vec<usize>, DType)>, Vec<Attr>) {
    let shape = match rank {
        1 => vec![12 * 1024],
        2 => vec![96, 128],
        _ => vec![4, 48, 64],
    };
    of_shape(spec, dtype, rank, &shape)
}

/// The same with inputs of a shape where the op takes any, and attributes for it.
pub fn of_shape(spec: &OpSpec, dtype: DType, rank: usize, shape: &[usize]) -> (Vec<(Vec<usize>, DType)>, Vec<Attr>) {
    let last = shape[shape.len() - 1];
    let index = DType::U32;
    let inputs = match spec.name {
        "where/1" => vec![
            (shape.to_vec(), index),
            (shape.to_vec(), dtype),
            (shape.to_vec(), dtype),
        ],
        "embedding/1" => vec![(vec![96, 128], dtype), (vec![128], index)],
        "index_select/1" => vec![(shape.to_vec(), dtype), (vec![64], index)],
        "matmul/1" if rank == 1 => vec![(vec![4, 48, 64], dtype), (vec![64, 48], dtype)],
        "matmul/1" => vec![(vec![4, 48, 64], dtype), (vec![[1, 4][rank % 2], 64, 48], dtype)],
        "linear/1" => vec![(vec![4, 24, 64], dtype), (vec![96, 64], dtype), (vec![96], dtype)],
        "layer_norm/1" => vec![(shape.to_vec(), dtype), (vec![last], dtype)],
        "rms_norm/1" => vec![(shape.to_vec(), dtype), (vec![last], dtype)],
        "rope/1" => vec![(vec![4, 24, 2, 64], dtype), (vec![24], index)],
        "attention/1" => vec![(vec![4, 24, 2, 64], dtype); 3],
        "squeeze/1" => vec![([&[1][..], shape].concat(), dtype)],
        "sample/1" if rank == 1 => vec![(shape.to_vec(), dtype), (vec![200], index)],
        "sample/1" => vec![(vec![48, 1024], dtype), (vec![48, 5], index)],
        "gather/1" => vec![(shape.to_vec(), dtype), (shape.to_vec(), index)],
        "scatter/1" | "scatter_add/1" => vec![
            (shape.to_vec(), dtype),
            (shape.to_vec(), index),
            (shape.to_vec(), dtype),
        ],
        "index_add/1" => {
            let src = [&[64][..], &shape[1..]].concat();
            vec![(shape.to_vec(), dtype), (vec![64], index), (src, dtype)]
        }
        // Wide ones, thin ones, and one with more channels than a panel has rows.
        "conv1d/1" | "conv_transpose1d/1" => {
            let (n, c, o, l) = [(1, 64, 100, 100), (40, 4, 4, 30), (2, 1100, 8, 40)][rank - 1];
            let weight = if spec.name == "conv1d/1" { [o, c, 3] } else { [c, o, 3] };
            vec![(vec![n, c, l], dtype), (weight.to_vec(), dtype), (vec![o], dtype)]
        }
        "lstm/1" | "gru/1" => {
            let (b, t, h) = [(1, 100, 48), (8, 9, 33), (3, 2, 130)][rank - 1];
            let rows = if spec.name == "lstm/1" { 4 * h } else { 3 * h };
            let mut shapes = vec![vec![b, t, 20], vec![rows, 20], vec![rows, h], vec![rows], vec![rows]];
            shapes.resize(spec.inputs.len(), vec![b, h]);
            shapes.into_iter().map(|shape| (shape, dtype)).collect()
        }
        "resize_linear1d/1" | "resize_nearest1d/1" => vec![(vec![4, 48, 64], dtype)],
        // Frames of 200, 74, whose factor is large, and 225, which is odd.
        "stft/1" => vec![(vec![rank, 9_000], dtype), (vec![64], dtype)],
        "istft/1" => vec![
            (vec![rank, [101, 38, 113][rank - 1], 90, 2], dtype),
            (vec![[200, 74, 225][rank - 1]], dtype),
        ],
        "snake/1" => vec![(vec![4, 48, 64], dtype), (vec![48], dtype)],
        "broadcast_to/1" => vec![(vec![1], dtype)],
        "conv2d/1" if rank == 1 => vec![(vec![2, 8, 24, 24], dtype), (vec![8, 1, 3, 3], dtype)],
        "conv2d/1" if rank == 2 => vec![
            (vec![2, 32, 12, 12], dtype),
            (vec![24, 32, 1, 1], dtype),
            (vec![24], dtype),
        ],
        "conv2d/1" => vec![
            (vec![2, 8, 24, 24], dtype),
            (vec![16, 8, 3, 3], dtype),
            (vec![16], dtype),
        ],
        "conv_transpose2d/1" => vec![
            (vec![2, 16, 20, 20], dtype),
            (vec![16, 12, 3, 3], dtype),
            (vec![12], dtype),
        ],
        "max_pool2d/1" | "avg_pool2d/1" | "adaptive_avg_pool2d/1" | "resize_nearest2d/1" | "resize_bilinear2d/1" => {
            vec![(vec![2, 8, 24, 32], dtype)]
        }
        "pixel_shuffle/1" | "pixel_unshuffle/1" => vec![(vec![2, 8, 24, 32], dtype)],
        "group_norm/1" if rank == 1 => vec![(vec![2, 5120], dtype), (vec![5120], dtype), (vec![5120], dtype)],
        "group_norm/1" => vec![(vec![2, 8, 24, 32], dtype), (vec![8], dtype), (vec![8], dtype)],
        "batch_norm/1" => [vec![(vec![2, 8, 24, 32], dtype)], vec![(vec![8], dtype); 4]].concat(),
        "prelu/1" => vec![(vec![2, 8, 24, 32], dtype), (vec![8], dtype)],
        _ => spec
            .inputs
            .iter()
            .flat_map(|input| vec![(shape.to_vec(), dtype); 1 + usize::from(input.occurs == Occurs::Repeated)])
            .collect(),
    };
    let ints = |shape: &[usize]| Attr::Ints(shape.iter().map(|n| *n as i64).collect());
    let attrs = spec.attrs.iter().map(|attr| match (spec.name, attr.name, attr.kind) {
        ("reshape/1", ..) => Attr::Ints(vec![-1]),
        ("permute/1", ..) => ints(&(0..shape.len()).rev().collect::<Vec<_>>()),
        ("transpose/1", "dim2", _) => Attr::Int(-1),
        ("clamp/1", "max", _) => Attr::Int(1),
        ("conv2d/1", "groups", _) => Attr::Int(if rank == 1 { 8 } else { 1 }),
        ("group_norm/1", "groups", _) => Attr::Int(4),
        (_, "kernel", _) => Attr::Int(3),
        ("resize_linear1d/1" | "resize_nearest1d/1", "size", _) => Attr::Int(100),
        (_, "size", _) => ints(&[40, 50]),
        (_, "factor", _) => Attr::Int(2),
        ("sample/1", "top_k", _) => Attr::Int([0, 300, 40][rank - 1]),
        ("sample/1", "top_p", _) => Attr::Float([0.99, 1.0, 0.9][rank - 1]),
        ("sample/1", "repetition_penalty", _) => Attr::Float(1.2),
        ("topk/1", "k", _) => Attr::Int([3000, 20, 9][rank - 1]),
        (_, "n_fft", _) => Attr::Int([200, 74, 225][rank - 1]),
        (_, "hop", _) => Attr::Int(20),
        ("istft/1", "length", _) => Attr::Int(1500),
        ("istft/1", "center", _) => Attr::Flag(false),
        ("one_hot/1", "depth", _) => Attr::Int(7),
        ("repeat/1", ..) => ints(&vec![2; shape.len()]),
        ("repeat_interleave/1", "times", _) => Attr::Int(3),
        ("roll/1", "shift", _) => Attr::Int(5),
        ("pad_reflect/1" | "pad_replicate/1", "left" | "right", _) => Attr::Int(1),
        (_, _, AttrKind::Int(None)) => Attr::Int(1),
        (_, "dtype", _) => Attr::DType(if spec.name == "cast/1" { DType::F32 } else { dtype }),
        (_, "len", _) => Attr::Int(if spec.name == "narrow/1" { 1 } else { 200 }),
        (_, _, AttrKind::Shape) => ints(shape),
        (_, _, AttrKind::Size) => Attr::Int(0),
        (_, _, AttrKind::Axis(None)) => Attr::Int(0),
        (_, _, AttrKind::Float(None)) => Attr::Int(1),
        _ => Attr::Unset,
    });
    (inputs, attrs.collect())
}
