//! A node's serving part: replicas in a real supervision tree over the toy engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blyan_formats::bodies::{
    ArchitectureBody, ChatTemplate, Decimal, ExpertShape, Family, Rope, RopeStyle, Routing,
    StringTable, Tokenizer, TokenizerKind,
};
use blyan_formats::{BlockHash, PayloadHash, TensorName};
use blyan_inference::actor::InferenceActor;
use blyan_inference::config::InferenceConfig;
use blyan_inference::handle::{ChatStream, InferenceHandle};
use blyan_inference::serving::Parts;
use blyan_protocol::{
    BoxFuture, ChatEvent, ChatRequest, ChatSummary, ErrorCode, ExpertTable, FinishReason, Lease,
    LeaseError, Message, ModelDescription, ModelEntry, ModelId, PublicError, Receipt, ReceiptSink,
    RequestId, Role, Sampling, WeightForm,
};
use blyan_supervisors::{
    Backoff, ChildRef, ChildSpec, SupervisorSpec, Tree, TreeHandle, TreeOptions, Window,
};
use parking_lot::Mutex;

use crate::toy::{ToyEngine, VOCABULARY};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const MODEL: ModelId = ModelId(BlockHash::from_bytes([7; 32]));

/// What a test changes of the house.
pub struct Plan {
    pub config: InferenceConfig,
    pub window: Window,
    pub stuck_limit: Duration,
    pub memory_tokens: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            config: InferenceConfig {
                context_max_tokens: 512,
                ..InferenceConfig::default()
            },
            window: Window::new(1000, Duration::from_secs(600)),
            stuck_limit: Duration::from_secs(20),
            memory_tokens: 100_000,
        }
    }
}

pub struct House {
    pub handle: InferenceHandle,
    pub tree: TreeHandle,
    pub engine: Arc<ToyEngine>,
    pub experts: Arc<Experts>,
    pub receipts: Arc<Receipts>,
    pub replicas: Vec<ChildRef<InferenceActor>>,
    requests: AtomicU64,
}

/// A serving part that nobody looks into.
pub fn parts(plan: &Plan) -> Parts {
    Parts {
        config: plan.config.clone(),
        model: Arc::new(model()),
        engine: ToyEngine::new(plan.memory_tokens),
        experts: Arc::<Experts>::default(),
        receipts: Arc::<Receipts>::default(),
    }
}

impl House {
    pub async fn open(plan: Plan) -> Self {
        let (engine, experts, receipts) = (
            ToyEngine::new(plan.memory_tokens),
            Arc::<Experts>::default(),
            Arc::<Receipts>::default(),
        );
        let replicas = plan.config.replicas;
        let parts = Parts {
            engine: engine.clone(),
            experts: experts.clone(),
            receipts: receipts.clone(),
            ..parts(&plan)
        };
        let (handle, specs) = InferenceHandle::new(parts).unwrap();
        let children = specs.iter().map(ChildSpec::child_ref).collect();
        let mut serving =
            SupervisorSpec::new("replicas").window(Window::new(10_000, Duration::from_secs(600)));
        for spec in specs {
            let spec = spec
                .window(plan.window)
                .backoff(Backoff::NONE)
                .stuck_limit(plan.stuck_limit);
            serving = serving.child(spec);
        }
        let tree = Tree::start(serving, TreeOptions::default()).unwrap();
        for replica in 1..=replicas {
            tree.wait_running(&format!("inference-{replica}"), PATIENCE)
                .await
                .unwrap();
        }
        Self {
            handle,
            tree,
            engine,
            experts,
            receipts,
            replicas: children,
            requests: AtomicU64::new(0),
        }
    }

    pub fn request(&self, prompt: &str, max_tokens: u32) -> ChatRequest {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.requests.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        ChatRequest {
            id: RequestId::from_random(id),
            messages: vec![Message {
                role: Role::User,
                content: prompt.to_owned(),
            }],
            max_tokens,
            sampling: Sampling {
                temperature: 0.0,
                top_p: 1.0,
                top_k: None,
                seed: 0,
            },
            stop: Vec::new(),
            top_k_experts: None,
        }
    }

