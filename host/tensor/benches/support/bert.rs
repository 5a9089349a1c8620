//! A BERT of MiniLM's dimensions, twice: described as a program as the SDK records it, and written with candle's own layers as
//! candle-transformers has it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType as CandleType, Device, Tensor};
use candle_nn::{LayerNorm, Linear, Module};
use maquette_tensor::ops::program::{Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Attr, DType, Dim};

const WIDTH: usize = 384;
const INNER: usize = 1536;
const HEADS: usize = 12;
const LAYERS: usize = 6;
const VOCABULARY: usize = 1000;
const POSITIONS: usize = 512;
const EPS: f64 = 1e-12;

/// Names and shapes of the weights.
fn weights() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("words".to_owned(), vec![VOCABULARY, WIDTH]),
        ("positions".to_owned(), vec![POSITIONS, WIDTH]),
        ("norm.weight".to_owned(), vec![WIDTH]),
        ("norm.bias".to_owned(), vec![WIDTH]),
    ];
    for layer in 0..LAYERS {
        let mut linear = |name: &str, out: usize, input: usize| {
            all.push((format!("{layer}.{name}.weight"), vec![out, input]));
            all.push((format!("{layer}.{name}.bias"), vec![out]));
        };
        for name in ["query", "key", "value", "output"] {
            linear(name, WIDTH, WIDTH);
        }
        linear("inner", INNER, WIDTH);
        linear("outer", WIDTH, INNER);
        for name in ["norm1", "norm2"] {
            all.push((format!("{layer}.{name}.weight"), vec![WIDTH]));
            all.push((format!("{layer}.{name}.bias"), vec![WIDTH]));
        }
    }
    all
}

/// Writes made-up weights as a safetensors file.
pub(crate) fn write_weights(path: &Path) {
    let mut state = 1_u64;
    let mut tensors = HashMap::new();
    for (name, shape) in weights() {
        let scale = if shape.len() == 2 { 0.05 } else { 1.0 };
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * scale
            })
            .collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// Ids and mask of a batch whose texts are of unlike length.
pub(crate) fn batch(batch: usize, tokens: usize) -> (Vec<u32>, Vec<f32>) {
    let ids = (0..batch * tokens).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
    let mask = (0..batch * tokens)
        .map(|i| f32::from(u8::from(i % tokens < tokens - (i / tokens) % 4)))
        .collect();
    (ids, mask)
}

pub(crate) fn candle_inputs(
    ids: &[u32],
    mask: &[f32],
    batch: usize,
    tokens: usize,
    device: &Device,
) -> (Tensor, Tensor) {
    (
        Tensor::from_slice(ids, (batch, tokens), device).unwrap(),
        Tensor::from_slice(mask, (batch, tokens), device).unwrap(),
    )
}

/// The network with candle's layers.
pub(crate) struct Native {
    words: Tensor,
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    inner: Linear,
    outer: Linear,
    norms: [LayerNorm; 2],
}

impl Native {
    pub(crate) fn load(path: &Path, device: &Device) -> Self {
        let all = candle_core::safetensors::load(path, device).unwrap();
        let get = |name: String| all[&name].clone();
        let norm = |name: String| LayerNorm::new(get(format!("{name}.weight")), get(format!("{name}.bias")), EPS);
        let layers = (0..LAYERS).map(|i| {
            let linear =
                |name: &str| Linear::new(get(format!("{i}.{name}.weight")), Some(get(format!("{i}.{name}.bias"))));
            Layer {
                query: linear("query"),
                key: linear("key"),
                value: linear("value"),
                output: linear("output"),
                inner: linear("inner"),
                outer: linear("outer"),
                norms: [norm(format!("{i}.norm1")), norm(format!("{i}.norm2"))],
            }
        });
        Self {
            words: get("words".into()),
            positions: get("positions".into()),
            norm: norm("norm".into()),
            layers: layers.collect(),
        }
    }

    /// Token ids and mask to hidden states.
    pub(crate) fn forward(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        self.try_forward(ids, mask).unwrap()
    }

    fn try_forward(&self, ids: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let words = self
            .words
            .index_select(&ids.flatten_all()?, 0)?
            .reshape((batch, tokens, WIDTH))?;
        let x = words.broadcast_add(&self.positions.narrow(0, 0, tokens)?)?;
        let mut x = self.norm.forward(&x)?;
        let mask = mask
            .to_dtype(CandleType::F32)?
            .affine(1e4, -1e4)?
            .unsqueeze(1)?
            .unsqueeze(1)?;
        for layer in &self.layers {
            x = layer.forward(&x, &mask)?;
        }
        Ok(x)
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let heads = |x: Tensor| {
            x.reshape((batch, tokens, HEADS, width / HEADS))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (query, key, value) = (
            heads(self.query.forward(x)?)?,
            heads(self.key.forward(x)?)?,
            heads(self.value.forward(x)?)?,
        );
        let scores = (query.matmul(&key.t()?)? / ((width / HEADS) as f64).sqrt())?;
        let scores = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(mask)?)?;
        let mixed = scores.matmul(&value)?.transpose(1, 2)?.contiguous()?;
        let mixed = mixed.flatten_from(D::Minus2)?;
        let x = self.norms[0].forward(&(self.output.forward(&mixed)? + x)?)?;
        let inner = self.inner.forward(&x)?.gelu_erf()?;
        self.norms[1].forward(&(self.outer.forward(&inner)? + &x)?)
    }
}

