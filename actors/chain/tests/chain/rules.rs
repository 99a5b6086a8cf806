//! The rules of the chain against the plain model: random offers, valid and not, DAG blocks in any order.

use std::collections::BTreeSet;

use blyan_chain::compose::{Weights, genesis_block, meta_block, weights_block};
use blyan_chain::{Admission, ChainIndex, Evidence, Payload, Refusal};
use blyan_formats::bodies::Payload as _;
use blyan_formats::{
    ArchitectureBody, BlockHash, BlockType, ChainId, KeyGrantBody, ManifestBody, NetworkId,
    NodeKey, PayloadHash, PublicKey, Signature, SignedBlock, TensorName,
};
use proptest::prelude::*;

use crate::plain::{Held, Plain, check_against};
use crate::support::{NOW_MS, architecture, key};

/// Fewest offers to one chain.
const CHAIN_LEN_MIN: usize = 20;

/// What is wrong with a block that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// It is on the chain already.
    Again,
    Version,
    ForeignSignature,
    UnauthorisedSigner,
    /// A key that may have been granted experts.
    Miner,
    OtherNetwork,
    IndexAhead,
    PrevHash,
    UnknownParent,
    ParentOnA,
    UnknownMeta,
    MetaIsGenesis,
    SupersedesUnknown,
    SupersedesOtherTensor,
    SupersedesArchitecture,
    NoPayload,
    LongPayload,
    OtherBody,
    OtherGenesis,
    ManifestUnknownBlock,
    ManifestSwappedNames,
    ManifestLacksName,
}

/// What kind of block is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Weights,
    Architecture,
    Manifest,
    Grant,
}

#[derive(Clone, Debug)]
struct Offer {
    kind: Kind,
    flaw: Flaw,
    /// Chooses among what is there.
    pick: usize,
    parents: usize,
    /// Whether a new draft begins here.
    commit: bool,
}

fn offers() -> impl Strategy<Value = Vec<Offer>> {
    use Flaw::*;
    let flaw = prop_oneof![
        12 => Just(None),
        18 => prop::sample::select(vec![
            Again, Version, ForeignSignature, UnauthorisedSigner, Miner, Miner, OtherNetwork, IndexAhead, PrevHash, UnknownParent,
            ParentOnA, UnknownMeta, MetaIsGenesis, SupersedesUnknown, SupersedesOtherTensor, SupersedesArchitecture,
            NoPayload, LongPayload, OtherBody, OtherGenesis,
            ManifestUnknownBlock, ManifestSwappedNames, ManifestLacksName,
        ]),
    ];
    let kind = prop_oneof![6 => Just(Kind::Weights), 1 => Just(Kind::Architecture), 2 => Just(Kind::Manifest), 1 => Just(Kind::Grant)];
    let offer = (
        kind,
        flaw,
        any::<prop::sample::Index>(),
        0..4_usize,
        prop::bool::weighted(0.3),
    );
    let offer = offer.prop_map(|(kind, flaw, pick, parents, commit)| Offer {
        kind,
        flaw,
        pick: pick.index(1 << 16),
        parents,
        commit,
    });
    prop::collection::vec(offer, CHAIN_LEN_MIN..60)
}

/// Two tensors make a model, so that manifests come about by chance.
fn tiny() -> ArchitectureBody {
    let mut tiny = architecture();
    tiny.layers = 1;
    tiny.experts.per_layer = 2;
    tiny.experts.neurons = 16;
    tiny
}

/// One of the few keys that grants are made to.
fn miner_of(offer: &Offer) -> NodeKey {
    key(10 + (offer.pick % 3) as u8)
}

/// A block with what is offered as its payload, and the rule that it must break.
struct Offered {
    block: SignedBlock,
    body: Option<Vec<u8>>,
    file_len: Option<u64>,
    breaks: Option<&'static str>,
}

impl Offered {
    fn payload(&self) -> Payload<'_> {
        match (&self.body, self.file_len) {
            (Some(body), _) => Payload::Json(body),
            (None, Some(len)) => Payload::File(len),
            (None, None) => Payload::Missing,
        }
    }
}

struct Offerer<'a> {
    index: &'a ChainIndex,
    plain: &'a Plain,
    granted: &'a BTreeSet<PublicKey>,
    miner: &'a NodeKey,
}

