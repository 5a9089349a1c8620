//! Every op of the table has a method here, which records it with inputs and attributes that its rule takes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use maquette::{
    Attend, Attr, CacheSpec, Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, DType, Frames, Recorder, Recurrent,
    Result, Tensor, compile,
};

fn input(program: &mut Recorder, shape: &[usize], dtype: DType) -> Tensor {
    let name = format!("{shape:?}");
    match *shape {
        [a] => program.input(&name, dtype, (a,)),
        [a, b] => program.input(&name, dtype, (a, b)),
        [a, b, c] => program.input(&name, dtype, (a, b, c)),
        _ => program.input(&name, dtype, (shape[0], shape[1], shape[2], shape[3])),
    }
    .unwrap()
}

fn everything(p: &mut Recorder) -> Result<Vec<Tensor>> {
    let f = |p: &mut Recorder, shape: &[usize]| input(p, shape, DType::F32);
    let x = f(p, &[4, 6]);
    let y = f(p, &[4, 6]);
    let row = f(p, &[6]);
    let ids = input(p, &[4], DType::U32);
    let places = input(p, &[4, 6], DType::U32);
    let image = f(p, &[1, 4, 8, 8]);
    let narrow_kernel = f(p, &[4, 2, 3, 3]);
    let channel = f(p, &[4]);
    let signal = f(p, &[1, 4, 16]);
    let filter = f(p, &[4, 2, 3]);
    let first = f(p, &[1, 4]);
    let wave = f(p, &[1, 64]);
    let window = f(p, &[16]);
    let steps = f(p, &[1, 5, 6]);
    let (four, three) = (f(p, &[16, 6]), f(p, &[12, 6]));
    let (four_h, three_h) = (f(p, &[16, 4]), f(p, &[12, 4]));
    let heads = f(p, &[1, 4, 2, 8]);
    let cache = p.cache(CacheSpec {
        layers: 2,
        heads: 2,
        width: 8,
        value_width: 8,
    });
    let frames = Frames {
        n_fft: 16,
        hop: 4,
        center: false,
        normalized: true,
    };
    let conv2d = Conv2d {
        stride: [2, 3],
        padding: [1, 2, 3, 4],
        dilation: [3, 2],
        groups: 2,
    };
    let conv_transpose2d = ConvTranspose2d {
        stride: [4, 3],
        padding: [1, 2],
        output_padding: [3, 1],
        dilation: [3, 2],
        groups: 2,
    };
    let conv1d = Conv1d {
        stride: 5,
        padding: [1, 3],
        dilation: 4,
        groups: 2,
    };
    let conv_transpose1d = ConvTranspose1d {
        stride: 5,
        padding: 3,
        output_padding: 1,
        dilation: 4,
        groups: 2,
    };
    let attend = Attend {
        scale: Some(0.5),
        causal: true,
        window: Some(7),
        cap: Some(30.0),
    };
    let pointwise = [
        x.neg()?,
        x.abs()?,
        x.exp()?,
        x.log()?,
        x.sqrt()?,
        x.rsqrt()?,
        x.sqr()?,
        x.recip()?,
        x.sin()?,
        x.cos()?,
        x.tanh()?,
        x.sigmoid()?,
        x.silu()?,
        x.relu()?,
        x.gelu()?,
        x.gelu_erf()?,
        x.erf()?,
        x.floor()?,
        x.ceil()?,
        x.round()?,
        x.sign()?,
        x.hard_sigmoid()?,
        x.hard_swish()?,
        x.mish()?,
        x.softplus()?,
        x.log1p()?,
        x.expm1()?,
        x.affine(2.0, 3.0)?,
        x.clamp(-1.0, 4.0)?,
        x.powf(2.0)?,
        x.to_dtype(DType::F16)?,
        x.leaky_relu(0.1)?,
        x.elu(0.5)?,
        (&x + &y)?,
        (&x - &y)?,
        (&x * &y)?,
        (&x / &y)?,
        x.maximum(&y)?,
        x.minimum(&y)?,
        x.eq(&y)?,
        x.ne(&y)?,
        x.lt(&y)?,
        x.le(&y)?,
        x.gt(&y)?,
        x.ge(&y)?,
        x.rem(&y)?,
        x.pow(&y)?,
        x.atan2(&y)?,
        x.gt(&y)?.where_cond(&x, &y)?,
    ];
    let shaped = [
        x.sum_keepdim(1)?,
        x.sum(0)?,
        x.sum_all()?,
        x.mean_keepdim(1)?,
        x.mean(0)?,
        x.mean_all()?,
        x.max_keepdim(1)?,
        x.max(0)?,
        x.max_all()?,
        x.min_keepdim(1)?,
        x.min(0)?,
        x.min_all()?,
        x.argmax_keepdim(1)?,
        x.argmax(0)?,
        x.argmin_keepdim(1)?,
        x.argmin(0)?,
        x.log_sum_exp(&[1], true)?,
        x.var(&[1], true, false)?,
        x.reshape((24usize,))?,
        x.t()?,
        x.permute(&[1, 0])?,
        x.narrow(0, 1, 2)?,
        row.broadcast_as((4usize, 6usize))?,
        x.unsqueeze(0)?.squeeze(0)?,
        Tensor::cat(&[&x, &y], 1)?,
        Tensor::stack(&[&x, &y], 2)?,
        x.pad_with_zeros(0, 1, 1)?,
        x.pad(1, 2, 3, -1.0)?,
        x.matmul(&y.t()?)?,
        x.linear(&y, None)?,
        x.embedding(&ids)?,
        x.index_select(&ids, 1)?,
        x.softmax(0)?,
        x.log_softmax(0)?,
        x.layer_norm(&row, Some(&row), 1e-6)?,
        x.rms_norm(&row, 1e-6)?,
        Tensor::full(1.5, (2, 3), DType::F16)?,
        Tensor::arange(3, DType::U32)?,
        Tensor::arange_step(4.0, 0.5, 3, DType::F32)?,
        x.l2_normalize(0, 1e-6)?,
        x.argsort(0, true)?,
        x.sort(1, false)?.0,
        x.topk(2, 0, false)?.0,
        x.gather(&places, 0)?,
        x.scatter(&places, &y, 0)?,
        x.scatter_add(&places, &y, 0)?,
        x.index_add(&ids, &y, 0)?,
        x.tril(-1)?,
        x.triu(1)?,
        x.flip(&[0])?,
        x.roll(2, 1)?,
        x.repeat((2, 1))?,
        x.repeat_interleave(2, 1)?,
        ids.one_hot(9, DType::F16)?,
        x.cumsum(1)?,
        x.cumprod(1)?,
        x.glu(1)?,
        Tensor::randn((2, 3), u64::MAX, 4)?,
        Tensor::rand_uniform([2, 3], 5, 6)?,
    ];
    let images = [
        image.conv2d(&narrow_kernel, Some(&channel), conv2d)?,
        image.conv_transpose2d(&narrow_kernel, None, conv_transpose2d)?,
        image.max_pool2d([2, 3], [4, 5], [1, 2])?,
        image.avg_pool2d([2, 3], [4, 5], [1, 2], false)?,
        image.adaptive_avg_pool2d((2, 3))?,
        image.upsample_nearest2d([4, 9], true)?,
        image.upsample_bilinear2d((4, 9), true)?,
        image.group_norm(2, Some(&channel), Some(&channel), 1e-6)?,
        image.batch_norm(&channel, &channel, &channel, &channel, 1e-6)?,
        image.prelu(&channel)?,
        image.pixel_shuffle(2)?,
        image.pixel_unshuffle(4)?,
    ];
    let reverse = Recurrent {
        state: Some(&first),
        reverse: true,
        ..Recurrent::default()
    };
    let sequences = [
        signal.conv1d(&filter, Some(&channel), conv1d)?,
        signal.conv_transpose1d(&filter, None, conv_transpose1d)?,
        signal.pad_reflect(-1, 2, 1)?,
        signal.pad_with_same(-1, 2, 1)?,
        signal.interpolate_linear1d(9, true)?,
        signal.upsample_nearest1d(9, true)?,
        signal.snake(&channel)?,
        steps.lstm(&four, &four_h, reverse)?,
        steps.gru(&three, &three_h, reverse)?,
        wave.stft(&window, frames)?,
        wave.stft(&window, frames)?.istft(&window, 64, frames)?,
        heads.rope(&ids, 500.0, true)?,
        heads.attention(&heads, &heads, None, attend)?,
        heads.cached_attention(&heads, &heads, cache, 0, attend)?,
        heads.cached_attention(&heads, &heads, cache, 1, attend)?,
    ];
    Ok(pointwise
        .into_iter()
        .chain(shaped)
        .chain(images)
        .chain(sequences)
        .collect())
}

