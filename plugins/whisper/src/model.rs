//! Whisper's encoder and decoder as programs.

use maquette::prelude::*;
use maquette::{CacheSlot, Conv1d, Recorder};

use crate::FRAMES;

/// Elements of a head, in every Whisper.
const HEAD: usize = 64;
const EPS: f64 = 1e-5;

/// What a Whisper is made of, as its tensors say.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) bands: usize,
    pub(crate) vocabulary: usize,
    width: usize,
    inner: usize,
    /// Places of the encoder: half as many as frames.
    heard: usize,
    /// Places of the decoder.
    said: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    names: Names,
}

/// How the tensors are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// `model.encoder.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
    /// `encoder/layer_0/self_attention/linear_0/weight`, with queries, keys and values in one.
    CTranslate2,
}

/// A Whisper, ready to run.
pub(crate) struct Whisper {
    sizes: Sizes,
    /// A spectrogram `[1, bands, 3000]` to keys and values `[1, 1500, heads, 64]` for each layer of the decoder.
    encode: Program,
    /// Ids and positions `[t]`, and what was heard, to logits `[vocabulary]` of the last place.
    decode: Program,
}

/// What the encoder has made of a window: keys and values for each layer of the decoder.
pub(crate) struct Heard(Vec<Tensor>);

/// The decoder over a window.
pub(crate) struct Listening<'a> {
    whisper: &'a Whisper,
    heard: &'a Heard,
    cache: KvCache,
}

impl Whisper {
    pub(crate) fn load(weights: &Weights) -> Result<Self> {
        let sizes = Sizes::of(weights)?;
        let parts = Parts { sizes: &sizes, weights };
        let encode = compile(|program| parts.encoder(program))?;
        let decode = compile(|program| parts.decoder(program))?;
        Ok(Self { sizes, encode, decode })
    }

    pub(crate) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Hears a window: `bands` rows of 3,000 frames.
    pub(crate) fn encode(&self, features: &[f32]) -> Result<Heard> {
        let features = Tensor::from_slice(features, (1, self.sizes.bands, FRAMES))?;
        self.encode.run(&[&features]).map(Heard)
    }

    /// Begins to write down what was heard.
    pub(crate) fn listen<'a>(&'a self, heard: &'a Heard) -> Result<Listening<'a>> {
        Ok(Listening {
            whisper: self,
            heard,
            cache: KvCache::new(&self.sizes.cache(), self.sizes.said)?,
        })
    }
}

impl Listening<'_> {
    /// Appends tokens, and returns the logits of what comes next.
    pub(crate) fn next(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let positions: Vec<u32> = (self.cache.len() as u32..).take(ids.len()).collect();
        let ids = Tensor::from_slice(ids, (ids.len(),))?;
        let positions = Tensor::from_slice(&positions, (positions.len(),))?;
        let inputs: Vec<&Tensor> = [&ids, &positions].into_iter().chain(&self.heard.0).collect();
        let mut outputs = self.whisper.decode.run_with(&inputs, &[&self.cache])?;
        let logits = outputs
            .pop()
            .ok_or_else(|| Error::internal("the decoder returned nothing"))?;
        logits.to_vec()
    }
}

