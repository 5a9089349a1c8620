//! Sentence embeddings with all-MiniLM-L6-v2: WordPiece, a BERT of six layers, the mean over tokens, length 1.

mod bert;

use bert::Bert;
use maquette::prelude::*;
use maquette::text::Tokenizer;

/// Longer texts are cut, as the model was trained.
const MAX_TOKENS: usize = 256;
/// Tokens of one run, padding included: what keeps its memory bounded.
const MAX_BATCH_TOKENS: usize = 4096;
/// Texts of one run.
const MAX_BATCH: usize = 32;

/// One text, or a list of them.
#[derive(Input)]
struct Texts {
    /// A text to embed. It is cut after 256 tokens.
    #[input(max_length = 100_000)]
    text: Option<String>,
    /// Texts to embed, in one call.
    #[input(min_items = 1, max_items = 1024)]
    texts: Option<Vec<String>>,
}

struct MiniLm {
    tokenizer: Tokenizer,
    /// Ids and mask `[batch, tokens]` to embeddings `[batch, 384]`.
    embed: Program,
}

impl Model for MiniLm {
    type Input = Texts;
    type Output = Vec<Vec<f32>>;

    fn load(package: &Package) -> Result<Self> {
        let bert = Bert::load(&package.weights("model")?)?;
        let embed = compile(|program| {
            let (batch, tokens) = (program.dim("batch"), program.dim("tokens"));
            let ids = program.input("ids", DType::U32, (&batch, &tokens))?;
            let mask = program.input("mask", DType::F32, (&batch, &tokens))?;
            let hidden = bert.forward(&ids, &mask)?;
            // The mean over tokens, padding left out; the division by their number cancels when the length is made 1.
            let sum = (&hidden * &mask.unsqueeze(-1)?)?.sum(1)?;
            let length = sum.sqr()?.sum_keepdim(-1)?.sqrt()?.clamp(1e-12, f64::MAX)?;
            &sum / &length
        })?;
        Ok(Self {
            tokenizer: package.tokenizer("tokenizer.json")?,
            embed,
        })
    }

    fn predict(&self, input: Texts) -> Result<Vec<Vec<f32>>> {
        let texts = match (input.text, input.texts) {
            (Some(text), None) => vec![text],
            (None, Some(texts)) => texts,
            _ => {
                return Err(Error::invalid_input(
                    "send either `text` (a string) or `texts` (a list of strings)",
                ));
            }
        };
        let ids: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| self.tokenizer.encode_truncated(text, MAX_TOKENS))
            .collect();
        maquette::run::metric("input_tokens", ids.iter().map(Vec::len).sum::<usize>() as f64);

        // Texts of like length share a run, so that little of it is padding.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|i| ids[*i].len());
        let mut embeddings = vec![Vec::new(); ids.len()];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_size(&ids, rest));
            for (i, embedding) in batch.iter().zip(self.embed(&ids, batch)?) {
                embeddings[*i] = embedding;
            }
            rest = later;
            progress(1.0 - rest.len() as f64 / ids.len() as f64, "embedding");
        }
        Ok(embeddings)
    }
}

/// How many of the texts in this order, shortest first, fit one run.
fn batch_size(ids: &[Vec<u32>], order: &[usize]) -> usize {
    let shortest = order.first().map_or(0, |i| ids[*i].len());
    let fits = |(n, i): &(usize, &usize)| {
        let len = ids[**i].len();
        // No text is padded to more than twice its length, or by more than a few tokens.
        *n < MAX_BATCH && (n + 1) * len <= MAX_BATCH_TOKENS && len <= 2 * shortest + 8
    };
    order.iter().enumerate().take_while(fits).count().max(1)
}

impl MiniLm {
    /// The embeddings of some of the texts, padded to the longest of them.
    fn embed(&self, ids: &[Vec<u32>], batch: &[usize]) -> Result<Vec<Vec<f32>>> {
        let longest = batch.iter().map(|i| ids[*i].len()).max().unwrap_or(0);
        let mut padded = vec![0_u32; batch.len() * longest];
        let mut mask = vec![0_f32; batch.len() * longest];
        for (row, i) in batch.iter().enumerate() {
            let (start, len) = (row * longest, ids[*i].len());
            padded[start..start + len].copy_from_slice(&ids[*i]);
            mask[start..start + len].fill(1.0);
        }
        let ids = Tensor::from_slice(&padded, (batch.len(), longest))?;
        let mask = Tensor::from_slice(&mask, (batch.len(), longest))?;
        self.embed.run1(&[&ids, &mask])?.to_vec2()
    }
}

maquette::export!(MiniLm);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_never_exceeds_its_tokens_or_texts() {
        let lengths = |lengths: &[usize]| lengths.iter().map(|n| vec![0; *n]).collect::<Vec<Vec<u32>>>();
        let all = |ids: &[Vec<u32>]| (0..ids.len()).collect::<Vec<_>>();
        let short = lengths(&[8; 100]);
        assert_eq!(batch_size(&short, &all(&short)), MAX_BATCH);
        let long = lengths(&[256; 100]);
        assert_eq!(batch_size(&long, &all(&long)), 16);
        let growing = lengths(&[2, 2, 12, 256]);
        assert_eq!(batch_size(&growing, &all(&growing)), 3);
    }
}