/// What the calls above give to each attribute of the table, by its name.
const GIVEN: &[(&str, &str)] = &[
    ("affine/1", "mul=2 add=3"),
    ("clamp/1", "min=-1 max=4"),
    ("powf/1", "exponent=2"),
    ("cast/1", "dtype=f16"),
    ("sum/1", "dims=[1] keepdim=true"),
    ("mean/1", "dims=[1] keepdim=true"),
    ("max/1", "dims=[1] keepdim=true"),
    ("min/1", "dims=[1] keepdim=true"),
    ("argmax/1", "dim=1 keepdim=true"),
    ("argmin/1", "dim=1 keepdim=true"),
    ("reshape/1", "shape=[24]"),
    ("transpose/1", "dim1=-2 dim2=-1"),
    ("permute/1", "dims=[1, 0]"),
    ("narrow/1", "dim=0 start=[1] len=[2]"),
    ("broadcast_to/1", "shape=[4, 6]"),
    ("squeeze/1", "dim=0"),
    ("unsqueeze/1", "dim=0"),
    ("cat/1", "dim=1"),
    ("stack/1", "dim=2"),
    ("pad/1", "dim=1 left=[2] right=[3] value=-1"),
    ("index_select/1", "dim=1"),
    ("softmax/1", "dim=0"),
    ("log_softmax/1", "dim=0"),
    ("layer_norm/1", "eps=0.000001"),
    ("rms_norm/1", "eps=0.000001"),
    ("full/1", "shape=[2, 3] value=1.5 dtype=f16"),
    ("arange/1", "len=[3] start=4 step=0.5 dtype=f32"),
    ("rope/1", "base=500 interleaved=true"),
    ("attention/1", "scale=0.5 causal=true window=7 cap=30"),
    ("cached_attention/1", "cache=0 layer=1 scale=0.5 window=7 cap=30"),
    (
        "conv2d/1",
        "stride=[2, 3] padding=[1, 2, 3, 4] dilation=[3, 2] groups=2",
    ),
    (
        "conv_transpose2d/1",
        "stride=[4, 3] padding=[1, 2] output_padding=[3, 1] dilation=[3, 2] groups=2",
    ),
    ("max_pool2d/1", "kernel=[2, 3] stride=[4, 5] padding=[1, 2]"),
    (
        "avg_pool2d/1",
        "kernel=[2, 3] stride=[4, 5] padding=[1, 2] ceil_mode=false count_include_pad=false",
    ),
    ("adaptive_avg_pool2d/1", "size=[2, 3]"),
    ("resize_nearest2d/1", "size=[4, 9] exact=true"),
    ("resize_bilinear2d/1", "size=[4, 9] align_corners=true"),
    ("group_norm/1", "groups=2 eps=0.000001"),
    ("batch_norm/1", "eps=0.000001"),
    ("leaky_relu/1", "slope=0.1"),
    ("elu/1", "alpha=0.5"),
    ("pixel_shuffle/1", "factor=2"),
    ("pixel_unshuffle/1", "factor=4"),
    ("randn/1", "shape=[2, 3] seed=-1 offset=4"),
    ("rand_uniform/1", "shape=[2, 3] seed=5 offset=6"),
    ("argsort/1", "dim=0 descending=true"),
    ("topk/1", "k=[2] dim=0 largest=false"),
    ("gather/1", "dim=0"),
    ("scatter/1", "dim=0"),
    ("scatter_add/1", "dim=0"),
    ("index_add/1", "dim=0"),
    ("conv1d/1", "stride=5 left=1 right=3 dilation=4 groups=2"),
    (
        "conv_transpose1d/1",
        "stride=5 padding=3 output_padding=1 dilation=4 groups=2",
    ),
    ("cumsum/1", "dim=1"),
    ("cumprod/1", "dim=1"),
    ("pad_reflect/1", "dim=-1 left=[2] right=[1]"),
    ("pad_replicate/1", "dim=-1 left=[2] right=[1]"),
    ("lstm/1", "reverse=true"),
    ("gru/1", "reverse=true"),
    ("resize_linear1d/1", "size=[9] align_corners=true"),
    ("resize_nearest1d/1", "size=[9] align_corners=true"),
    ("stft/1", "n_fft=16 hop=4 center=false normalized=true"),
    ("istft/1", "n_fft=16 hop=4 length=[64] center=false normalized=true"),
    ("tril/1", "diagonal=-1"),
    ("triu/1", "diagonal=1"),
    ("flip/1", "dims=[0]"),
    ("roll/1", "dim=1 shift=2"),
    ("repeat/1", "repeats=[2, 1]"),
    ("repeat_interleave/1", "dim=1 times=[2]"),
    ("one_hot/1", "depth=[9] dtype=f16"),
    ("logsumexp/1", "dims=[1] keepdim=true"),
    ("var/1", "dims=[1] keepdim=true unbiased=false"),
    ("l2_normalize/1", "dim=0 eps=0.000001"),
    ("glu/1", "dim=1"),
];

