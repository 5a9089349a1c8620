//! `derive(Input)` and `derive(Output)`.
