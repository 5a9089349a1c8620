//! Tensors, budgets, weights and programs on candle. Knows nothing of wasm.
