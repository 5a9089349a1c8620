//! A first model: which label is a number nearest to?

use maquette::prelude::*;

/// A number to classify.
#[derive(Input)]
struct Question {
    /// Any number.
    #[input(ge = -1000.0, le = 1000.0)]
    number: f32,
    /// How sharply to decide.
    #[input(default = 1.0, ge = 0.01, le = 100.0)]
    sharpness: f64,
}

/// The nearest label.
#[derive(Output)]
struct Answer {
    label: String,
    probability: f32,
}

struct Nearest {
    labels: Vec<(&'static str, f32)>,
}

impl Model for Nearest {
    type Input = Question;
    type Output = Answer;

    fn load(_package: &Package) -> Result<Self> {
        Ok(Self { labels: vec![("negative", -10.0), ("zero", 0.0), ("positive", 10.0)] })
    }

    fn predict(&self, question: Question) -> Result<Answer> {
        let places: Vec<f32> = self.labels.iter().map(|(_, place)| *place).collect();
        let distance = (&Tensor::from_slice(&places, (3,))? + -f64::from(question.number))?.abs()?;
        let probabilities = (&distance * -question.sharpness)?.softmax(-1)?;
        let best = probabilities.argmax(-1)?.to_scalar::<u32>()? as usize;
        let probability = probabilities.to_vec::<f32>()?[best];
        Ok(Answer { label: self.labels[best].0.to_owned(), probability })
    }
}

maquette::export!(Nearest);
