use std::collections::HashMap;

use blyan_formats::bodies::Payload as _;
use blyan_formats::keys::SignatureFault;
use blyan_formats::{
    ArchitectureBody, AuditAnchorBody, BlockHash, BlockHeader, BlockType, ChainId, GenesisBody,
    KeyGrantBody, ManifestBody, PayloadHash, PublicKey, SignedBlock, TensorName,
};
use blyan_protocol::ModelEntry;

use super::index::{Added, Authority, BlockMeta};
use super::{ChainIndex, ParamIndex, Refusal};
use crate::checked::signature_refused;

/// What is known of a block's payload.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// The JSON itself.
    Json(&'a [u8]),
    /// A payload file of this length.
    File(u64),
    /// Nothing is there.
    Missing,
}

/// What the rules need to see beside the block.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The block's payload.
    pub payload: Payload<'a>,
    /// For a manifest: the payload of the architecture block that it names, if that is on chain A.
    pub architecture: Option<&'a ArchitectureBody>,
}

impl<'a> Evidence<'a> {
    /// A payload, and no architecture.
    pub const fn of(payload: Payload<'a>) -> Self {
        Self {
            payload,
            architecture: None,
        }
    }
}

/// What became of a block that broke no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It follows.
    New,
    /// The chain holds it already: appending it again changes nothing.
    Known,
}