    pub async fn submit(&self, request: ChatRequest) -> Result<ChatStream, PublicError> {
        self.handle.submit(request, PATIENCE).await
    }

    pub async fn ask(&self, prompt: &str, max_tokens: u32) -> Told {
        let stream = self.submit(self.request(prompt, max_tokens)).await.unwrap();
        listen(stream).await
    }

    /// The tokens that the model is given for a prompt.
    pub fn prompt(&self, prompt: &str) -> Vec<u32> {
        let message = Message {
            role: Role::User,
            content: prompt.to_owned(),
        };
        self.handle.tokenizer().encode_chat(&[message]).unwrap()
    }

    /// Waits until `holds`; a test's patience is not a statement about speed.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "never: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Nothing is left of any request.
    pub async fn is_empty(&self) {
        self.until("nobody in the house", |house| house.handle.load() == (0, 0))
            .await;
        self.until("all memory given back", |house| {
            house.engine.pool.used_bytes() == 0
        })
        .await;
    }

    pub fn generation(&self, replica: u32) -> u64 {
        self.tree
            .describe()
            .find(&format!("inference-{replica}"))
            .unwrap()
            .generation
            .0
    }

    pub async fn close(self) {
        self.tree.stop(PATIENCE).await;
    }
}

/// What came out of a stream.
#[derive(Debug, Default)]
pub struct Told {
    pub text: String,
    pub tokens: u32,
    pub end: Option<Result<ChatSummary, PublicError>>,
}

impl Told {
    /// Takes an event; the order of events is checked here.
    pub fn hear(&mut self, event: ChatEvent) {
        assert!(self.end.is_none(), "an event after the last");
        match event {
            ChatEvent::Started { .. } => assert_eq!(self.tokens, 0, "a late start"),
            ChatEvent::Token(token) => {
                assert_eq!(token.index, self.tokens, "a gap or a double");
                assert!(
                    !token.text.contains('\u{fffd}'),
                    "half a character in {:?}",
                    token.text
                );
                self.tokens += 1;
                self.text.push_str(&token.text);
            }
            ChatEvent::Ended(summary) => {
                assert_eq!(summary.usage.completion_tokens, self.tokens);
                self.end = Some(Ok(summary));
            }
            ChatEvent::Failed(error) => self.end = Some(Err(error)),
        }
    }

    pub fn reason(&self) -> FinishReason {
        self.end
            .as_ref()
            .expect("no end")
            .as_ref()
            .expect("an error")
            .finish_reason
    }

    pub fn error(&self) -> ErrorCode {
        self.end
            .as_ref()
            .expect("no end")
            .as_ref()
            .expect_err("no error")
            .code
    }
}

