//! One module for each command: its arguments, and what it does.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod new;
pub(crate) mod ops;
pub(crate) mod prepare;
pub(crate) mod publish;
pub(crate) mod release;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod test;
pub(crate) mod token;
pub(crate) mod up;