fn show(attr: &Attr) -> String {
    match attr {
        Attr::Unset => "unset".to_owned(),
        Attr::Flag(flag) => flag.to_string(),
        Attr::Int(int) => int.to_string(),
        Attr::Float(float) => float.to_string(),
        Attr::Ints(ints) => maquette_ops::show(ints),
        Attr::Dims(dims) => maquette_ops::show(dims),
        Attr::DType(dtype) => dtype.to_string(),
    }
}

#[test]
fn attributes_stand_where_the_table_has_them() {
    let program = compile(everything).unwrap();
    let given: BTreeMap<&str, &str> = GIVEN.iter().copied().collect();
    for spec in maquette_ops::table() {
        if spec.attrs.is_empty() || spec.name == "sample/1" {
            continue;
        }
        let nodes = program.description().nodes.iter();
        let recorded: Vec<String> = nodes
            .filter(|node| node.op == spec.name)
            .map(|node| {
                let named = spec.attrs.iter().zip(&node.attrs);
                let named = named.map(|(attr, value)| format!("{}={}", attr.name, show(value)));
                named.collect::<Vec<_>>().join(" ")
            })
            .collect();
        let wanted = given.get(spec.name).copied().unwrap_or("nothing yet: add a row");
        assert!(
            recorded.iter().any(|r| r == wanted),
            "{}: {recorded:#?}, not {wanted}",
            spec.name
        );
    }
}