pub async fn listen(mut stream: ChatStream) -> Told {
    let mut told = Told::default();
    let all = async {
        while let Some(event) = stream.next().await {
            told.hear(event);
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("the stream never ended");
    assert!(told.end.is_some(), "the stream broke off");
    told
}

/// Says which experts are corrupt.
#[derive(Default)]
pub struct Experts {
    corrupt: Mutex<BTreeMap<PayloadHash, String>>,
    epoch: AtomicU64,
}

impl Experts {
    pub fn spoil(&self, name: TensorName) -> PayloadHash {
        let payload = payload(name);
        self.corrupt
            .lock()
            .insert(payload, "spoilt by a test".to_owned());
        self.epoch.fetch_add(1, Ordering::SeqCst);
        payload
    }
}

impl ExpertTable for Experts {
    fn lease(
        &self,
        name: &TensorName,
        _: &PayloadHash,
        _: WeightForm,
        _: Instant,
    ) -> Result<(Lease, bool), LeaseError> {
        Err(LeaseError::Unavailable {
            name: *name,
            why: "the toy engine leases nothing".to_owned(),
        })
    }

    fn corruption(&self, payload: &PayloadHash) -> Option<String> {
        self.corrupt.lock().get(payload).cloned()
    }

    fn corruption_epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn report_damage(&self, _: &TensorName, _: &PayloadHash, _: &str) {}
}

/// Keeps receipts in memory; can be told to fail or to hang.
#[derive(Default)]
pub struct Receipts {
    pub kept: Mutex<BTreeMap<RequestId, Receipt>>,
    pub doubles: AtomicU64,
    pub failures_left: AtomicU64,
    pub hang: AtomicBool,
    pub panics_left: AtomicU64,
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

impl ReceiptSink for Receipts {
    fn record(&self, receipt: Receipt) -> BoxFuture<'_, Result<(), PublicError>> {
        Box::pin(async move {
            assert!(!take_one(&self.panics_left), "a sink that panics");
            if take_one(&self.failures_left) {
                return Err(PublicError::new(
                    ErrorCode::Unavailable,
                    "the storage is down",
                    "",
                ));
            }
            while self.hang.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if self
                .kept
                .lock()
                .insert(receipt.request_id, receipt)
                .is_some()
            {
                self.doubles.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        })
    }
}

fn payload(name: TensorName) -> PayloadHash {
    PayloadHash::of_bytes(name.to_string().as_bytes())
}

pub fn model() -> ModelDescription {
    let architecture = architecture();
    let entries = architecture.tensor_names().map(|name| {
        let entry = ModelEntry {
            block: BlockHash::from_bytes([1; 32]),
            payload: payload(name),
            payload_len: 1,
        };
        (name, entry)
    });
    ModelDescription {
        id: MODEL,
        entries: entries.collect(),
        architecture,
    }
}

fn architecture() -> ArchitectureBody {
    ArchitectureBody {
        family: Family::Llama,
        name: "toy".into(),
        license: "Apache-2.0".into(),
        layers: 2,
        hidden: 32,
        heads: 1,
        kv_heads: 1,
        head_dim: 32,
        ffn: 32,
        vocab: VOCABULARY as u32,
        context: 512,
        rms_epsilon: "0.00001".parse::<Decimal>().unwrap(),
        rope: Rope {
            base: "10000".parse::<Decimal>().unwrap(),
            style: RopeStyle::Interleaved,
        },
        experts: ExpertShape {
            per_layer: 4,
            always_on: 1,
            neurons: 8,
            routing: Routing::TopScoresUnitWeight,
        },
        tokenizer: tokenizer(),
        chat_template: ChatTemplate::Chatml,
        system_prompt: None,
    }
}

/// A token for each byte, and the template's two.
fn tokenizer() -> Tokenizer {
    let mut vocab = StringTable::default();
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    for byte in 0..=255_u8 {
        let others = (0..byte).filter(|other| !printable(*other)).count() as u32;
        let code = if printable(byte) {
            u32::from(byte)
        } else {
            0x100 + others
        };
        assert!(vocab.push(char::from_u32(code).unwrap().encode_utf8(&mut [0; 4])));
    }
    assert!(vocab.push("<|im_start|>") && vocab.push("<|im_end|>"));
    let mut token_types = vec![1; 256];
    token_types.extend([3, 3]);
    Tokenizer {
        kind: TokenizerKind::Gpt2Smollm,
        vocab,
        merges: StringTable::default(),
        token_types,
        bos: crate::toy::START,
        eos: crate::toy::END,
        unknown: crate::toy::END,
        padding: crate::toy::END,
        add_bos: false,
        add_space_prefix: false,
    }
}

/// Prints the seed that a random test can be replayed with.
pub fn seed() -> u64 {
    let asked = std::env::var("BLYAN_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = asked.unwrap_or_else(rand::random);
    eprintln!("replay with BLYAN_TEST_SEED={seed}");
    seed
}
