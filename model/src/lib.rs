//! Fit and import: from a GGUF to expert blocks.