impl Sizes {
    fn of(weights: &Weights) -> Result<Self> {
        let tensors = weights.list()?;
        let shape = |name: &str| {
            tensors
                .iter()
                .find(|(listed, _)| listed == name)
                .map(|(_, shape)| shape.as_slice())
        };
        let names = if shape("encoder/conv1/weight").is_some() {
            Names::CTranslate2
        } else {
            Names::HuggingFace
        };
        let pick = |hugging_face: &str, ctranslate2: &str| {
            let name = if names == Names::HuggingFace {
                hugging_face
            } else {
                ctranslate2
            };
            let found = shape(name).map(|shape| shape.iter().map(|n| *n as usize).collect::<Vec<_>>());
            found.ok_or_else(|| Error::unsupported(format!("the weights have no `{name}`: they are of no Whisper")))
        };
        let layers = |hugging_face: &str, ctranslate2: &str| {
            (0..)
                .take_while(|i| {
                    let (a, b) = (
                        hugging_face.replace('#', &i.to_string()),
                        ctranslate2.replace('#', &i.to_string()),
                    );
                    pick(&a, &b).is_ok()
                })
                .count()
        };
        let convolution = pick("model.encoder.conv1.weight", "encoder/conv1/weight")?;
        let table = pick("model.decoder.embed_tokens.weight", "decoder/embeddings/weight")?;
        let inner = pick(
            "model.decoder.layers.0.fc1.weight",
            "decoder/layer_0/ffn/linear_0/weight",
        )?;
        let heard = pick(
            "model.encoder.embed_positions.weight",
            "encoder/position_encodings/encodings",
        )?;
        let said = pick(
            "model.decoder.embed_positions.weight",
            "decoder/position_encodings/encodings",
        )?;
        let (&[width, bands, 3], &[vocabulary, _], &[inner, _], &[heard, _], &[said, _]) =
            (&*convolution, &*table, &*inner, &*heard, &*said)
        else {
            return Err(Error::unsupported("the weights' shapes are of no Whisper"));
        };
        if heard * 2 != FRAMES || width % HEAD != 0 {
            return Err(Error::unsupported(format!(
                "a Whisper of width {width} that hears {heard} places is not known here"
            )));
        }
        Ok(Self {
            bands,
            vocabulary,
            width,
            inner,
            heard,
            said,
            encoder_layers: layers(
                "model.encoder.layers.#.fc1.weight",
                "encoder/layer_#/ffn/linear_0/weight",
            ),
            decoder_layers: layers(
                "model.decoder.layers.#.fc1.weight",
                "decoder/layer_#/ffn/linear_0/weight",
            ),
            names,
        })
    }

    fn heads(&self) -> usize {
        self.width / HEAD
    }

    fn cache(&self) -> CacheSpec {
        CacheSpec {
            layers: self.decoder_layers as u32,
            heads: self.heads() as u32,
            width: HEAD as u32,
            value_width: HEAD as u32,
        }
    }
}

/// The layers, under whatever names.
struct Parts<'a> {
    sizes: &'a Sizes,
    weights: &'a Weights,
}

