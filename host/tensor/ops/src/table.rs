//! The op table: what each op is called, takes, returns and means. Eager calls, programs, budgets, the SDK and the
//! documentation all read it.

use crate::dtype::DType;
use crate::error::Error;

/// An op of the table, resolved from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub u32);

/// What an input may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// f32, f16, bf16.
    Float,
    /// Any element type.
    Any,
    /// u8, u32, i64: indices, or conditions.
    Index,
}

/// How often an input occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurs {
    /// Exactly once.
    Once,
    /// Once or not at all; only the last inputs are optional.
    Optional,
    /// Once or more; only the last input is repeated.
    Repeated,
}

/// An input of an op.
#[derive(Clone, Copy, Debug)]
pub struct InputSpec {
    /// For documentation and messages.
    pub name: &'static str,
    /// What it may hold.
    pub accepts: Accepts,
    /// How often it occurs.
    pub occurs: Occurs,
}

/// The type of an attribute and its default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttrKind {
    /// Yes or no.
    Flag(bool),
    /// An axis; negative ones count from the end.
    Axis(Option<i64>),
    /// A number.
    Float(Option<f64>),
    /// An integer.
    Int(Option<i64>),
    /// Two integers, `[y, x]`; one stands for both.
    Pair(Option<[i64; 2]>),
    /// What is added around an image: `[top, bottom, left, right]`, `[y, x]` for both sides of each, or one integer for all; 0 if
    /// not given.
    Padding,
    /// Axes; all of them if there are none.
    Axes,
    /// A shape; required.
    Shape,
    /// One dimension; required.
    Size,
    /// An element type.
    DType(Option<DType>),
}

