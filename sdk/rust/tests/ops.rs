//! Every op of the table has a method here, which records it with inputs and attributes that its rule takes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use maquette::{
    Attend, CacheSpec, Conv2d, ConvTranspose2d, DType, Frames, Recorder, Recurrent, Result, Tensor, compile,
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
    let kernel = f(p, &[4, 4, 3, 3]);
    let channel = f(p, &[4]);
    let signal = f(p, &[1, 4, 16]);
    let filter = f(p, &[4, 4, 3]);
    let wave = f(p, &[1, 64]);
    let window = f(p, &[16]);
    let steps = f(p, &[1, 5, 6]);
    let (four, three) = (f(p, &[16, 6]), f(p, &[12, 6]));
    let (four_h, three_h) = (f(p, &[16, 4]), f(p, &[12, 4]));
    let heads = f(p, &[1, 4, 2, 8]);
    let cache = p.cache(CacheSpec {
        layers: 1,
        heads: 2,
        width: 8,
        value_width: 8,
    });
    let frames = Frames {
        n_fft: 16,
        hop: 4,
        center: true,
        normalized: false,
    };
    let (pair, none) = ([2, 2], [0, 0]);
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
        x.affine(2.0, 1.0)?,
        x.clamp(0.0, 1.0)?,
        x.powf(2.0)?,
        x.to_dtype(DType::F16)?,
        x.leaky_relu(0.1)?,
        x.elu(1.0)?,
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
        x.sum(0)?,
        x.mean(0)?,
        x.max(0)?,
        x.min(0)?,
        x.argmax(0)?,
        x.argmin(0)?,
        x.log_sum_exp(&[1], false)?,
        x.var(&[1], true, false)?,
        x.reshape((24usize,))?,
        x.t()?,
        x.permute(&[1, 0])?,
        x.narrow(0, 1usize, 2usize)?,
        row.broadcast_as((4usize, 6usize))?,
        x.unsqueeze(0)?.squeeze(0)?,
        Tensor::cat(&[&x, &y], 0)?,
        Tensor::stack(&[&x, &y], 0)?,
        x.pad_with_zeros(0, 1, 1)?,
        x.matmul(&y.t()?)?,
        x.linear(&y, None)?,
        x.embedding(&ids)?,
        x.index_select(&ids, 0)?,
        x.softmax(-1)?,
        x.log_softmax(-1)?,
        x.layer_norm(&row, Some(&row), 1e-5)?,
        x.rms_norm(&row, 1e-5)?,
        Tensor::full(1.0, (2usize,), DType::F32)?,
        Tensor::arange(3usize, DType::U32)?,
        x.l2_normalize(-1, 1e-12)?,
        x.arg_sort(0, true)?,
        x.topk(2, 0)?.0,
        x.gather(&places, 0)?,
        x.scatter(&places, &y, 0)?,
        x.scatter_add(&places, &y, 0)?,
        x.index_add(&ids, &y, 0)?,
        x.tril(0)?,
        x.triu(1)?,
        x.flip(&[0])?,
        x.roll(1, 0)?,
        x.repeat(&[2, 1])?,
        x.repeat_interleave(2, 0)?,
        ids.one_hot(9, DType::F32)?,
        x.cumsum(0)?,
        x.cumprod(0)?,
        x.glu(1)?,
        Tensor::randn(&[2], 1, 0)?,
        Tensor::rand(&[2], 1, 0)?,
    ];
    let images = [
        image.conv2d(&kernel, Some(&channel), Conv2d::default())?,
        image.conv_transpose2d(&kernel, Some(&channel), ConvTranspose2d::default())?,
        image.max_pool2d(pair, pair, none)?,
        image.avg_pool2d(pair, pair, none)?,
        image.adaptive_avg_pool2d([2, 3])?,
        image.upsample_nearest2d([4, 9], false)?,
        image.upsample_bilinear2d([4, 9], true)?,
        image.group_norm(2, Some(&channel), Some(&channel), 1e-5)?,
        image.batch_norm(&channel, &channel, &channel, &channel, 1e-5)?,
        image.prelu(&channel)?,
        image.pixel_shuffle(2)?,
        image.pixel_unshuffle(2)?,
    ];
    let sequences = [
        signal.conv1d(&filter, Some(&channel), 1, 2, 1, 1)?,
        signal.conv_transpose1d(&filter, None, 1, 0, 1, 1, 1)?,
        signal.pad_reflect(-1, 2, 1)?,
        signal.pad_with_same(-1, 2, 1)?,
        signal.interpolate_linear1d(9, false)?,
        signal.upsample_nearest1d(9)?,
        signal.snake(&channel)?,
        steps.lstm(&four, &four_h, Recurrent::default())?,
        steps.gru(&three, &three_h, Recurrent::default())?,
        wave.stft(&window, frames)?,
        wave.stft(&window, frames)?.istft(&window, 64, frames)?,
        heads.rope(&ids, 10_000.0, false)?,
        heads.attention(&heads, &heads, None, Attend::default())?,
        heads.cached_attention(&heads, &heads, cache, 0, Attend::default())?,
    ];
    Ok(pointwise
        .into_iter()
        .chain(shaped)
        .chain(images)
        .chain(sequences)
        .collect())
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
