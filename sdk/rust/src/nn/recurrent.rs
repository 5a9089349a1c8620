//! Layers that go over a sequence step by step. Sources: PyTorch's `torch.nn.LSTM`, `GRU`, with `batch_first=True`.

use crate::{Dim, Error, Recurrent, Result, Tensor, Weights};

/// What recurrent layers are made of; the default is one layer from the start to the end, with biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentConfig {
    /// Layers, each over the output of the one before.
    pub layers: usize,
    /// Whether each layer also goes from the end to the start.
    pub bidirectional: bool,
    /// Whether there are biases.
    pub bias: bool,
}

impl Default for RecurrentConfig {
    fn default() -> Self {
        Self {
            layers: 1,
            bidirectional: false,
            bias: true,
        }
    }
}

impl RecurrentConfig {
    fn directions(self) -> usize {
        1 + usize::from(self.bidirectional)
    }
}

/// One direction of one layer.
struct Way {
    w_ih: Tensor,
    w_hh: Tensor,
    biases: Option<(Tensor, Tensor)>,
}

impl Way {
    /// What the op takes beside the two weights.
    fn more<'a>(&'a self, state: Option<&'a Tensor>, cell: Option<&'a Tensor>, reverse: bool) -> Recurrent<'a> {
        Recurrent {
            biases: self.biases.as_ref().map(|(a, b)| (a, b)),
            state,
            cell,
            reverse,
        }
    }
}

/// All layers, direction by direction.
fn load(
    gates: usize,
    input: usize,
    hidden: usize,
    config: RecurrentConfig,
    weights: &Weights,
) -> Result<Vec<Vec<Way>>> {
    if config.layers == 0 {
        return Err(Error::invalid_input("a recurrent layer needs at least one layer"));
    }
    let rows = gates * hidden;
    let way = |layer: usize, direction: usize| {
        let suffix = format!("l{layer}{}", ["", "_reverse"][direction]);
        let input = if layer == 0 {
            input
        } else {
            hidden * config.directions()
        };
        let bias = |name: &str| weights.get(&format!("bias_{name}_{suffix}"), (rows,));
        Ok(Way {
            w_ih: weights.get(&format!("weight_ih_{suffix}"), (rows, input))?,
            w_hh: weights.get(&format!("weight_hh_{suffix}"), (rows, hidden))?,
            biases: if config.bias {
                Some((bias("ih")?, bias("hh")?))
            } else {
                None
            },
        })
    };
    let layer = |layer: usize| {
        (0..config.directions())
            .map(|direction| way(layer, direction))
            .collect()
    };
    (0..config.layers).map(layer).collect()
}

/// Part `at` of states `[layers * directions, b, hidden]`.
#[track_caller]
fn part(states: &Tensor, at: usize) -> Result<Tensor> {
    states.narrow(0, at, 1)?.squeeze(0)
}

/// The last step that a direction has made, of `[b, t, hidden]`: `[b, hidden]`.
#[track_caller]
fn last(steps: &Tensor, reverse: bool) -> Result<Tensor> {
    let start = match reverse {
        true => Dim::from(0_usize),
        false => steps.dim(1)? - 1,
    };
    steps.narrow(1, start, 1)?.squeeze(1)
}

/// What the directions of a layer make, side by side.
#[track_caller]
fn join(ways: &[Tensor]) -> Result<Tensor> {
    match ways {
        [one] => Ok(one.clone()),
        both => Tensor::cat(&both.iter().collect::<Vec<_>>(), 2),
    }
}

/// Long short-term memory. Source: `torch.nn.LSTM` (Hochreiter and Schmidhuber, 1997), without projections.
pub struct Lstm {
    layers: Vec<Vec<Way>>,
}

/// What an LSTM makes of a sequence.
pub struct LstmOutput {
    /// The last layer's state of each step, `[b, t, hidden]`, or `[b, t, 2 * hidden]` of both directions.
    pub steps: Tensor,
    /// The last state of each layer and direction, `[layers * directions, b, hidden]`.
    pub state: Tensor,
    /// The last cell of each layer and direction, `[layers * directions, b, hidden]`.
    pub cell: Tensor,
}