/// An attribute of an op.
#[derive(Clone, Copy, Debug)]
pub struct AttrSpec {
    /// For documentation and messages.
    pub name: &'static str,
    /// Its type and default.
    pub kind: AttrKind,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct OpSpec {
    /// Which op it is; the host's implementations match on it.
    pub op: Op,
    /// The versioned name, such as `matmul/1`.
    pub name: &'static str,
    /// What it computes, in a sentence or two.
    pub doc: &'static str,
    /// Its inputs in order.
    pub inputs: &'static [InputSpec],
    /// Its attributes in order.
    pub attrs: &'static [AttrSpec],
}

const fn x(name: &'static str, accepts: Accepts) -> InputSpec {
    InputSpec {
        name,
        accepts,
        occurs: Occurs::Once,
    }
}
const fn optional(name: &'static str, accepts: Accepts) -> InputSpec {
    InputSpec {
        name,
        accepts,
        occurs: Occurs::Optional,
    }
}
const fn repeated(name: &'static str, accepts: Accepts) -> InputSpec {
    InputSpec {
        name,
        accepts,
        occurs: Occurs::Repeated,
    }
}
const fn attr(name: &'static str, kind: AttrKind) -> AttrSpec {
    AttrSpec { name, kind }
}

use AttrKind as K;

const ONE_ANY: &[InputSpec] = &[x("x", Accepts::Any)];
const ONE_FLOAT: &[InputSpec] = &[x("x", Accepts::Float)];
const TWO_ANY: &[InputSpec] = &[x("a", Accepts::Any), x("b", Accepts::Any)];
const TWO_FLOAT: &[InputSpec] = &[x("a", Accepts::Float), x("b", Accepts::Float)];
const REDUCE: &[AttrSpec] = &[attr("dims", K::Axes), attr("keepdim", K::Flag(false))];
const ARG: &[AttrSpec] = &[attr("dim", K::Axis(None)), attr("keepdim", K::Flag(false))];
const DIM: &[AttrSpec] = &[attr("dim", K::Axis(None))];
const LAST_DIM: &[AttrSpec] = &[attr("dim", K::Axis(Some(-1)))];
const ONES: AttrKind = K::Pair(Some([1, 1]));
const ZEROS: AttrKind = K::Pair(Some([0, 0]));
const GROUPS: AttrSpec = attr("groups", K::Int(Some(1)));
const EPS: AttrSpec = attr("eps", K::Float(Some(1e-5)));
const RANDOM: &[AttrSpec] = &[
    attr("shape", K::Shape),
    attr("seed", K::Int(Some(0))),
    attr("offset", K::Int(Some(0))),
];
const CONVOLUTION: &[InputSpec] = &[
    x("x", Accepts::Float),
    x("weight", Accepts::Float),
    optional("bias", Accepts::Float),
];

macro_rules! table {
    ($($op:ident $name:literal $inputs:expr, $attrs:expr, $doc:literal;)*) => {
        /// Every op, in the table's order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Op { $(#[doc = $doc] $op,)* }

        static TABLE: &[OpSpec] = &[
            $(OpSpec { op: Op::$op, name: concat!($name, "/1"), doc: $doc, inputs: $inputs, attrs: $attrs },)*
        ];
    };
}

table! {
    Add "add" TWO_ANY, &[], "`a + b`, element by element, broadcasting. Both of one dtype.";
    Sub "sub" TWO_ANY, &[], "`a - b`, element by element, broadcasting. Both of one dtype.";
    Mul "mul" TWO_ANY, &[], "`a * b`, element by element, broadcasting. Both of one dtype.";
    Div "div" TWO_FLOAT, &[], "`a / b`, element by element, broadcasting. Floats only: integers could divide by zero.";
    Maximum "maximum" TWO_ANY, &[], "The larger of `a` and `b`, element by element, broadcasting.";
    Minimum "minimum" TWO_ANY, &[], "The smaller of `a` and `b`, element by element, broadcasting.";
    Eq "eq" TWO_ANY, &[], "1 where `a == b`, else 0, as u8; broadcasting.";
    Ne "ne" TWO_ANY, &[], "1 where `a != b`, else 0, as u8; broadcasting.";
    Lt "lt" TWO_ANY, &[], "1 where `a < b`, else 0, as u8; broadcasting.";
    Le "le" TWO_ANY, &[], "1 where `a <= b`, else 0, as u8; broadcasting.";
    Gt "gt" TWO_ANY, &[], "1 where `a > b`, else 0, as u8; broadcasting.";
    Ge "ge" TWO_ANY, &[], "1 where `a >= b`, else 0, as u8; broadcasting.";
    Where "where" &[x("condition", Accepts::Index), x("a", Accepts::Any), x("b", Accepts::Any)], &[],
        "`a` where the condition is not 0, else `b`; all three broadcast.";
    Affine "affine" ONE_FLOAT, &[attr("mul", K::Float(Some(1.0))), attr("add", K::Float(Some(0.0)))], "`x * mul + add`.";
    Clamp "clamp" ONE_FLOAT, &[attr("min", K::Float(None)), attr("max", K::Float(None))],
        "`x` held between `min` and `max`; `min` must not exceed `max`.";
    Powf "powf" ONE_FLOAT, &[attr("exponent", K::Float(None))], "`x` to the power of a number.";
    Neg "neg" ONE_FLOAT, &[], "`-x`.";
    Abs "abs" ONE_FLOAT, &[], "The absolute value.";
    Exp "exp" ONE_FLOAT, &[], "e to the power of `x`.";
    Log "log" ONE_FLOAT, &[], "The natural logarithm.";
    Sqrt "sqrt" ONE_FLOAT, &[], "The square root.";
    Rsqrt "rsqrt" ONE_FLOAT, &[], "1 over the square root.";
    Sqr "sqr" ONE_FLOAT, &[], "`x * x`.";
    Recip "recip" ONE_FLOAT, &[], "`1 / x`.";
    Sin "sin" ONE_FLOAT, &[], "The sine, `x` in radians.";
    Cos "cos" ONE_FLOAT, &[], "The cosine, `x` in radians.";
    Tanh "tanh" ONE_FLOAT, &[], "The hyperbolic tangent.";
    Sigmoid "sigmoid" ONE_FLOAT, &[], "`1 / (1 + exp(-x))`.";
    Silu "silu" ONE_FLOAT, &[], "`x * sigmoid(x)`, also called swish.";
    Relu "relu" ONE_FLOAT, &[], "`max(x, 0)`.";
    Gelu "gelu" ONE_FLOAT, &[], "GELU in its tanh approximation (Hendrycks and Gimpel, 2016).";
    GeluErf "gelu_erf" ONE_FLOAT, &[], "GELU, exact: `x * Phi(x)` (Hendrycks and Gimpel, 2016).";
    Erf "erf" ONE_FLOAT, &[], "The error function.";
    Floor "floor" ONE_FLOAT, &[], "The largest integer not above `x`.";
    Ceil "ceil" ONE_FLOAT, &[], "The smallest integer not below `x`.";
    Round "round" ONE_FLOAT, &[], "The nearest integer, halves away from zero.";
    Sign "sign" ONE_FLOAT, &[], "-1, 0 or 1.";
    Cast "cast" ONE_ANY, &[attr("dtype", K::DType(None))],
        "The same values as another dtype; floats lose their fraction and saturate on the way to integers.";
    Sum "sum" ONE_ANY, REDUCE, "The sum over dimensions (all, if none are named). Half floats add up in f32.";
    Mean "mean" ONE_FLOAT, REDUCE, "The mean over dimensions (all, if none are named). Half floats add up in f32.";
    Max "max" ONE_ANY, REDUCE, "The largest element over dimensions (all, if none are named), which must not be empty.";
    Min "min" ONE_ANY, REDUCE, "The smallest element over dimensions (all, if none are named), which must not be empty.";
    Argmax "argmax" ONE_ANY, ARG, "The index of the largest element along a dimension, the first of equals, as u32.";
    Argmin "argmin" ONE_ANY, ARG, "The index of the smallest element along a dimension, the first of equals, as u32.";
    Reshape "reshape" ONE_ANY, &[attr("shape", K::Shape)],
        "The same elements in row-major order under another shape, in which one -1 stands for what is left.";
    Transpose "transpose" ONE_ANY, &[attr("dim1", K::Axis(None)), attr("dim2", K::Axis(None))], "Two dimensions exchanged.";
    Permute "permute" ONE_ANY, &[attr("dims", K::Axes)], "Dimension `i` of the output is dimension `dims[i]` of the input.";
    Narrow "narrow" ONE_ANY, &[attr("dim", K::Axis(None)), attr("start", K::Size), attr("len", K::Size)],
        "The part of a dimension from `start` on, `len` long.";
    BroadcastTo "broadcast_to" ONE_ANY, &[attr("shape", K::Shape)],
        "Dimensions of 1, and missing ones on the left, repeated to a shape, without copying.";
    Squeeze "squeeze" ONE_ANY, DIM, "A dimension of 1 taken away.";
    Unsqueeze "unsqueeze" ONE_ANY, DIM, "A dimension of 1 put in, at this place of the output.";
    Cat "cat" &[repeated("x", Accepts::Any)], DIM, "Tensors one after the other along a dimension; the others must agree.";
    Stack "stack" &[repeated("x", Accepts::Any)], DIM, "Tensors of one shape along a new dimension.";
    Pad "pad" ONE_ANY, &[attr("dim", K::Axis(None)), attr("left", K::Size), attr("right", K::Size),
        attr("value", K::Float(Some(0.0)))], "A dimension made longer at both ends, filled with a number.";
    Matmul "matmul" TWO_FLOAT, &[],
        "The matrix product of the last two dimensions, `[.., m, k]` by `[.., k, n]`; the dimensions before them broadcast.";
    Linear "linear" &[x("x", Accepts::Float), x("weight", Accepts::Float), optional("bias", Accepts::Float)], &[],
        "`x * weight^T + bias` for x `[.., in]`, weight `[out, in]`, bias `[out]`.";
    Embedding "embedding" &[x("weight", Accepts::Any), x("ids", Accepts::Index)], &[],
        "Row `ids[..]` of the weight `[rows, width]` for each id: `[.., width]`. An id past the rows is `invalid-input`.";
    IndexSelect "index_select" &[x("x", Accepts::Any), x("ids", Accepts::Index)], DIM,
        "The places `ids` `[n]` along a dimension. An id past it is `invalid-input`.";
    Softmax "softmax" ONE_FLOAT, LAST_DIM, "`exp(x) / sum(exp(x))` along a dimension, computed stably.";
    LogSoftmax "log_softmax" ONE_FLOAT, LAST_DIM, "The logarithm of the softmax along a dimension, computed stably.";
    LayerNorm "layer_norm" &[x("x", Accepts::Float), x("weight", Accepts::Float), optional("bias", Accepts::Float)],
        &[attr("eps", K::Float(Some(1e-5)))],
        "The last dimension with its mean taken away and divided by its standard deviation, times weight plus bias (Ba et al., 2016).";
    RmsNorm "rms_norm" &[x("x", Accepts::Float), x("weight", Accepts::Float)], &[attr("eps", K::Float(Some(1e-5)))],
        "The last dimension divided by its root mean square, times weight (Zhang and Sennrich, 2019).";
    Full "full" &[], &[attr("shape", K::Shape), attr("value", K::Float(None)), attr("dtype", K::DType(Some(DType::F32)))],
        "A tensor of one number, which takes no more memory than that number.";
    Arange "arange" &[], &[attr("len", K::Size), attr("start", K::Float(Some(0.0))), attr("step", K::Float(Some(1.0))),
        attr("dtype", K::DType(Some(DType::U32)))], "`start + i * step` for i from 0 to `len`.";
    Rope "rope" &[x("x", Accepts::Float), x("positions", Accepts::Index), optional("frequencies", Accepts::Float)],
        &[attr("base", K::Float(Some(10_000.0))), attr("interleaved", K::Flag(false))],
        "Rotary embedding (Su et al., 2021) of x `[b, t, heads, width]` at positions `[t]` or `[b, t]`: pairs `(i, i + n)`, or interleaved `(2i, 2i + 1)`, are turned by `position * frequency[i]`; frequencies `[n]` turn the first `2n` elements, and are `base^(-2i / width)` for all if not given.";
    Attention "attention" &[x("q", Accepts::Float), x("k", Accepts::Float), x("v", Accepts::Float), optional("bias", Accepts::Float)],
        &[attr("scale", K::Float(Some(0.0))), attr("causal", K::Flag(false)), attr("window", K::Int(Some(0))), attr("cap", K::Float(Some(0.0)))],
        "`softmax(scale * q k^T + bias) v` for q `[b, t, heads, d]`, k `[b, s, kv heads, d]`, v `[b, s, kv heads, e]`: `[b, t, heads, e]`. Heads share keys in groups; the bias broadcasts to `[b, heads, t, s]`; a scale of 0 is `1 / sqrt(d)`; causal, the last query is at the last key; a window bounds how many keys are seen, a cap makes scores `cap * tanh(score / cap)` (Vaswani et al., 2017; Dao et al., 2022). What sees nothing is 0.";
    CachedAttention "cached_attention" &[x("q", Accepts::Float), x("k", Accepts::Float), x("v", Accepts::Float)],
        &[attr("cache", K::Int(Some(0))), attr("layer", K::Int(None)), attr("scale", K::Float(Some(0.0))), attr("window", K::Int(Some(0))),
        attr("cap", K::Float(Some(0.0)))],
        "Appends k and v `[1, t, kv heads, d]` to a layer of a cache and attends causally to all that it holds: as `attention/1` with keys from the start. Only in programs, which append to each layer of their caches once; the cache grows when the run succeeds.";
    Conv2d "conv2d" CONVOLUTION, &[attr("stride", ONES), attr("padding", K::Padding), attr("dilation", ONES), GROUPS],
        "The cross-correlation of x `[n, c, h, w]` with the kernels `[o, c / groups, kh, kw]`, plus bias `[o]`: `y[n, o, i, j] = bias[o] + sum of weight[o, k, a, b] * x[n, g * c / groups + k, i * stride - top + a * dilation, ..]` with zeros around x, where g is the group of o; `(h + top + bottom - dilation * (kh - 1) - 1) / stride + 1` rows, rounded down, and columns alike (PyTorch's conv2d).";
    ConvTranspose2d "conv_transpose2d" CONVOLUTION, &[attr("stride", ONES), attr("padding", ZEROS), attr("output_padding", ZEROS),
        attr("dilation", ONES), GROUPS],
        "The transpose of `conv2d/1` as a linear map, plus bias `[o]`: each element of x `[n, c, h, w]` adds its kernel, one of `[c, o / groups, kh, kw]`, to the output at `i * stride - padding + a * dilation`; `(h - 1) * stride - 2 * padding + dilation * (kh - 1) + output_padding + 1` rows, and columns alike (PyTorch's conv_transpose2d).";
    MaxPool2d "max_pool2d" ONE_FLOAT, &[attr("kernel", K::Pair(None)), attr("stride", ZEROS), attr("padding", ZEROS),
        attr("ceil_mode", K::Flag(false))],
        "The largest element of each window of x `[n, c, h, w]`; a stride of 0 is the kernel's size. Padding, which must be less than the kernel, never wins; not-a-number does. Windows lie inside the padded image: ceil_mode must be false (PyTorch's max_pool2d).";
    AvgPool2d "avg_pool2d" ONE_FLOAT, &[attr("kernel", K::Pair(None)), attr("stride", ZEROS), attr("padding", ZEROS),
        attr("ceil_mode", K::Flag(false)), attr("count_include_pad", K::Flag(true))],
        "The mean of each window of x `[n, c, h, w]`; a stride of 0 is the kernel's size. Padding, which must be less than the kernel, counts as zeros, or not at all without count_include_pad. ceil_mode must be false (PyTorch's avg_pool2d).";
    AdaptiveAvgPool2d "adaptive_avg_pool2d" ONE_FLOAT, &[attr("size", K::Shape)],
        "The means of `size` `[oh, ow]` bins of x `[n, c, h, w]`: bin i of the rows is from `i * h / oh`, rounded down, to `(i + 1) * h / oh`, rounded up (PyTorch's adaptive_avg_pool2d).";
    ResizeNearest2d "resize_nearest2d" ONE_FLOAT, &[attr("size", K::Shape), attr("exact", K::Flag(false))],
        "x `[n, c, h, w]` at another size `[oh, ow]`: row i is row `i * h / oh`, rounded down, of x, or `(i + 1/2) * h / oh` if exact, computed in integers; columns alike (PyTorch's interpolate, modes nearest and nearest-exact).";
    ResizeBilinear2d "resize_bilinear2d" ONE_FLOAT, &[attr("size", K::Shape), attr("align_corners", K::Flag(false))],
        "x `[n, c, h, w]` at another size `[oh, ow]`: row i is at `(i + 1/2) * h / oh - 1/2` of x, not below 0, or at `i * (h - 1) / (oh - 1)` with align_corners, between the rows next to that in proportion; columns alike (PyTorch's interpolate, mode bilinear without antialiasing).";
    GroupNorm "group_norm" &[x("x", Accepts::Float), optional("weight", Accepts::Float), optional("bias", Accepts::Float)],
        &[attr("groups", K::Int(None)), EPS],
        "x `[n, c, ..]` with the mean of each group of channels of each item taken away and divided by `sqrt(variance + eps)`, times weight `[c]` plus bias `[c]` (Wu and He, 2018). With as many groups as channels it is the instance norm (Ulyanov et al., 2016).";
    BatchNorm "batch_norm" &[x("x", Accepts::Float), x("mean", Accepts::Float), x("var", Accepts::Float), x("weight", Accepts::Float),
        x("bias", Accepts::Float)], &[EPS],
        "`(x - mean) / sqrt(var + eps) * weight + bias` for x `[n, c, ..]` and four `[c]` that training has left: batch norm in inference (Ioffe and Szegedy, 2015).";
    Prelu "prelu" &[x("x", Accepts::Float), x("weight", Accepts::Float)], &[],
        "x `[n, c, ..]` where it is not negative, else `weight * x`, for one weight `[1]` or one a channel `[c]` (He et al., 2015).";
    LeakyRelu "leaky_relu" ONE_FLOAT, &[attr("slope", K::Float(Some(0.01)))], "`x` where it is not negative, else `slope * x` (Maas et al., 2013).";
    Elu "elu" ONE_FLOAT, &[attr("alpha", K::Float(Some(1.0)))], "`x` where it is positive, else `alpha * (exp(x) - 1)` (Clevert et al., 2015).";
    HardSigmoid "hard_sigmoid" ONE_FLOAT, &[], "`clamp(x + 3, 0, 6) / 6` (Howard et al., 2019). ReLU6 is `clamp/1` from 0 to 6.";
    HardSwish "hard_swish" ONE_FLOAT, &[], "`x * clamp(x + 3, 0, 6) / 6` (Howard et al., 2019).";
    Mish "mish" ONE_FLOAT, &[], "`x * tanh(softplus(x))` (Misra, 2019).";
    Softplus "softplus" ONE_FLOAT, &[], "`log(1 + exp(x))`, computed so that it neither overflows nor vanishes early.";
    PixelShuffle "pixel_shuffle" ONE_ANY, &[attr("factor", K::Int(None))],
        "x `[n, c * f^2, h, w]` as `[n, c, h * f, w * f]`: `y[n, c, i * f + a, j * f + b] = x[n, c * f^2 + a * f + b, i, j]` (Shi et al., 2016).";
    PixelUnshuffle "pixel_unshuffle" ONE_ANY, &[attr("factor", K::Int(None))],
        "The inverse of `pixel_shuffle/1`: x `[n, c, h * f, w * f]` as `[n, c * f^2, h, w]`.";
    Randn "randn" &[], RANDOM,
        "Normally distributed f32s, mean 0 and variance 1, the same for the same seed and offset everywhere: Philox4x32-10 (Salmon et al., 2011) with the seed as key and the counter `(block, offset)`, 64 bits each, low words first, makes the words of elements `4 block` to `4 block + 3`; words v, w, shifted right by 8, make `r cos t` and `r sin t` for `r = sqrt(-2 ln((v + 1) / 2^24))`, `t = 2 pi w / 2^24` (Box and Muller, 1958).";
    RandUniform "rand_uniform" &[], RANDOM,
        "Uniformly distributed f32s from 0 up to, not including, 1, the same for the same seed and offset everywhere: the words of `randn/1`, shifted right by 8, divided by 2^24.";
    Sample "sample" &[x("logits", Accepts::Float), optional("previous", Accepts::Index)],
        &[attr("temperature", K::Float(Some(1.0))), attr("top_k", K::Int(Some(0))), attr("top_p", K::Float(Some(1.0))),
            attr("min_p", K::Float(Some(0.0))), attr("repetition_penalty", K::Float(Some(1.0))), attr("seed", K::Int(Some(0))),
            attr("step", K::Int(Some(0)))],
        "An id drawn from logits `[v]` or `[b, v]`, as u32 `[]` or `[b]`. In this order: each id that occurs in `previous` (`[n]` or `[b, n]`) has its logit divided by the repetition penalty if it is positive, else multiplied by it (Keskar et al., 2019); division by the temperature, where 0 means the largest logit, the first of equals; the `top_k` largest (0: all); softmax; the fewest largest that add up to `top_p` (Holtzman et al., 2020); those of at least `min_p` times the largest (Nguyen et al., 2024). The draw depends on seed, step and row alone (Philox4x32-10; Salmon et al., 2011).";
    Argsort "argsort" ONE_ANY, &[attr("dim", K::Axis(Some(-1))), attr("descending", K::Flag(false))],
        "The indices that sort a dimension, as u32; equals keep their order, not-a-number comes last either way.";
    Topk "topk" ONE_ANY, &[attr("k", K::Size), attr("dim", K::Axis(Some(-1))), attr("largest", K::Flag(true))],
        "The indices of the `k` largest (or smallest) elements along a dimension, the first of them first, as u32; of equals the lower index, not-a-number last.";
    Gather "gather" &[x("x", Accepts::Any), x("ids", Accepts::Index)], DIM,
        "`out[.., i, ..] = x[.., ids[.., i, ..], ..]` along a dimension; the other dimensions of `ids` are at most those of `x`. An id past the dimension is `invalid-input`.";
    Scatter "scatter" &[x("x", Accepts::Any), x("ids", Accepts::Index), x("src", Accepts::Any)], DIM,
        "`x` with `x[.., ids[.., i, ..], ..] = src[.., i, ..]` along a dimension; the last in row-major order wins. An id past the dimension is `invalid-input`.";
    ScatterAdd "scatter_add" &[x("x", Accepts::Any), x("ids", Accepts::Index), x("src", Accepts::Any)], DIM,
        "`x` with `src[.., i, ..]` added to `x[.., ids[.., i, ..], ..]` along a dimension. Half floats add up in f32. An id past the dimension is `invalid-input`.";
    IndexAdd "index_add" &[x("x", Accepts::Any), x("ids", Accepts::Index), x("src", Accepts::Any)], DIM,
        "`x` with place `i` of `src` along a dimension added to place `ids[i]`, for ids `[n]`. Half floats add up in f32. An id past the dimension is `invalid-input`.";
    Conv1d "conv1d" &[x("x", Accepts::Float), x("weight", Accepts::Float), optional("bias", Accepts::Float)],
        &[attr("stride", K::Int(Some(1))), attr("left", K::Int(Some(0))), attr("right", K::Int(Some(0))),
            attr("dilation", K::Int(Some(1))), attr("groups", K::Int(Some(1)))],
        "The convolution of x `[n, c, l]`, with zeros to its left and right, by weight `[o, c / groups, k]` plus bias `[o]`: `[n, o, (l + left + right - dilation * (k - 1) - 1) / stride + 1]`, without flipping the weight.";
    ConvTranspose1d "conv_transpose1d" &[x("x", Accepts::Float), x("weight", Accepts::Float), optional("bias", Accepts::Float)],
        &[attr("stride", K::Int(Some(1))), attr("padding", K::Int(Some(0))), attr("output_padding", K::Int(Some(0))),
            attr("dilation", K::Int(Some(1))), attr("groups", K::Int(Some(1)))],
        "The transpose of a convolution, for x `[n, c, l]`, weight `[c, o / groups, k]`, bias `[o]`: `[n, o, (l - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1]`. The output padding is less than the stride or the dilation.";
    Cumsum "cumsum" ONE_ANY, DIM, "The sum of the elements up to each along a dimension. Half floats add up in f32; integers wrap around.";
    Cumprod "cumprod" ONE_ANY, DIM,
        "The product of the elements up to each along a dimension. Half floats multiply in f32; integers wrap around.";
    PadReflect "pad_reflect" ONE_ANY, &[attr("dim", K::Axis(None)), attr("left", K::Size), attr("right", K::Size)],
        "A dimension made longer at both ends by its mirror image without the edge itself; it is longer than either end.";
    PadReplicate "pad_replicate" ONE_ANY, &[attr("dim", K::Axis(None)), attr("left", K::Size), attr("right", K::Size)],
        "A dimension made longer at both ends by its first and last element, of which it has at least one.";
    Lstm "lstm" &[x("x", Accepts::Float), x("w_ih", Accepts::Float), x("w_hh", Accepts::Float), optional("b_ih", Accepts::Float),
        optional("b_hh", Accepts::Float), optional("h0", Accepts::Float), optional("c0", Accepts::Float)],
        &[attr("reverse", K::Flag(false))],
        "A layer of long short-term memory over x `[b, t, i]`, for w_ih `[4h, i]`, w_hh `[4h, h]`, biases `[4h]`, first states `[b, h]`, all zeros if absent: h and c of each step, `[b, t, 2, h]`. Of the gates `[i, f, g, o] = x w_ih^T + b_ih + h w_hh^T + b_hh`, `c' = sigmoid(f) c + sigmoid(i) tanh(g)` and `h' = sigmoid(o) tanh(c')` (Hochreiter and Schmidhuber, 1997; the gates as PyTorch has them). Backwards if reversed.";
    Gru "gru" &[x("x", Accepts::Float), x("w_ih", Accepts::Float), x("w_hh", Accepts::Float), optional("b_ih", Accepts::Float),
        optional("b_hh", Accepts::Float), optional("h0", Accepts::Float)],
        &[attr("reverse", K::Flag(false))],
        "A layer of gated recurrent units over x `[b, t, i]`, for w_ih `[3h, i]`, w_hh `[3h, h]`, biases `[3h]`, first state `[b, h]`, zeros if absent: h of each step, `[b, t, h]`. Of `[r, z, n]`, `h' = (1 - z) n + z h`, `r` and `z` through sigmoid, `n = tanh(x_n + b_ih_n + r (h_n + b_hh_n))` (Cho et al., 2014; the gates as PyTorch has them). Backwards if reversed.";
    ResizeLinear1d "resize_linear1d" ONE_FLOAT, &[attr("size", K::Size), attr("align_corners", K::Flag(false))],
        "The last dimension of x `[n, c, l]` resized by linear interpolation; element `i` lies at `i * (l - 1) / (size - 1)` if corners are aligned, else at `max(0, (i + 0.5) * l / size - 0.5)`.";
    ResizeNearest1d "resize_nearest1d" ONE_ANY, &[attr("size", K::Size), attr("align_corners", K::Flag(false))],
        "The last dimension of x `[n, c, l]` resized by repeating or skipping: element `i` is element `floor(i * l / size)`, or the nearest to `i * (l - 1) / (size - 1)`, halves up, if corners are aligned.";
    Stft "stft" &[x("x", Accepts::Float), x("window", Accepts::Float)],
        &[attr("n_fft", K::Int(None)), attr("hop", K::Int(None)), attr("center", K::Flag(true)), attr("normalized", K::Flag(false))],
        "The Fourier transforms of windowed frames of x `[n, l]`, f32: `[n, n_fft / 2 + 1, frames, 2]`, real and imaginary part, a frame each `hop` elements. The window, at most `n_fft` long, stands in the middle of the frame; `center` mirrors `n_fft / 2` elements at both ends; `normalized` divides by the square root of `n_fft` (as torch.stft).";
    Istft "istft" &[x("x", Accepts::Float), x("window", Accepts::Float)],
        &[attr("n_fft", K::Int(None)), attr("hop", K::Int(None)), attr("length", K::Size), attr("center", K::Flag(true)),
            attr("normalized", K::Flag(false))],
        "The signals `[n, length]` whose frames have the transforms x `[n, n_fft / 2 + 1, frames, 2]`, f32: frames times window added up and divided by the sum of the squared windows, which must not vanish; zeros past the last frame (Griffin and Lim, 1984; as torch.istft).";
    Tril "tril" ONE_ANY, &[attr("diagonal", K::Int(Some(0)))],
        "The matrices of the last two dimensions with zeros above a diagonal: element `[i, j]` is kept if `j - i <= diagonal`.";
    Triu "triu" ONE_ANY, &[attr("diagonal", K::Int(Some(0)))],
        "The matrices of the last two dimensions with zeros below a diagonal: element `[i, j]` is kept if `j - i >= diagonal`.";
    Flip "flip" ONE_ANY, &[attr("dims", K::Axes)], "The order of elements turned around along dimensions (all, if none are named).";
    Roll "roll" ONE_ANY, &[attr("dim", K::Axis(None)), attr("shift", K::Int(None))],
        "A dimension rotated: element `i` moves to `(i + shift) mod len`.";
    Repeat "repeat" ONE_ANY, &[attr("repeats", K::Shape)],
        "The whole tensor repeated along each dimension as often as `repeats` says, which may have more dimensions, on the left.";
    RepeatInterleave "repeat_interleave" ONE_ANY, &[attr("dim", K::Axis(None)), attr("times", K::Size)],
        "Each element along a dimension repeated, the copies next to each other.";
    OneHot "one_hot" &[x("ids", Accepts::Index)], &[attr("depth", K::Size), attr("dtype", K::DType(Some(DType::F32)))],
        "1 at place `ids[..]` of a new last dimension of `depth`, else 0. An id past the depth is `invalid-input`.";
    Logsumexp "logsumexp" ONE_FLOAT, REDUCE, "`log(sum(exp(x)))` over dimensions (all, if none are named), computed stably.";
    Var "var" ONE_FLOAT, &[attr("dims", K::Axes), attr("keepdim", K::Flag(false)), attr("unbiased", K::Flag(true))],
        "The variance over dimensions (all, if none are named), computed in two passes; unbiased, the sum of squares is divided by `n - 1`, else by `n`.";
    L2Normalize "l2_normalize" ONE_FLOAT, &[attr("dim", K::Axis(Some(-1))), attr("eps", K::Float(Some(1e-12)))],
        "`x / max(sqrt(sum(x^2)), eps)` along a dimension.";
    Rem "rem" TWO_ANY, &[],
        "`a - b * floor(a / b)`, element by element, broadcasting: the remainder has the sign of `b`. An integer divisor of 0 is `invalid-input`.";
    Pow "pow" TWO_FLOAT, &[], "`a` to the power of `b`, element by element, broadcasting; a negative base needs a whole exponent.";
    Atan2 "atan2" TWO_FLOAT, &[], "The angle of the point with ordinate `a` and abscissa `b`, in radians, element by element, broadcasting.";
    Log1p "log1p" ONE_FLOAT, &[], "`log(1 + x)`, exact near 0.";
    Expm1 "expm1" ONE_FLOAT, &[], "`exp(x) - 1`, exact near 0.";
    Snake "snake" &[x("x", Accepts::Float), x("alpha", Accepts::Float)], &[],
        "`x + sin(alpha x)^2 / alpha` for x `[n, c, l]`, alpha `[c]` (Ziyin et al., 2020).";
    Glu "glu" ONE_FLOAT, LAST_DIM, "`a * sigmoid(b)` for the two halves `a` and `b` of a dimension (Dauphin et al., 2017).";
}

/// The whole table.
pub fn table() -> &'static [OpSpec] {
    TABLE
}

