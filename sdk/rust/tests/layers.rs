//! Layers find their tensors under PyTorch's names and shapes, and make what PyTorch's make.
#![allow(clippy::unwrap_used, missing_docs)]

use maquette::prelude::*;
use maquette::{Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d};
use nn::{MultiHead, MultiHeadAttention, RecurrentConfig};

/// The weights `name[shape]` that a recorded model takes, in the order of their use, and the types of its outputs.
fn record(model: impl FnOnce(&mut Recorder, &Weights) -> Result<Vec<Tensor>>) -> (Vec<String>, Vec<String>) {
    let weights = Weights::of_file("model");
    let program = compile(|p| model(p, &weights)).unwrap();
    let description = program.description();
    let names = description.weights.iter();
    let names = names.map(|w| format!("{}{}", w.name, maquette_ops::show(&w.shape)));
    let types = description.check().unwrap();
    let outputs = description.outputs.iter().map(|at| types[*at as usize].to_string());
    (names.collect(), outputs.collect())
}

/// A layer's weights and output for an input of one shape.
fn layer(shape: &[usize], make: impl FnOnce(&Weights, &Tensor) -> Result<Tensor>) -> (Vec<String>, String) {
    let (weights, mut outputs) = record(|p, weights| {
        let dims: Vec<Dim> = shape.iter().map(|dim| Dim::from(*dim)).collect();
        let x = p.input("x", DType::F32, dims)?;
        Ok(vec![make(&weights.pp("layer"), &x)?])
    });
    (weights, outputs.remove(0))
}

#[test]
fn convolutions_over_signals() {
    let how = Conv1d {
        stride: 2,
        padding: [1, 1],
        groups: 2,
        ..Conv1d::default()
    };
    let (weights, output) = layer(&[1, 4, 10], |w, x| nn::Conv1d::load(4, 6, 3, how, w)?.forward(x));
    assert_eq!(weights, ["layer.weight[6, 2, 3]", "layer.bias[6]"]);
    assert_eq!(output, "f32[1, 6, 5]");

    let how = ConvTranspose1d {
        stride: 2,
        groups: 2,
        ..ConvTranspose1d::default()
    };
    let (weights, output) = layer(&[1, 4, 10], |w, x| {
        nn::ConvTranspose1d::load(4, 6, 4, how, w)?.forward(x)
    });
    assert_eq!(weights, ["layer.weight[4, 3, 4]", "layer.bias[6]"]);
    assert_eq!(output, "f32[1, 6, 22]");
}

#[test]
fn convolutions_over_images() {
    let how = Conv2d {
        padding: [1; 4],
        groups: 4,
        ..Conv2d::default()
    };
    let (weights, output) = layer(&[1, 4, 8, 6], |w, x| {
        nn::Conv2d::load_no_bias(4, 8, [3, 3], how, w)?.forward(x)
    });
    assert_eq!(weights, ["layer.weight[8, 1, 3, 3]"]);
    assert_eq!(output, "f32[1, 8, 8, 6]");

    let how = ConvTranspose2d {
        stride: [2; 2],
        ..ConvTranspose2d::default()
    };
    let (weights, output) = layer(&[1, 4, 8, 6], |w, x| {
        nn::ConvTranspose2d::load(4, 2, [2, 3], how, w)?.forward(x)
    });
    assert_eq!(weights, ["layer.weight[4, 2, 2, 3]", "layer.bias[2]"]);
    assert_eq!(output, "f32[1, 2, 16, 13]");

    let how = Conv2d {
        groups: 3,
        ..Conv2d::default()
    };
    let error = nn::Conv2d::load(4, 6, [1, 1], how, &Weights::of_file("model"))
        .err()
        .unwrap();
    assert_eq!(error.message(), "3 groups do not divide 4 channels");
}

#[test]
fn layers_by_channel() {
    let (weights, output) = layer(&[1, 4, 2, 2], |w, x| nn::GroupNorm::load(2, 4, 1e-5, w)?.forward(x));
    assert_eq!(weights, ["layer.weight[4]", "layer.bias[4]"]);
    assert_eq!(output, "f32[1, 4, 2, 2]");
    let (weights, _) = layer(&[1, 4, 2, 2], |_, x| nn::GroupNorm::plain(4, 1e-5).forward(x));
    assert!(weights.is_empty());
    let (weights, _) = layer(&[1, 4, 2, 2], |w, x| nn::BatchNorm2d::load(4, 1e-5, w)?.forward(x));
    let names = ["running_mean", "running_var", "weight", "bias"];
    assert_eq!(weights, names.map(|name| format!("layer.{name}[4]")));
    let (weights, _) = layer(&[1, 4, 2, 2], |w, x| nn::Prelu::load(4, w)?.forward(x));
    assert_eq!(weights, ["layer.weight[4]"]);
}

#[test]
fn an_lstm_of_two_layers_both_ways() {
    let config = RecurrentConfig {
        layers: 2,
        bidirectional: true,
        bias: true,
    };
    let (weights, outputs) = record(|p, weights| {
        let t = p.dim("t");
        let x = p.input("x", DType::F32, (2, &t, 3))?;
        let first = p.input("first", DType::F32, (4, 2, 5))?;
        let made = nn::Lstm::load(3, 5, config, weights)?.forward(&x, Some((&first, &first)))?;
        Ok(vec![made.steps, made.state, made.cell])
    });
    let names = |suffix: &str, input: usize| {
        [
            format!("weight_ih_{suffix}[20, {input}]"),
            format!("weight_hh_{suffix}[20, 5]"),
            format!("bias_ih_{suffix}[20]"),
            format!("bias_hh_{suffix}[20]"),
        ]
    };
    let wanted = [
        names("l0", 3),
        names("l0_reverse", 3),
        names("l1", 10),
        names("l1_reverse", 10),
    ];
    assert_eq!(weights, wanted.concat());
    assert_eq!(outputs, ["f32[2, s0, 10]", "f32[4, 2, 5]", "f32[4, 2, 5]"]);
}