#[test]
fn a_state_needs_no_biases_and_a_cell_needs_a_state() {
    let record = |state: bool| {
        compile(|p| {
            let mut f = |shape: &[usize]| input(p, shape, DType::F16);
            let (x, w_ih, w_hh, first) = (f(&[1, 5, 6]), f(&[16, 6]), f(&[16, 4]), f(&[1, 4]));
            let more = Recurrent {
                state: state.then_some(&first),
                cell: Some(&first),
                ..Recurrent::default()
            };
            x.lstm(&w_ih, &w_hh, more)
        })
    };
    let program = record(true).unwrap();
    let nodes = &program.description().nodes;
    assert_eq!(
        nodes.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(),
        ["full/1", "lstm/1"]
    );
    assert_eq!(nodes[1].inputs.len(), 7);
    let error = record(false).err().unwrap();
    assert!(error.message().contains("lstm/1(x: float"), "{error}");
}

#[test]
fn every_op_of_the_table_has_a_method() {
    let program = compile(everything).unwrap();
    let recorded: BTreeSet<&str> = program
        .description()
        .nodes
        .iter()
        .map(|node| node.op.as_str())
        .collect();
    let missing: Vec<&str> = maquette_ops::table()
        .iter()
        .map(|spec| spec.name)
        // Sampling is `nn::Sampling`: its step changes with each choice, so it is never recorded.
        .filter(|name| *name != "sample/1" && !recorded.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
