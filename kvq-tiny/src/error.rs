//! What can go wrong.

use core::fmt;

/// An error of an image, a model or its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// The bytes are no image of this version, or a damaged one; the text says what is wrong.
    Image(&'static str),
    /// No such token.
    Token {
        /// Tokens of the vocabulary.
        n_tokens: u32,
        /// Token asked for.
        got: u32,
    },
    /// The model has no such position.
    Position {
        /// Positions of the model.
        n_positions: u32,
        /// Position asked for.
        got: u32,
    },
    /// A buffer is shorter than it must be.
    Buffer {
        /// What it is for.
        what: &'static str,
        /// Elements needed.
        needed: u32,
        /// Elements given.
        got: u32,
    },
    /// The cache refuses.
    Cache(kvq_codec::Error),
}

impl From<kvq_codec::Error> for Error {
    fn from(error: kvq_codec::Error) -> Self {
        Self::Cache(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Image(why) => write!(f, "not a usable model image: {why} (kvq export writes one)"),
            Self::Token { n_tokens, got } => write!(f, "token {got} of a vocabulary of {n_tokens}"),
            Self::Position { n_positions, got } => {
                write!(f, "position {got} of a model with {n_positions} positions")
            }
            Self::Buffer { what, needed, got } => {
                write!(f, "buffer for {what} has {got} elements, {needed} needed")
            }
            Self::Cache(error) => write!(f, "cache: {error}"),
        }
    }
}

impl core::error::Error for Error {}