/// Describes a program value by value.
struct Recorder {
    description: Description,
    weights: HashMap<String, u32>,
}

impl Recorder {
    fn node(&mut self, op: &str, inputs: &[u32], attrs: &[Attr]) -> u32 {
        self.description.nodes.push(Node {
            op: op.to_owned(),
            inputs: inputs.to_vec(),
            attrs: attrs.to_vec(),
            location: String::new(),
        });
        (self.description.leaves() + self.description.nodes.len() - 1) as u32
    }

    fn linear(&mut self, x: u32, name: &str) -> u32 {
        let (weight, bias) = (
            self.weights[&format!("{name}.weight")],
            self.weights[&format!("{name}.bias")],
        );
        self.node("linear/1", &[x, weight, bias], &[])
    }

    fn norm(&mut self, x: u32, name: &str) -> u32 {
        let (weight, bias) = (
            self.weights[&format!("{name}.weight")],
            self.weights[&format!("{name}.bias")],
        );
        self.node("layer_norm/1", &[x, weight, bias], &[Attr::Float(EPS)])
    }
}

/// The network as a program of ids and mask `[batch, tokens]`.
pub(crate) fn description() -> Description {
    let (batch, tokens) = (Dim::symbol(0), Dim::symbol(1));
    let both = vec![batch.clone(), tokens.clone()];
    let input = |name: &str, dtype| Input {
        name: name.to_owned(),
        dtype,
        shape: both.clone(),
    };
    let all = weights();
    let mut r = Recorder {
        description: Description {
            symbols: vec!["batch".into(), "tokens".into()],
            inputs: vec![input("ids", DType::U32), input("mask", DType::F32)],
            ..Description::default()
        },
        weights: all.iter().zip(2..).map(|((name, _), at)| (name.clone(), at)).collect(),
    };
    let refs = all.into_iter().map(|(name, shape)| WeightRef {
        file: "model".into(),
        name,
        dtype: DType::F32,
        shape: shape.into_iter().map(|n| n as u32).collect(),
    });
    r.description.weights = refs.collect();
    let (words, positions) = (r.weights["words"], r.weights["positions"]);
    let words = r.node("embedding/1", &[words, 0], &[]);
    let place = [Attr::Int(0), Attr::Int(0), Attr::Dims(vec![tokens.clone()])];
    let place = r.node("narrow/1", &[positions], &place);
    let x = r.node("add/1", &[words, place], &[]);
    let mut x = r.norm(x, "norm");
    let mask = r.node("affine/1", &[1], &[Attr::Float(1e4), Attr::Float(-1e4)]);
    let mask = r.node("unsqueeze/1", &[mask], &[Attr::Int(1)]);
    let mask = r.node("unsqueeze/1", &[mask], &[Attr::Int(1)]);
    let head = WIDTH / HEADS;
    for i in 0..LAYERS {
        let split = Attr::Dims(vec![batch.clone(), tokens.clone(), Dim::from(HEADS), Dim::from(head)]);
        let [query, key, value] = ["query", "key", "value"].map(|name| {
            let x = r.linear(x, &format!("{i}.{name}"));
            r.node("reshape/1", &[x], std::slice::from_ref(&split))
        });
        let mixed = r.node("attention/1", &[query, key, value, mask], &[]);
        let joined = Attr::Dims(vec![batch.clone(), tokens.clone(), Dim::from(WIDTH)]);
        let mixed = r.node("reshape/1", &[mixed], &[joined]);
        let mixed = r.linear(mixed, &format!("{i}.output"));
        let sum = r.node("add/1", &[mixed, x], &[]);
        let attended = r.norm(sum, &format!("{i}.norm1"));
        let inner = r.linear(attended, &format!("{i}.inner"));
        let inner = r.node("gelu_erf/1", &[inner], &[]);
        let outer = r.linear(inner, &format!("{i}.outer"));
        let sum = r.node("add/1", &[outer, attended], &[]);
        x = r.norm(sum, &format!("{i}.norm2"));
    }
    r.description.outputs = vec![x];
    r.description
}