impl Parts<'_> {
    fn ctranslate2(&self) -> bool {
        self.sizes.names == Names::CTranslate2
    }

    /// A tensor under one of two names.
    fn get(&self, hugging_face: &str, ctranslate2: &str, shape: &[usize]) -> Result<Tensor> {
        let name = if self.ctranslate2() { ctranslate2 } else { hugging_face };
        match *shape {
            [n] => self.weights.get(name, (n,)),
            [n, k] => self.weights.get(name, (n, k)),
            [n, k, l] => self.weights.get(name, (n, k, l)),
            _ => Err(Error::internal("a tensor of another rank")),
        }
    }

    fn norm(&self, x: &Tensor, hugging_face: &str, ctranslate2: &str) -> Result<Tensor> {
        let get = |a: &str, b: &str| {
            self.get(
                &format!("{hugging_face}.{a}"),
                &format!("{ctranslate2}/{b}"),
                &[self.sizes.width],
            )
        };
        x.layer_norm(&get("weight", "gamma")?, Some(&get("bias", "beta")?), EPS)
    }

    fn linear(&self, x: &Tensor, names: [&str; 2], input: usize, output: usize, bias: bool) -> Result<Tensor> {
        let [a, b] = names;
        let weight = self.get(&format!("{a}.weight"), &format!("{b}/weight"), &[output, input])?;
        let bias = match bias {
            true => Some(self.get(&format!("{a}.bias"), &format!("{b}/bias"), &[output])?),
            false => None,
        };
        x.linear(&weight, bias.as_ref())
    }

    /// Projections of `x` `[1, t, width]`, `count` of queries, keys and values: each `[1, t, heads, 64]`.
    fn project(&self, x: &Tensor, hugging_face: [&str; 3], of: [&str; 2]) -> Result<Vec<Tensor>> {
        let (width, heads) = (self.sizes.width, self.sizes.heads());
        let (_, t, _) = x.dims3()?;
        let wanted = hugging_face.iter().filter(|name| !name.is_empty());
        if self.ctranslate2() {
            let count = wanted.count();
            let all = self.linear(x, ["", of[1]], width, count * width, true)?;
            let all = all.reshape((1, &t, count * heads, HEAD))?;
            return (0..count).map(|i| all.narrow(2, i * heads, heads)).collect();
        }
        wanted
            .map(|name| {
                let path = format!("{}.{name}", of[0]);
                // Keys have no bias: it would change nothing.
                let projected = self.linear(x, [&path, ""], width, width, *name != "k_proj")?;
                projected.reshape((1, &t, heads, HEAD))
            })
            .collect()
    }

    fn join(&self, x: &Tensor) -> Result<Tensor> {
        let t = x.dim(1)?;
        x.reshape((1, &t, self.sizes.width))
    }

    fn feed_forward(&self, x: &Tensor, hugging_face: &str, ctranslate2: &str) -> Result<Tensor> {
        let (width, inner) = (self.sizes.width, self.sizes.inner);
        let h = self.norm(
            x,
            &format!("{hugging_face}.final_layer_norm"),
            &format!("{ctranslate2}/ffn/layer_norm"),
        )?;
        let names = |a: &str, b: &str| (format!("{hugging_face}.{a}"), format!("{ctranslate2}/ffn/{b}"));
        let (a, b) = names("fc1", "linear_0");
        let h = self.linear(&h, [&a, &b], width, inner, true)?.gelu_erf()?;
        let (a, b) = names("fc2", "linear_1");
        x + &self.linear(&h, [&a, &b], inner, width, true)?
    }

    fn encoder(&self, program: &mut Recorder) -> Result<Vec<Tensor>> {
        let s = self.sizes;
        let features = program.input("features", DType::F32, (1, s.bands, FRAMES))?;
        let convolve = |x: &Tensor, i: usize, input: usize, stride: usize| {
            let get = |what: &str, shape: &[usize]| {
                self.get(
                    &format!("model.encoder.conv{i}.{what}"),
                    &format!("encoder/conv{i}/{what}"),
                    shape,
                )
            };
            let (weight, bias) = (get("weight", &[s.width, input, 3])?, get("bias", &[s.width])?);
            let how = Conv1d {
                stride,
                padding: [1, 1],
                ..Conv1d::default()
            };
            x.conv1d(&weight, Some(&bias), how)?.gelu_erf()
        };
        let x = convolve(&features, 1, s.bands, 1)?;
        let x = convolve(&x, 2, s.width, 2)?.transpose(1, 2)?;
        let places = self.get(
            "model.encoder.embed_positions.weight",
            "encoder/position_encodings/encodings",
            &[s.heard, s.width],
        )?;
        let mut x = (&x + &places)?;
        for i in 0..s.encoder_layers {
            let (a, b) = (format!("model.encoder.layers.{i}"), format!("encoder/layer_{i}"));
            let h = self.norm(
                &x,
                &format!("{a}.self_attn_layer_norm"),
                &format!("{b}/self_attention/layer_norm"),
            )?;
            let of = [&*format!("{a}.self_attn"), &*format!("{b}/self_attention/linear_0")];
            let qkv = self.project(&h, ["q_proj", "k_proj", "v_proj"], of)?;
            let [q, k, v] = qkv.as_slice() else {
                return Err(Error::internal("three projections"));
            };
            let mixed = self.join(&q.attention(k, v, None, Attend::default())?)?;
            let out = [
                &*format!("{a}.self_attn.out_proj"),
                &*format!("{b}/self_attention/linear_1"),
            ];
            x = (&x + &self.linear(&mixed, out, s.width, s.width, true)?)?;
            x = self.feed_forward(&x, &a, &b)?;
        }
        let x = self.norm(&x, "model.encoder.layer_norm", "encoder/layer_norm")?;
        let mut heard = Vec::with_capacity(2 * s.decoder_layers);
        for i in 0..s.decoder_layers {
            let of = [
                &*format!("model.decoder.layers.{i}.encoder_attn"),
                &*format!("decoder/layer_{i}/attention/linear_1"),
            ];
            heard.extend(self.project(&x, ["", "k_proj", "v_proj"], of)?);
        }
        Ok(heard)
    }

    fn decoder(&self, program: &mut Recorder) -> Result<Tensor> {
        let s = self.sizes;
        let t = program.dim("tokens");
        let ids = program.input("ids", DType::U32, (&t,))?;
        let positions = program.input("positions", DType::U32, (&t,))?;
        let mut heard = Vec::with_capacity(2 * s.decoder_layers);
        for i in 0..2 * s.decoder_layers {
            heard.push(program.input(&format!("heard {i}"), DType::F32, (1, s.heard, s.heads(), HEAD))?);
        }
        let cache: CacheSlot = program.cache(s.cache());
        let table = self.get(
            "model.decoder.embed_tokens.weight",
            "decoder/embeddings/weight",
            &[s.vocabulary, s.width],
        )?;
        let places = self.get(
            "model.decoder.embed_positions.weight",
            "decoder/position_encodings/encodings",
            &[s.said, s.width],
        )?;
        let mut x = (&table.embedding(&ids)? + &places.embedding(&positions)?)?.unsqueeze(0)?;
        for (i, heard) in heard.chunks_exact(2).enumerate() {
            let (a, b) = (format!("model.decoder.layers.{i}"), format!("decoder/layer_{i}"));
            let h = self.norm(
                &x,
                &format!("{a}.self_attn_layer_norm"),
                &format!("{b}/self_attention/layer_norm"),
            )?;
            let of = [&*format!("{a}.self_attn"), &*format!("{b}/self_attention/linear_0")];
            let qkv = self.project(&h, ["q_proj", "k_proj", "v_proj"], of)?;
            let [q, k, v] = qkv.as_slice() else {
                return Err(Error::internal("three projections"));
            };
            let mixed = self.join(&q.cached_attention(k, v, cache, i, Attend::default())?)?;
            let out = [
                &*format!("{a}.self_attn.out_proj"),
                &*format!("{b}/self_attention/linear_1"),
            ];
            x = (&x + &self.linear(&mixed, out, s.width, s.width, true)?)?;

            let h = self.norm(
                &x,
                &format!("{a}.encoder_attn_layer_norm"),
                &format!("{b}/attention/layer_norm"),
            )?;
            let of = [
                &*format!("{a}.encoder_attn.q_proj"),
                &*format!("{b}/attention/linear_0"),
            ];
            let q = self
                .linear(&h, of, s.width, s.width, true)?
                .reshape((1, &t, s.heads(), HEAD))?;
            let mixed = self.join(&q.attention(&heard[0], &heard[1], None, Attend::default())?)?;
            let out = [
                &*format!("{a}.encoder_attn.out_proj"),
                &*format!("{b}/attention/linear_2"),
            ];
            x = (&x + &self.linear(&mixed, out, s.width, s.width, true)?)?;
            x = self.feed_forward(&x, &a, &b)?;
        }
        let last = x.narrow(1, &t - &Dim::from(1_usize), 1)?;
        let last = self.norm(&last, "model.decoder.layer_norm", "decoder/layer_norm")?;
        last.linear(&table, None)?.flatten_all()
    }
}
