//! From the tokens of a window to pieces of speech with times, and to where the next window begins: as OpenAI's `transcribe.py`.

use crate::FRAMES;
use crate::vocabulary::Vocabulary;

/// Seconds of one step of the time tokens.
const STEP: f64 = 0.02;
/// Frames of one step.
const STEP_FRAMES: usize = 2;

/// A piece: start and end in seconds, and its tokens.
pub(crate) type Piece = (f64, f64, Vec<u32>);

/// The pieces of a window that begins at frame `seek` and has `size` frames of the recording, and how many frames on the next begins.
pub(crate) fn split(ids: &[u32], vocabulary: &Vocabulary, seek: usize, size: usize) -> (Vec<Piece>, usize) {
    let time = vocabulary.time;
    let is_time = |id: &u32| *id >= time;
    let offset = seek as f64 * 0.01;
    let at = |id: u32| offset + f64::from(id - time) * STEP;
    let text = |ids: &[u32]| {
        ids.iter()
            .copied()
            .filter(|id| *id < vocabulary.end)
            .collect::<Vec<_>>()
    };
    // Where one piece ends and the next begins: two times side by side.
    let mut cuts: Vec<usize> = (1..ids.len())
        .filter(|i| is_time(&ids[i - 1]) && is_time(&ids[*i]))
        .collect();
    let open = matches!(ids, [.., before, last] if !is_time(before) && is_time(last));
    if cuts.is_empty() {
        let last = ids.iter().rev().find(|id| is_time(id) && **id != time);
        let end = last.map_or(offset + size as f64 * 0.01, |id| at(*id));
        return (vec![(offset, end, text(ids))], size);
    }
    let next = if open {
        // The last piece ends with a time and nothing begins after it: the rest is silence.
        cuts.push(ids.len());
        size
    } else {
        let last = cuts
            .last()
            .map_or(0, |cut| (ids[cut - 1] - time) as usize * STEP_FRAMES);
        // A window that gets nowhere would come again for ever.
        if last == 0 { size } else { last.min(FRAMES) }
    };
    let mut from = 0;
    let mut pieces = Vec::with_capacity(cuts.len());
    for cut in cuts {
        let piece = &ids[from..cut];
        let times = (
            piece.iter().find(|id| is_time(id)),
            piece.iter().rev().find(|id| is_time(id)),
        );
        if let (Some(first), Some(last)) = times {
            pieces.push((at(*first), at(*last), text(piece)));
        }
        from = cut;
    }
    (pieces, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use maquette::{Result, Value};

    #[test]
    fn pieces_are_cut_where_two_times_meet() -> Result<()> {
        let vocabulary = Vocabulary::new(51_864, &Value::Null)?;
        let t = |seconds: f64| vocabulary.time + (seconds / STEP).round() as u32;
        let ids = [t(0.0), 1, 2, t(5.0), t(5.0), 3, t(9.0), t(9.0)];
        let (pieces, next) = split(&ids, &vocabulary, 1000, FRAMES);
        assert_eq!(pieces, [(10.0, 15.0, vec![1, 2]), (15.0, 19.0, vec![3])]);
        assert_eq!(next, 900);
        let (pieces, next) = split(&[t(0.0), 1, t(5.0), t(5.0), 2, t(8.0)], &vocabulary, 0, 2500);
        assert_eq!(pieces, [(0.0, 5.0, vec![1]), (5.0, 8.0, vec![2])]);
        assert_eq!(next, 2500);
        let (pieces, next) = split(&[1, 2, 3], &vocabulary, 0, 400);
        assert_eq!((pieces, next), (vec![(0.0, 4.0, vec![1, 2, 3])], 400));
        assert_eq!(
            split(&[t(0.0), t(0.0)], &vocabulary, 0, 100).1,
            100,
            "it always goes on"
        );
        assert_eq!(split(&[], &vocabulary, 0, 100), (vec![(0.0, 1.0, vec![])], 100));
        Ok(())
    }
}