impl Lstm {
    /// With `weight_ih_l0` `[4 * hidden, input]`, `weight_hh_l0` `[4 * hidden, hidden]`, `bias_ih_l0` and `bias_hh_l0`
    /// `[4 * hidden]`; further layers are `l1`, …, and take `hidden` elements a direction; the way back is `l0_reverse`.
    ///
    /// # Errors
    /// `invalid-input` if there are no layers.
    pub fn load(input: usize, hidden: usize, config: RecurrentConfig, weights: &Weights) -> Result<Self> {
        load(4, input, hidden, config, weights).map(|layers| Self { layers })
    }

    /// `[b, t, input]`, from first states and cells, both `[layers * directions, b, hidden]`, or zeros.
    ///
    /// # Errors
    /// `shape` if the dimensions are others, or there is no step.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, first: Option<(&Tensor, &Tensor)>) -> Result<LstmOutput> {
        let (mut x, mut states, mut cells) = (x.clone(), Vec::new(), Vec::new());
        for layer in &self.layers {
            let mut ways = Vec::with_capacity(2);
            for (direction, way) in layer.iter().enumerate() {
                let (state, cell) = match first {
                    Some((h, c)) => (Some(part(h, states.len())?), Some(part(c, states.len())?)),
                    None => (None, None),
                };
                let reverse = direction == 1;
                let both = x.lstm(&way.w_ih, &way.w_hh, way.more(state.as_ref(), cell.as_ref(), reverse))?;
                let (h, c) = (both.narrow(2, 0, 1)?.squeeze(2)?, both.narrow(2, 1, 1)?.squeeze(2)?);
                states.push(last(&h, reverse)?);
                cells.push(last(&c, reverse)?);
                ways.push(h);
            }
            x = join(&ways)?;
        }
        Ok(LstmOutput {
            steps: x,
            state: Tensor::stack(&states.iter().collect::<Vec<_>>(), 0)?,
            cell: Tensor::stack(&cells.iter().collect::<Vec<_>>(), 0)?,
        })
    }
}

/// Gated recurrent units. Source: `torch.nn.GRU` (Cho et al., 2014).
pub struct Gru {
    layers: Vec<Vec<Way>>,
}

/// What a GRU makes of a sequence.
pub struct GruOutput {
    /// The last layer's state of each step, `[b, t, hidden]`, or `[b, t, 2 * hidden]` of both directions.
    pub steps: Tensor,
    /// The last state of each layer and direction, `[layers * directions, b, hidden]`.
    pub state: Tensor,
}

impl Gru {
    /// With `weight_ih_l0` `[3 * hidden, input]`, `weight_hh_l0` `[3 * hidden, hidden]`, `bias_ih_l0` and `bias_hh_l0`
    /// `[3 * hidden]`; further layers are `l1`, …, and take `hidden` elements a direction; the way back is `l0_reverse`.
    ///
    /// # Errors
    /// `invalid-input` if there are no layers.
    pub fn load(input: usize, hidden: usize, config: RecurrentConfig, weights: &Weights) -> Result<Self> {
        load(3, input, hidden, config, weights).map(|layers| Self { layers })
    }

    /// `[b, t, input]`, from first states `[layers * directions, b, hidden]`, or zeros.
    ///
    /// # Errors
    /// `shape` if the dimensions are others, or there is no step.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, first: Option<&Tensor>) -> Result<GruOutput> {
        let (mut x, mut states) = (x.clone(), Vec::new());
        for layer in &self.layers {
            let mut ways = Vec::with_capacity(2);
            for (direction, way) in layer.iter().enumerate() {
                let state = first.map(|first| part(first, states.len())).transpose()?;
                let reverse = direction == 1;
                let h = x.gru(&way.w_ih, &way.w_hh, way.more(state.as_ref(), None, reverse))?;
                states.push(last(&h, reverse)?);
                ways.push(h);
            }
            x = join(&ways)?;
        }
        Ok(GruOutput {
            steps: x,
            state: Tensor::stack(&states.iter().collect::<Vec<_>>(), 0)?,
        })
    }
}
