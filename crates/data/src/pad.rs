//! Sequences of different lengths as one rectangle, by Keras' rule.

use serde::{Deserialize, Serialize};

/// An end of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Before the first element.
    #[default]
    Pre,
    /// After the last element.
    Post,
}

/// How [`pad_sequences`] fills and cuts; the defaults are Keras'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PadOptions {
    /// Length of every row. Default: that of the longest sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maxlen: Option<usize>,
    /// Where shorter sequences are filled.
    pub padding: Side,
    /// Where longer sequences lose elements.
    pub truncating: Side,
    /// What they are filled with.
    pub value: i32,
}

/// Rows of equal length, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Padded {
    /// `rows * width` numbers.
    pub ids: Vec<i32>,
    /// Number of sequences.
    pub rows: usize,
    /// Length of each row.
    pub width: usize,
}

/// Fills and cuts sequences to one length, as `keras.utils.pad_sequences` does.
///
/// Ids must be below 2^31, as those of every tokenizer here are; larger ones become `i32::MAX`.
pub fn pad_sequences<S: AsRef<[u32]>>(sequences: &[S], options: &PadOptions) -> Padded {
    let longest = || sequences.iter().map(|sequence| sequence.as_ref().len()).max().unwrap_or(0);
    let width = options.maxlen.unwrap_or_else(longest);
    let mut ids = Vec::with_capacity(sequences.len() * width);
    for sequence in sequences {
        let sequence = sequence.as_ref();
        let surplus = sequence.len().saturating_sub(width);
        let kept = match options.truncating {
            Side::Pre => &sequence[surplus..],
            Side::Post => &sequence[..sequence.len() - surplus],
        };
        let fill = std::iter::repeat_n(options.value, width - kept.len());
        let kept = kept.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX));
        match options.padding {
            Side::Pre => ids.extend(fill.chain(kept)),
            Side::Post => ids.extend(kept.chain(fill)),
        }
    }
    Padded { ids, rows: sequences.len(), width }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_and_cut_where_keras_does() {
        let sequences = [vec![1, 2, 3, 4], vec![5], vec![]];
        let padded = |maxlen, padding, truncating| {
            pad_sequences(&sequences, &PadOptions { maxlen, padding, truncating, value: 9 }).ids
        };
        assert_eq!(padded(Some(3), Side::Pre, Side::Pre), [2, 3, 4, 9, 9, 5, 9, 9, 9]);
        assert_eq!(padded(Some(3), Side::Post, Side::Pre), [2, 3, 4, 5, 9, 9, 9, 9, 9]);
        assert_eq!(padded(Some(3), Side::Pre, Side::Post), [1, 2, 3, 9, 9, 5, 9, 9, 9]);
        assert_eq!(padded(Some(3), Side::Post, Side::Post), [1, 2, 3, 5, 9, 9, 9, 9, 9]);
        assert_eq!(padded(None, Side::Pre, Side::Pre), [1, 2, 3, 4, 9, 9, 9, 5, 9, 9, 9, 9]);
        assert_eq!(padded(Some(0), Side::Pre, Side::Pre), [0; 0]);
    }

    #[test]
    fn nothing_is_a_rectangle_too() {
        let none = pad_sequences::<Vec<u32>>(&[], &PadOptions::default());
        assert_eq!((none.rows, none.width, none.ids.len()), (0, 0, 0));
    }
}