impl Offerer<'_> {
    /// `None` where the chain does not have yet what the offer needs.
    fn make(&self, offer: &Offer) -> Option<Offered> {
        if offer.flaw == Flaw::OtherGenesis {
            let other = genesis_block("other", NOW_MS, self.miner).unwrap();
            let breaks = Some("other_genesis");
            return Some(Offered {
                block: other.block,
                body: other.body,
                file_len: None,
                breaks,
            });
        }
        let offered = match offer.kind {
            Kind::Weights => self.weights(offer)?,
            Kind::Architecture => self.architecture(offer),
            Kind::Manifest => self.manifest(offer)?,
            Kind::Grant => self.grant(offer),
        };
        self.spoil(offered, offer)
    }

    fn weights(&self, offer: &Offer) -> Option<Offered> {
        let architectures = self.plain.of_type(BlockType::Architecture);
        let meta_ref = architectures
            .get(offer.pick % architectures.len().max(1))?
            .hash;
        let names: Vec<_> = tiny().tensor_names().collect();
        let on_b = self.plain.on(ChainId::B);
        let parent = |nth: usize| {
            on_b.get((offer.pick / 7 + nth * 13) % on_b.len().max(1))
                .map(|held| held.hash)
        };
        let weights = Weights {
            name: names[offer.pick % names.len()],
            payload: PayloadHash::of_bytes(&offer.pick.to_le_bytes()),
            payload_len: 100,
            meta_ref,
            parents: (0..offer.parents).filter_map(parent).collect(),
            supersedes: self.older(names[offer.pick % names.len()], offer),
        };
        let new =
            weights_block(self.index, weights, NOW_MS + offer.pick as u64, self.miner).unwrap();
        Some(Offered {
            block: new.block,
            body: None,
            file_len: Some(100),
            breaks: None,
        })
    }

    /// One block of the tensor, for every third offer.
    fn older(&self, name: TensorName, offer: &Offer) -> Vec<BlockHash> {
        let named = self.plain.named(name);
        let chosen = named.get(offer.pick / 3 % named.len().max(1));
        let chosen = chosen.filter(|_| offer.pick.is_multiple_of(3));
        chosen.map(|held| held.hash).into_iter().collect()
    }

    fn meta(&self, block_type: BlockType, body: Vec<u8>, offer: &Offer) -> Offered {
        let new = meta_block(
            self.index,
            block_type,
            body,
            NOW_MS + offer.pick as u64,
            self.miner,
        )
        .unwrap();
        Offered {
            block: new.block,
            body: new.body,
            file_len: None,
            breaks: None,
        }
    }

    fn architecture(&self, offer: &Offer) -> Offered {
        self.meta(BlockType::Architecture, tiny().to_payload().unwrap(), offer)
    }

    fn grant(&self, offer: &Offer) -> Offered {
        let body = KeyGrantBody::new([miner_of(offer).public_key()]);
        self.meta(BlockType::KeyGrant, body.to_payload().unwrap(), offer)
    }

    /// What a block that a miner signs breaks: nothing, if the key was granted before and the block is an expert's.
    fn by_miner(&self, offered: Offered, offer: &Offer) -> Offered {
        let block = offered.block.header.clone().sign(&miner_of(offer));
        let header = &block.header;
        let granted = self.granted.contains(&header.miner_pub);
        let breaks = match (granted, header.block_type, &header.supersedes) {
            (false, ..) => Some("signer"),
            (true, BlockType::Expert, None) => offered.breaks,
            (true, BlockType::Expert, Some(_)) => Some("grant_supersedes"),
            (true, ..) => Some("grant"),
        };
        Offered {
            block,
            breaks,
            ..offered
        }
    }

    fn manifest(&self, offer: &Offer) -> Option<Offered> {
        let architecture = self.plain.of_type(BlockType::Architecture).last()?.hash;
        let mut breaks = None;
        let mut entries = std::collections::BTreeMap::new();
        for name in tiny().tensor_names() {
            let blocks = self.plain.named(name);
            match blocks.get(offer.pick % blocks.len().max(1)) {
                Some(held) => {
                    entries.insert(name, held.hash);
                }
                // A manifest that lacks a name resolves, and is then held against its architecture.
                None => breaks = Some("body"),
            }
        }
        if entries.len() < 2 {
            return None;
        }
        let (first, last) = (
            *entries.keys().next().unwrap(),
            *entries.keys().last().unwrap(),
        );
        match offer.flaw {
            Flaw::ManifestUnknownBlock => {
                entries.insert(first, BlockHash::from_bytes([1; 32]));
                breaks = Some("manifest_block");
            }
            Flaw::ManifestSwappedNames => {
                let (a, b) = (entries[&first], entries[&last]);
                entries.extend([(first, b), (last, a)]);
                breaks = Some("manifest_name");
            }
            Flaw::ManifestLacksName => {
                entries.remove(&last);
                breaks = Some("body");
            }
            _ => {}
        }
        let body = ManifestBody {
            architecture,
            entries,
        }
        .to_payload()
        .unwrap();
        Some(Offered {
            breaks,
            ..self.meta(BlockType::Manifest, body, offer)
        })
    }

    /// Puts the offer's flaw into a block. Flaws of other kinds of block leave it as it is; a flaw further up the
    /// ladder hides the one that a manifest has already.
    fn spoil(&self, mut offered: Offered, offer: &Offer) -> Option<Offered> {
        let on_b = offered.block.header.chain == ChainId::B;
        let mut header = offered.block.header.clone();
        let foreign = BlockHash::from_bytes([3; 32]);
        let breaks = match offer.flaw {
            Flaw::Again => {
                let held = &self.plain.0[offer.pick % self.plain.0.len()];
                return Some(Offered {
                    block: held.block.clone(),
                    body: None,
                    file_len: None,
                    breaks: None,
                });
            }
            Flaw::Version => {
                header.version = 2;
                "shape"
            }
            Flaw::ForeignSignature => {
                offered.block.signature = Signature::from_bytes([1; 64]);
                offered.breaks = Some("signature");
                return Some(offered);
            }
            Flaw::UnauthorisedSigner => {
                offered.block = header.sign(&key(9));
                offered.breaks = Some("signer");
                return Some(offered);
            }
            Flaw::Miner => return Some(self.by_miner(offered, offer)),
            Flaw::OtherNetwork => {
                header.network_id = NetworkId::of_genesis(foreign);
                "network"
            }
            Flaw::IndexAhead if !on_b || header.index > 0 => {
                header.index += 1;
                "index"
            }
            Flaw::PrevHash if !on_b => {
                header.prev_hash = Some(foreign);
                "prev_hash"
            }
            Flaw::UnknownParent if on_b => {
                header.depends_on = Some(vec![foreign]);
                header.index = header.index.max(1);
                "parent"
            }
            Flaw::ParentOnA if on_b => {
                header.depends_on = Some(vec![self.index.genesis().unwrap()]);
                header.index = header.index.max(1);
                "parent"
            }
            Flaw::UnknownMeta if on_b => {
                header.meta_ref = Some(foreign);
                "meta_ref"
            }
            Flaw::MetaIsGenesis if on_b => {
                header.meta_ref = self.index.genesis();
                "meta_ref"
            }
            Flaw::SupersedesUnknown if on_b => {
                header.supersedes = Some(vec![foreign]);
                "supersedes"
            }
            Flaw::SupersedesOtherTensor if on_b => {
                let others = self.plain.on(ChainId::B);
                let other = others
                    .iter()
                    .find(|held| held.block.header.expert_name != header.expert_name)?;
                header.supersedes = Some(vec![other.hash]);
                "supersedes"
            }
            Flaw::SupersedesArchitecture if on_b => {
                header.supersedes = header.meta_ref.map(|meta| vec![meta]);
                "supersedes"
            }
            Flaw::NoPayload => {
                (offered.body, offered.file_len) = (None, None);
                "payload_missing"
            }
            Flaw::LongPayload => {
                header.payload_len += 1;
                "payload_len"
            }
            Flaw::OtherBody if !on_b => {
                offered.body.as_mut().unwrap()[1] ^= 1;
                "payload_hash"
            }
            _ => return Some(offered),
        };
        offered.block = header.sign(self.miner);
        offered.breaks = Some(breaks);
        Some(offered)
    }
}

