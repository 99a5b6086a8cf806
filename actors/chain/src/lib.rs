//! ChainActor: blocks, DAG, RocksDB, verification.