#[test]
fn a_gru_without_biases_from_a_state() {
    let config = RecurrentConfig {
        bias: false,
        ..RecurrentConfig::default()
    };
    let (weights, outputs) = record(|p, weights| {
        let x = p.input("x", DType::F32, (2, 7, 3))?;
        let first = p.input("first", DType::F32, (1, 2, 5))?;
        let gru = nn::Gru::load(3, 5, config, weights)?;
        let from = gru.forward(&x, Some(&first))?;
        Ok(vec![from.steps, from.state, gru.forward(&x, None)?.steps])
    });
    assert_eq!(weights, ["weight_ih_l0[15, 3]", "weight_hh_l0[15, 5]"]);
    assert_eq!(outputs, ["f32[2, 7, 5]", "f32[1, 2, 5]", "f32[2, 7, 5]"]);
}

#[test]
fn the_last_state_is_where_the_direction_ends() {
    let config = RecurrentConfig {
        bidirectional: true,
        ..RecurrentConfig::default()
    };
    let program = compile(|p| {
        let x = p.input("x", DType::F32, (2, 7, 3))?;
        Ok(nn::Gru::load(3, 5, config, &Weights::of_file("model"))?
            .forward(&x, None)?
            .state)
    })
    .unwrap();
    let nodes = &program.description().nodes;
    let starts: Vec<String> = nodes
        .iter()
        .filter(|node| node.op == "narrow/1")
        .map(|node| format!("{:?}", node.attrs[1]))
        .collect();
    assert_eq!(
        starts,
        [6_usize, 0].map(|at| format!("{:?}", maquette::Attr::Dims(vec![Dim::from(at)])))
    );
}

#[test]
fn attention_to_another_sequence() {
    let how = MultiHead {
        context: Some(6),
        biases: [true, false, true, true],
        causal: false,
    };
    let names = ["q_proj", "k_proj", "v_proj", "out_proj"];
    let (weights, outputs) = record(|p, weights| {
        let (s, x) = (p.dim("s"), p.input("x", DType::F32, (1, 4, 8))?);
        let context = p.input("context", DType::F32, (1, &s, 6))?;
        let bias = nn::attention_bias(&p.input("mask", DType::U8, (1, &s))?)?;
        let layer = MultiHeadAttention::load(8, 2, how, names, weights)?;
        Ok(vec![layer.cross(&x, &context, Some(&bias))?])
    });
    let wanted = [
        "q_proj.weight[8, 8]",
        "q_proj.bias[8]",
        "k_proj.weight[8, 6]",
        "v_proj.weight[8, 6]",
        "v_proj.bias[8]",
        "out_proj.weight[8, 8]",
        "out_proj.bias[8]",
    ];
    assert_eq!(weights, wanted);
    assert_eq!(outputs, ["f32[1, 4, 8]"]);
}

#[test]
fn attention_under_pytorchs_own_names() {
    let wanted = [
        "in_proj_weight[24, 8]",
        "in_proj_bias[24]",
        "out_proj.weight[8, 8]",
        "out_proj.bias[8]",
    ];
    for other in [false, true] {
        let (weights, outputs) = record(|p, weights| {
            let x = p.input("x", DType::F32, (1, 4, 8))?;
            let y = p.input("y", DType::F32, (1, 5, 8))?;
            let layer = MultiHeadAttention::load_in_proj(8, 2, true, true, weights)?;
            let made = if other {
                layer.cross(&x, &y, None)?
            } else {
                layer.forward(&x, None)?
            };
            Ok(vec![made])
        });
        assert_eq!(weights.len(), wanted.len());
        assert!(
            wanted.iter().all(|name| weights.iter().any(|w| w == name)),
            "{weights:?}"
        );
        assert_eq!(outputs, ["f32[1, 4, 8]"]);
    }
    let error = MultiHeadAttention::load_in_proj(8, 3, true, true, &Weights::of_file("model"));
    assert_eq!(error.err().unwrap().message(), "3 heads do not divide a width of 8");
}

#[test]
fn causal_attention_says_so() {
    let program = compile(|p| {
        let x = p.input("x", DType::F32, (1, 4, 8))?;
        MultiHeadAttention::load_in_proj(8, 2, false, true, &Weights::of_file("model"))?.forward(&x, None)
    })
    .unwrap();
    let node = program.description().nodes.iter().find(|node| node.op == "attention/1");
    assert_eq!(node.unwrap().attrs[1], maquette::Attr::Flag(true));
}

#[test]
fn a_bias_is_of_the_type_of_its_mask() {
    let types = [
        (DType::F16, "f16"),
        (DType::BF16, "bf16"),
        (DType::F32, "f32"),
        (DType::U8, "f32"),
        (DType::I64, "f32"),
    ];
    for (dtype, made) in types {
        let (_, outputs) = record(|p, _| {
            let mask = p.input("mask", dtype, (2, 5))?;
            let bias = nn::attention_bias(&mask)?;
            if !matches!(dtype, DType::U8 | DType::I64) {
                let heads = p.input("heads", dtype, (2, 5, 3, 4))?;
                heads.attention(&heads, &heads, Some(&bias), Attend::default())?;
            }
            Ok(vec![bias])
        });
        assert_eq!(outputs, [format!("{made}[2, 1, 1, 5]")]);
    }
}
