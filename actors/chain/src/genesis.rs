use std::sync::Arc;

use blyan_formats::{BlockHash, NodeKey};

use crate::compose::genesis_block;
use crate::error::Genesis;
use crate::store::Store;
use crate::writer::{Acceptance, ChainWriter};
use crate::{ChainConfig, ChainError};

/// Opens the chain of a store for writing. An empty store gets a genesis that authorises `key` and names the network
/// by its hash; the same name, timestamp and key make the same network.
///
/// # Errors
/// [`ChainError::OtherNetwork`] if the configuration pins another genesis, whether the store is empty or not; as
/// [`ChainWriter::open`] and [`ChainWriter::append_all`].
pub fn open_or_create<S: Store>(
    store: Arc<S>,
    config: &ChainConfig,
    key: &NodeKey,
    genesis_timestamp_ms: u64,
    at_ms: u64,
) -> Result<ChainWriter<S>, ChainError> {
    let mut chain = ChainWriter::open(store)?;
    if chain.index().is_empty() {
        let genesis = genesis_block(&config.network_name, genesis_timestamp_ms, key)?;
        if config
            .genesis
            .is_some_and(|pinned| pinned != genesis.block.hash())
        {
            check_network(None, config)?;
        }
        chain.append_all(
            &[genesis],
            Acceptance {
                by: key.public_key(),
                at_ms,
            },
        )?;
    }
    check_network(chain.index().genesis(), config)?;
    Ok(chain)
}

/// Holds the genesis of a store against the one that the configuration pins (SEC-23).
///
/// # Errors
/// [`ChainError::OtherNetwork`].
pub fn check_network(found: Option<BlockHash>, config: &ChainConfig) -> Result<(), ChainError> {
    match config.genesis {
        Some(expected) if found != Some(expected) => Err(ChainError::OtherNetwork {
            expected,
            found: Genesis(found),
        }),
        _ => Ok(()),
    }
}