/// Blocks that were found to follow an index, and are not visible yet. A refused block leaves it as it was.
#[derive(Debug)]
pub struct Draft<'a> {
    base: &'a ChainIndex,
    added: Added,
    positions: HashMap<BlockHash, usize>,
    chain_a: Vec<BlockHash>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(base: &'a ChainIndex) -> Self {
        Self {
            base,
            added: Added::default(),
            positions: HashMap::new(),
            chain_a: Vec::new(),
        }
    }

    /// Checks a block by the whole ladder of [`Refusal`] and adds it.
    ///
    /// # Errors
    /// The first rule that the block breaks.
    pub fn admit(
        &mut self,
        block: &SignedBlock,
        evidence: Evidence<'_>,
    ) -> Result<Admission, Refusal> {
        let hash = block.hash();
        let header = &block.header;
        header.validate_shape().map_err(Refusal::Shape)?;
        let signed = header.miner_pub.verify(hash, &block.signature);
        signed.map_err(signature_refused)?;
        self.follow(hash, block, evidence)
    }

    /// As [`Draft::admit`], for a block whose hash, shape and signature were checked before.
    pub(crate) fn follow(
        &mut self,
        hash: BlockHash,
        block: &SignedBlock,
        evidence: Evidence<'_>,
    ) -> Result<Admission, Refusal> {
        if self.get(&hash).is_some() {
            return Ok(Admission::Known);
        }
        if block.header.block_type == BlockType::Genesis {
            self.check_genesis(hash, block, evidence.payload)?;
        } else {
            self.check_header(hash, block)?;
            check_payload(&block.header, evidence.payload)?;
        }
        self.check_body(hash, block, &evidence)?;
        self.add(BlockMeta::of(hash, block));
        Ok(Admission::New)
    }

    /// Checks a stored block's header alone: signature, signer, network, links. What gives authority, the genesis and
    /// key grants, needs its payload, whose hash must have been checked. `hash` must be the header's, as
    /// [`crate::Records::blocks`] checks it when it reads a block.
    ///
    /// # Errors
    /// The first rule that the block breaks.
    pub fn replay(
        &mut self,
        hash: BlockHash,
        block: &SignedBlock,
        signature: Result<(), SignatureFault>,
        body: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        block.header.validate_shape().map_err(Refusal::Shape)?;
        signature.map_err(signature_refused)?;
        match block.header.block_type {
            BlockType::Genesis => {
                self.check_genesis(hash, block, body.map_or(Payload::Missing, Payload::Json))?
            }
            BlockType::KeyGrant => {
                self.check_header(hash, block)?;
                self.grant(
                    hash,
                    body.ok_or(Refusal::PayloadMissing(block.header.payload_hash))?,
                )?;
            }
            _ => self.check_header(hash, block)?,
        }
        self.add(BlockMeta::of(hash, block));
        Ok(())
    }

    /// Resolves the payload of a manifest block of this draft, which thereby becomes the newest.
    ///
    /// # Errors
    /// The first rule of manifests that it breaks.
    pub fn resolve(&mut self, manifest: BlockHash, body: &[u8]) -> Result<(), Refusal> {
        let params = self.resolve_manifest(manifest, &ManifestBody::from_payload(body)?)?;
        self.added.params = Some(params);
        Ok(())
    }

    /// The blocks, to be applied to the index once they are durable.
    pub fn finish(self) -> Added {
        self.added
    }

    /// What is known of a block, in the draft or below it.
    pub fn get(&self, hash: &BlockHash) -> Option<&BlockMeta> {
        match self.positions.get(hash) {
            Some(position) => self.added.blocks.get(*position),
            None => self.base.get(hash),
        }
    }

    fn add(&mut self, block: BlockMeta) {
        self.positions.insert(block.hash, self.added.blocks.len());
        if block.chain == ChainId::A {
            self.chain_a.push(block.hash);
        }
        self.added.blocks.push(block);
    }

    fn authority(&self) -> Option<&Authority> {
        self.added
            .authority
            .as_ref()
            .or(self.base.authority.as_ref())
    }

    fn check_genesis(
        &mut self,
        hash: BlockHash,
        block: &SignedBlock,
        payload: Payload<'_>,
    ) -> Result<(), Refusal> {
        if let Some(ours) = self.authority() {
            return Err(Refusal::OtherGenesis { ours: ours.genesis });
        }
        check_payload(&block.header, payload)?;
        let Payload::Json(body) = payload else {
            return Err(Refusal::PayloadMissing(block.header.payload_hash));
        };
        let authority = Authority::of(hash, &GenesisBody::from_payload(body)?);
        self.check_signer(&authority, &block.header)?;
        self.added.authority = Some(authority);
        Ok(())
    }

    fn check_header(&self, hash: BlockHash, block: &SignedBlock) -> Result<(), Refusal> {
        let authority = self.authority().ok_or(Refusal::NoGenesis)?;
        let header = &block.header;
        self.check_signer(authority, header)?;
        let (ours, theirs) = (authority.network(), header.network_id);
        if ours != theirs {
            return Err(Refusal::Network { ours, theirs });
        }
        match header.chain {
            ChainId::B => self.check_dag(hash, header),
            _ => self.check_linear(header),
        }
    }

    /// A block never authorises itself by carrying a key: only the genesis and chain A do, a grant for experts alone.
    fn check_signer(&self, authority: &Authority, header: &BlockHeader) -> Result<(), Refusal> {
        let key = header.miner_pub;
        if authority.authorises(&key) {
            return Ok(());
        }
        if !self.is_granted(&key) {
            return Err(Refusal::Signer(key));
        }
        match header.block_type {
            BlockType::Expert if header.supersedes.is_none() => Ok(()),
            BlockType::Expert => Err(Refusal::GrantSupersedes(key)),
            block_type => Err(Refusal::Grant { key, block_type }),
        }
    }

    fn is_granted(&self, key: &PublicKey) -> bool {
        self.base.granted().contains_key(key) || self.added.granted.contains_key(key)
    }

    fn grant(&mut self, block: BlockHash, body: &[u8]) -> Result<(), Refusal> {
        for key in KeyGrantBody::from_payload(body)?.keys {
            self.added.granted.entry(key).or_insert(block);
        }
        Ok(())
    }

    /// One comparison with the block before: the chain is never walked.
    fn check_linear(&self, header: &BlockHeader) -> Result<(), Refusal> {
        let expected = (self.base.chain_a().len() + self.chain_a.len()) as u64;
        if header.index != expected {
            return Err(Refusal::Index {
                expected,
                found: header.index,
            });
        }
        match self.chain_a.last().or(self.base.chain_a().last()) {
            Some(last) if header.prev_hash != Some(*last) => {
                Err(Refusal::PrevHash { expected: *last })
            }
            _ => Ok(()),
        }
    }

    /// Looks at the block's own parents only. Links by hash to blocks that are already there cannot close a cycle;
    /// the refusal is kept as a check (CHAIN-05).
    fn check_dag(&self, hash: BlockHash, header: &BlockHeader) -> Result<(), Refusal> {
        let mut expected = 0;
        for parent in header.depends_on.iter().flatten() {
            let found = self.get(parent).filter(|block| block.chain == ChainId::B);
            if *parent == hash || found.is_some_and(|block| block.parents.contains(&hash)) {
                return Err(Refusal::Cycle(*parent));
            }
            let found = found.ok_or(Refusal::Parent(*parent))?;
            expected = expected.max(found.index + 1);
        }
        if header.index != expected {
            return Err(Refusal::Index {
                expected,
                found: header.index,
            });
        }
        if let Some(meta) = header.meta_ref.filter(|meta| !self.is_architecture(meta)) {
            return Err(Refusal::MetaRef(meta));
        }
        self.check_superseded(header)
    }

    /// Existence and name only: whether the newer weights are better is not the chain's to say.
    fn check_superseded(&self, header: &BlockHeader) -> Result<(), Refusal> {
        let mut superseded = header.supersedes.iter().flatten();
        let same = |hash: &BlockHash| self.get(hash).is_some_and(|b| b.name == header.expert_name);
        match superseded.find(|hash| !same(hash)) {
            Some(other) => Err(Refusal::Supersedes(*other)),
            None => Ok(()),
        }
    }

    fn is_architecture(&self, hash: &BlockHash) -> bool {
        self.get(hash)
            .is_some_and(|block| block.block_type == BlockType::Architecture)
    }

    fn check_body(
        &mut self,
        hash: BlockHash,
        block: &SignedBlock,
        evidence: &Evidence<'_>,
    ) -> Result<(), Refusal> {
        let Payload::Json(body) = evidence.payload else {
            return Ok(());
        };
        match block.header.block_type {
            BlockType::Architecture => {
                ArchitectureBody::from_payload(body)?;
            }
            BlockType::Manifest => {
                let body = ManifestBody::from_payload(body)?;
                let params = self.resolve_manifest(hash, &body)?;
                let architecture = evidence
                    .architecture
                    .ok_or(Refusal::ManifestArchitecture(body.architecture))?;
                body.validate_against(architecture)?;
                self.added.params = Some(params);
            }
            BlockType::KeyGrant => self.grant(hash, body)?,
            BlockType::AuditAnchor => {
                AuditAnchorBody::from_payload(body)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Resolves a manifest's names against the draft, without making it the newest.
    ///
    /// # Errors
    /// The first rule of manifests that it breaks.
    pub fn resolve_manifest(
        &self,
        manifest: BlockHash,
        body: &ManifestBody,
    ) -> Result<ParamIndex, Refusal> {
        if !self.is_architecture(&body.architecture) {
            return Err(Refusal::ManifestArchitecture(body.architecture));
        }
        ParamIndex::resolve(manifest, body, |name, block| self.entry(name, block))
    }

    fn entry(&self, name: TensorName, block: BlockHash) -> Result<ModelEntry, Refusal> {
        let found = self.get(&block).filter(|found| found.chain == ChainId::B);
        let found = found.ok_or(Refusal::ManifestBlock { name, block })?;
        if found.name != Some(name) {
            return Err(Refusal::ManifestName { name, block });
        }
        Ok(ModelEntry {
            block,
            payload: found.payload,
            payload_len: found.payload_len,
        })
    }
}

/// Whether a block's payload says who may sign, so that headers alone cannot be replayed without it.
pub(crate) fn gives_authority(block_type: BlockType) -> bool {
    matches!(block_type, BlockType::Genesis | BlockType::KeyGrant)
}

fn check_payload(header: &BlockHeader, payload: Payload<'_>) -> Result<(), Refusal> {
    match (header.chain, payload) {
        (ChainId::B, Payload::File(len)) => check_len(header, len),
        (ChainId::A | ChainId::C | ChainId::D, Payload::Json(bytes)) => check_json(header, bytes),
        _ => Err(Refusal::PayloadMissing(header.payload_hash)),
    }
}

/// Holds a JSON payload against the length and hash in its header.
pub(crate) fn check_json(header: &BlockHeader, bytes: &[u8]) -> Result<(), Refusal> {
    check_len(header, bytes.len() as u64)?;
    let found = PayloadHash::of_bytes(bytes);
    if found == header.payload_hash {
        Ok(())
    } else {
        Err(Refusal::PayloadHash(found))
    }
}

const fn check_len(header: &BlockHeader, found: u64) -> Result<(), Refusal> {
    let expected = header.payload_len;
    if found == expected {
        Ok(())
    } else {
        Err(Refusal::PayloadLen { expected, found })
    }
}