fn evidence<'a>(offered: &'a Offered, architecture: &'a ArchitectureBody) -> Evidence<'a> {
    Evidence {
        payload: offered.payload(),
        architecture: Some(architecture),
    }
}

fn genesis(index: &mut ChainIndex, plain: &mut Plain, miner: &NodeKey) {
    let new = genesis_block("test", NOW_MS, miner).unwrap();
    let mut draft = index.draft();
    let evidence = Evidence::of(Payload::Json(new.body.as_deref().unwrap()));
    assert_eq!(draft.admit(&new.block, evidence), Ok(Admission::New));
    let added = draft.finish();
    index.apply(added);
    plain.0.push(Held {
        hash: new.block.hash(),
        block: new.block,
    });
}

fn admitted(result: &Result<Admission, Refusal>) -> Option<&'static str> {
    result.as_ref().err().map(Refusal::rule)
}

/// `BLYAN_CHAIN_OPERATIONS` asks for at least so many offers (`make chain-long`).
fn cases() -> u32 {
    let asked =
        std::env::var("BLYAN_CHAIN_OPERATIONS").map_or(2000, |asked| asked.parse().unwrap());
    u32::div_ceil(asked, CHAIN_LEN_MIN as u32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_index_agrees_with_a_plain_list_of_blocks(offers in offers()) {
        let miner = key(1);
        let architecture = tiny();
        let names: Vec<_> = architecture.tensor_names().collect();
        let (mut index, mut plain) = (ChainIndex::default(), Plain::default());
        let mut granted = BTreeSet::new();
        genesis(&mut index, &mut plain, &miner);
        for offer in &offers {
            let offerer = Offerer { index: &index, plain: &plain, granted: &granted, miner: &miner };
            let Some(offered) = offerer.make(offer) else { continue };
            let hash = offered.block.hash();
            let known = plain.find(hash).is_some();
            let mut draft = index.draft();
            let result = draft.admit(&offered.block, evidence(&offered, &architecture));
            if known {
                prop_assert_eq!(result, Ok(Admission::Known));
                continue;
            }
            prop_assert_eq!(admitted(&result), offered.breaks, "{:?}: {:?}", offer, result);
            prop_assert_eq!(draft.get(&hash).is_some(), result.is_ok());
            let again = draft.admit(&offered.block, evidence(&offered, &architecture));
            prop_assert_eq!(again.is_ok(), result.is_ok());
            let added = draft.finish();
            // A draft that is dropped leaves no trace.
            if result.is_ok() && (offer.commit || offer.kind != Kind::Weights) {
                index.apply(added);
                if offered.block.header.block_type == BlockType::KeyGrant {
                    granted.insert(miner_of(offer).public_key());
                }
                plain.0.push(Held { hash, block: offered.block });
            }
            prop_assert!(index.granted().keys().eq(&granted));
            check_against(&plain, &index, &names);
        }
    }
}

/// A whole import in one draft, before anything of it is visible.
#[test]
fn a_draft_resolves_what_it_holds_itself() {
    let miner = key(1);
    let (mut index, mut plain) = (ChainIndex::default(), Plain::default());
    genesis(&mut index, &mut plain, &miner);
    let body = tiny().to_payload().unwrap();
    let architecture = meta_block(&index, BlockType::Architecture, body, NOW_MS, &miner).unwrap();
    let mut draft = index.draft();
    let evidence = Evidence::of(Payload::Json(architecture.body.as_deref().unwrap()));
    draft.admit(&architecture.block, evidence).unwrap();
    let weights = Weights {
        name: TensorName::Embedding,
        payload: PayloadHash::of_bytes(b"x"),
        payload_len: 1,
        meta_ref: architecture.block.hash(),
        parents: Vec::new(),
        supersedes: Vec::new(),
    };
    let block = weights_block(&index, weights, NOW_MS, &miner)
        .unwrap()
        .block;
    assert_eq!(
        index
            .draft()
            .admit(&block, Evidence::of(Payload::File(1)))
            .map_err(|r| r.rule()),
        Err("meta_ref")
    );
    assert_eq!(
        draft.admit(&block, Evidence::of(Payload::File(1))),
        Ok(Admission::New)
    );
    assert_eq!(
        draft.admit(&block, Evidence::of(Payload::Missing)),
        Ok(Admission::Known)
    );
    assert_eq!(index.len(), 1);
    let added = draft.finish();
    index.apply(added);
    assert_eq!(index.len(), 3);
}

#[test]
fn an_empty_chain_takes_a_genesis_only() {
    let miner = key(1);
    let (mut index, mut plain) = (ChainIndex::default(), Plain::default());
    genesis(&mut index, &mut plain, &miner);
    let second = meta_block(
        &index,
        BlockType::Architecture,
        tiny().to_payload().unwrap(),
        NOW_MS,
        &miner,
    )
    .unwrap();
    let empty = ChainIndex::default();
    let evidence = Evidence::of(Payload::Json(second.body.as_deref().unwrap()));
    assert_eq!(
        empty.draft().admit(&second.block, evidence),
        Err(Refusal::NoGenesis)
    );
}

/// A genesis authorises the keys in its payload, not the key that it carries.
#[test]
fn a_genesis_signed_by_a_key_that_it_does_not_authorise_is_refused() {
    let mut new = genesis_block("test", NOW_MS, &key(1)).unwrap();
    new.block = new.block.header.sign(&key(2));
    let evidence = Evidence::of(Payload::Json(new.body.as_deref().unwrap()));
    let refused = ChainIndex::default().draft().admit(&new.block, evidence);
    assert_eq!(refused, Err(Refusal::Signer(key(2).public_key())));
}
