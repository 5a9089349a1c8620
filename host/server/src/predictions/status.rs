//! The life of a prediction: which status it has, and how that is written.

/// Where a prediction stands. `aborted` is not used: today's stable clients do not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Accepted; waits for a lane.
    Starting,
    /// On a lane.
    Processing,
    /// Ended with an output.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended because its caller or its deadline said so.
    Canceled,
}

impl Status {
    /// All of them, in the order of their numbers.
    const ALL: [Self; 5] = [
        Self::Starting,
        Self::Processing,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
    ];

    /// The word that clients know.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// The status that a word means.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// The number in the ledger.
    pub(crate) fn number(self) -> i64 {
        self as i64
    }

    /// The status of a number in the ledger.
    pub(crate) fn of_number(number: i64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether nothing follows.
    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_read_back() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.name()), Some(status));
            assert_eq!(Status::of_number(status.number()), Some(status));
        }
        assert_eq!(Status::parse("aborted"), None);
        assert_eq!(Status::of_number(5), None);
        assert_eq!(Status::of_number(-1), None);
    }
}
