//! Bytes and hashes: canonical JSON, blocks, TensorBlocks, Merkle trees, GGUF.