/// The row of an op.
pub fn spec(id: OpId) -> Option<&'static OpSpec> {
    TABLE.get(id.0 as usize)
}

/// Finds an op by its versioned name.
///
/// # Errors
/// `unsupported`, with the nearest names.
pub fn lookup(name: &str) -> Result<OpId, Error> {
    if let Some(at) = TABLE.iter().position(|spec| spec.name == name) {
        return Ok(OpId(at as u32));
    }
    let shown = &name[..name.floor_char_boundary(64)];
    Err(Error::unsupported(format!(
        "there is no op `{shown}`; the nearest are {}. `maquette ops` lists them all",
        nearest(shown, TABLE.iter().map(|spec| spec.name), 3)
    )))
}

/// The names most like a word, quoted and joined: for messages.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>, count: usize) -> String {
    let mut ranked: Vec<_> = names.map(|name| (distance(word, name), name)).collect();
    ranked.sort();
    let names: Vec<_> = ranked
        .into_iter()
        .take(count)
        .map(|(_, name)| format!("`{name}`"))
        .collect();
    names.join(", ")
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl OpSpec {
    /// Whether the output shares the input's memory instead of taking its own.
    pub const fn is_view(&self) -> bool {
        matches!(
            self.op,
            Op::Transpose | Op::Permute | Op::Narrow | Op::BroadcastTo | Op::Squeeze | Op::Unsqueeze
        )
    }

    /// Whether the op runs on NVIDIA GPUs; one that does not is refused there, eagerly and in programs.
    pub const fn has_cuda(&self) -> bool {
        !matches!(self.op, Op::Argsort | Op::Topk | Op::Istft | Op::Atan2)
    }

    /// How the op is called: `matmul/1(a: float, b: float)`.
    pub fn signature(&self) -> String {
        let accepts = |accepts| match accepts {
            Accepts::Float => "float",
            Accepts::Any => "any",
            Accepts::Index => "index",
        };
        let inputs = self.inputs.iter().map(|input| {
            let mark = match input.occurs {
                Occurs::Once => "",
                Occurs::Optional => "?",
                Occurs::Repeated => "..",
            };
            format!("{}{mark}: {}", input.name, accepts(input.accepts))
        });
        let attrs = self.attrs.iter().map(|attr| {
            let kind = match attr.kind {
                K::Flag(default) => format!("flag = {default}"),
                K::Axis(None) => "axis".to_owned(),
                K::Axis(Some(default)) => format!("axis = {default}"),
                K::Int(None) => "integer".to_owned(),
                K::Int(Some(default)) => format!("integer = {default}"),
                K::Float(None) => "number".to_owned(),
                K::Float(Some(default)) => format!("number = {default}"),
                K::Pair(None) => "pair".to_owned(),
                K::Pair(Some([y, x])) => format!("pair = [{y}, {x}]"),
                K::Padding => "padding = 0".to_owned(),
                K::Axes => "axes".to_owned(),
                K::Shape => "shape".to_owned(),
                K::Size => "size".to_owned(),
                K::DType(None) => "dtype".to_owned(),
                K::DType(Some(default)) => format!("dtype = {default}"),
            };
            format!("{}: {kind}", attr.name)
        });
        let (inputs, attrs): (Vec<_>, Vec<_>) = (inputs.collect(), attrs.collect());
        let separator = if attrs.is_empty() || inputs.is_empty() {
            ""
        } else {
            "; "
        };
        format!("{}({}{separator}{})", self.name, inputs.join(", "), attrs.join(", "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_ops_and_found_by_name() {
        for (i, spec) in table().iter().enumerate() {
            assert_eq!(spec.op as usize, i);
            assert_eq!(lookup(spec.name).unwrap(), OpId(i as u32));
            assert!(spec.doc.ends_with('.'), "{}", spec.name);
        }
    }

    #[test]
    fn an_unknown_op_names_the_nearest() {
        let message = lookup("matmull/1").unwrap_err().message;
        assert!(message.contains("`matmul/1`"), "{message}");
    }
}
