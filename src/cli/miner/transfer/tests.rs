//! Against a double of the node that loses answers, forgets, and says no.

use std::fs;

use actix_web::web::{Bytes, Data, Json, Path as UrlPath};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use blyan_chain::compose::{Weights, weights_block_at};
use blyan_formats::tensorblock::{TensorBuf, write_tensorblock};
use blyan_formats::{BlockHash, NetworkId, NodeKey, TensorName};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;

const CHUNK: usize = 1000;

/// A node that misbehaves now and then.
struct Double {
    random: StdRng,
    /// How often a question is met with trouble.
    trouble: f64,
    /// The status of every answer, where it is none of the protocol's.
    always: Option<u16>,
    upload: u32,
    block: String,
    length: usize,
    received: Vec<u8>,
    stored: bool,
    questions: u32,
}

impl Double {
    fn session(&self) -> Value {
        json!({
            "upload": self.upload.to_string(),
            "block": self.block,
            "received": self.received.len(),
            "length": self.length,
            "chunk_bytes_max": CHUNK,
            "state": if self.stored { "stored" } else { "open" },
        })
    }

    /// Trouble instead of an answer; what was asked is done or not.
    fn trouble(&mut self) -> Option<HttpResponse> {
        self.questions += 1;
        if let Some(status) = self.always {
            let status = StatusCode::from_u16(status).unwrap();
            return Some(HttpResponse::build(status).json(json!({"error": {"message": "No."}})));
        }
        if !self.random.random_bool(self.trouble) {
            return None;
        }
        Some(match self.random.random_range(0..16) {
            0..5 => HttpResponse::InternalServerError().finish(),
            5..10 => {
                HttpResponse::ServiceUnavailable().json(json!({"error": {"message": "Later."}}))
            }
            10 if !self.stored => {
                // Cleaned away meanwhile.
                self.upload += 1;
                self.received.clear();
                HttpResponse::NotFound().finish()
            }
            _ => {
                let cut = futures_util::stream::iter([
                    Ok(Bytes::from_static(b"{")),
                    Err(std::io::Error::other("the connection breaks")),
                ]);
                HttpResponse::Ok().streaming(cut)
            }
        })
    }

    fn take(&mut self, upload: &str, offset: usize, chunk: &[u8]) -> HttpResponse {
        if upload != self.upload.to_string() {
            return HttpResponse::NotFound().finish();
        }
        if offset != self.received.len() || chunk.len() > CHUNK {
            return HttpResponse::Conflict().finish();
        }
        self.received.extend_from_slice(chunk);
        self.stored = self.received.len() == self.length;
        HttpResponse::Ok().json(self.session())
    }
}

type Shared = Data<Mutex<Double>>;

async fn open(double: Shared, opening: Json<Value>) -> HttpResponse {
    let mut double = double.lock();
    assert_eq!(opening["block"]["header"]["expert_name"], "layer3.expert5");
    match double.trouble() {
        // What was cleaned away is opened anew.
        Some(answer) if answer.status() == StatusCode::NOT_FOUND && double.always.is_none() => {
            HttpResponse::Ok().json(double.session())
        }
        Some(answer) => answer,
        None => HttpResponse::Ok().json(double.session()),
    }
}

async fn take(
    double: Shared,
    id: UrlPath<String>,
    request: HttpRequest,
    chunk: Bytes,
) -> HttpResponse {
    let mut double = double.lock();
    let offset = request.headers().get("upload-offset");
    let offset = offset.unwrap().to_str().unwrap().parse().unwrap();
    let early = double.random.random_bool(0.5);
    let trouble = double.trouble();
    match trouble {
        Some(answer) if early => answer,
        Some(answer) => {
            // Done, but the answer is lost.
            double.take(&id, offset, &chunk);
            answer
        }
        None => double.take(&id, offset, &chunk),
    }
}

/// What a double saw of an upload.
struct Seen {
    received: Vec<u8>,
    questions: u32,
}

struct World {
    _folder: tempfile::TempDir,
    bytes: Vec<u8>,
    payload: PayloadFile,
    block: SignedBlock,
}

fn world() -> World {
    let values: Vec<f32> = (0..96 * 64).map(|i| (i as f32).sin()).collect();
    let expert = TensorBuf::quantise_int8_blocks(96, 64, &values).unwrap();
    let mut bytes = Vec::new();
    write_tensorblock(&expert.as_tensor(), &mut bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    fs::write(&path, &bytes).unwrap();
    let name = TensorName::expert_of(3, 5);
    let payload = PayloadFile::open(name, &path).unwrap();
    let weights = Weights {
        name,
        payload: payload.hash,
        payload_len: payload.len,
        meta_ref: BlockHash::from_bytes([1; 32]),
        parents: Vec::new(),
        supersedes: Vec::new(),
    };
    let network = NetworkId::of_genesis(BlockHash::from_bytes([2; 32]));
    let key = NodeKey::from_secret_bytes([3; 32]).unwrap();
    World {
        _folder: folder,
        bytes,
        block: weights_block_at(network, 0, weights, 1, &key),
        payload,
    }
}

impl World {
    fn double(&self, seed: u64, trouble: f64) -> Double {
        Double {
            random: StdRng::seed_from_u64(seed),
            trouble,
            always: None,
            upload: 1,
            block: self.block.hash().to_string(),
            length: self.bytes.len(),
            received: Vec::new(),
            stored: false,
            questions: 0,
        }
    }

    /// Uploads to `double`; what became of it.
    fn upload(&self, double: Double) -> (Result<Session>, Seen) {
        let shared = Data::new(Mutex::new(double));
        let served = Shared::clone(&shared);
        let result = actix_rt::System::new().block_on(async {
            let app = move || {
                App::new()
                    .app_data(Shared::clone(&served))
                    .route(PATH, web::post().to(open))
                    .route("/upload_moe_experts/{id}", web::patch().to(take))
            };
            let server = HttpServer::new(app).workers(1).disable_signals();
            let server = server.bind(("127.0.0.1", 0)).unwrap();
            let url = format!("http://{}", server.addrs()[0]);
            let server = server.run();
            let handle = server.handle();
            actix_rt::spawn(server);
            let api = NodeApi::at(&url);
            let listener = Listener {
                progress: &|done, all| assert!(done <= all),
                trouble: &|_| {},
            };
            let patience = Patience {
                pause_min: Duration::from_micros(10),
                pause_max: Duration::from_micros(100),
                tries_max: 40,
                ..Patience::default()
            };
            let done = upload(&api, &self.payload, &self.block, &patience, &listener).await;
            handle.stop(false).await;
            done
        });
        let mut double = shared.lock();
        let seen = Seen {
            received: std::mem::take(&mut double.received),
            questions: double.questions,
        };
        (result, seen)
    }
}

#[test]
fn a_payload_arrives_whole_through_any_trouble() {
    let seed: u64 =
        std::env::var("BLYAN_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("seed {seed}: BLYAN_SEED={seed} repeats it");
    let world = world();
    let mut troubled = 0;
    for round in 0..20 {
        let (done, seen) = world.upload(world.double(seed ^ round, 0.4));
        assert_eq!(done.unwrap().state, State::Stored, "round {round}");
        assert!(seen.received == world.bytes, "round {round}");
        troubled += seen.questions as usize - 1 - world.bytes.len().div_ceil(CHUNK);
    }
    assert!(troubled > 0, "no round met any trouble");
}

#[test]
fn without_trouble_nothing_is_asked_twice() {
    let world = world();
    let (done, seen) = world.upload(world.double(1, 0.0));
    assert!(done.is_ok());
    assert_eq!(
        seen.questions as usize,
        1 + world.bytes.len().div_ceil(CHUNK)
    );
}

#[test]
fn an_upload_goes_on_where_it_stopped_and_ends_where_its_end_was_cut_off() {
    let world = world();
    for had in [2345, world.bytes.len()] {
        let mut double = world.double(1, 0.0);
        double.received = world.bytes[..had].to_vec();
        let (done, seen) = world.upload(double);
        assert_eq!(done.unwrap().state, State::Stored);
        assert!(seen.received == world.bytes);
        let missing = (world.bytes.len() - had).div_ceil(CHUNK).max(1);
        assert_eq!(
            seen.questions as usize,
            1 + missing,
            "{had} bytes were there"
        );
    }
}

#[test]
fn what_is_on_the_chain_is_not_sent_again() {
    let world = world();
    let mut double = world.double(1, 0.0);
    double.stored = true;
    let (done, seen) = world.upload(double);
    assert_eq!(done.unwrap().state, State::Stored);
    assert_eq!((seen.questions, seen.received.len()), (1, 0));
}

#[test]
fn a_refusal_ends_it_at_once_and_trouble_without_end_ends_it_too() {
    let world = world();
    for (status, questions) in [(403, 1), (404, 1), (422, 1), (503, 41)] {
        let mut double = world.double(1, 0.0);
        double.always = Some(status);
        let (done, seen) = world.upload(double);
        let why = done.unwrap_err().to_string();
        assert_eq!(seen.questions, questions, "{status}: {why}");
        assert!(status == 404 || why.contains("No."), "{status}: {why}");
    }
}

#[test]
fn a_node_that_speaks_of_another_block_is_not_believed() {
    let world = world();
    let mut double = world.double(1, 0.0);
    double.block = BlockHash::from_bytes([9; 32]).to_string();
    let (done, seen) = world.upload(double);
    assert!(done.unwrap_err().to_string().contains("another block"));
    assert!(seen.received.is_empty());
}

fn reply(status: u16, body: &str) -> Reply {
    Reply {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: (status == 429).then_some(Duration::from_secs(7)),
        body: body.into(),
    }
}

#[test]
fn pauses_double_up_to_half_a_minute() {
    let patience = Patience::default();
    let pauses = (1..=patience.tries_max).map(|tries| patience.pause(tries).as_millis());
    let pauses: Vec<u128> = pauses.collect();
    assert_eq!(
        pauses,
        [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
    );
}

#[test]
fn a_refusal_is_told_in_the_words_of_the_node() {
    let body = r#"{"error":{"message":"The key may not sign.","hint":"An admin grants it."}}"#;
    for status in [400, 401, 403, 413, 422] {
        let Err(Trouble::Lasting(why)) = judge::<Session>(reply(status, body)) else {
            panic!("{status} is not lasting");
        };
        assert!(
            why.to_string()
                .ends_with("The key may not sign. An admin grants it."),
            "{why}"
        );
    }
}

#[test]
fn what_may_pass_is_tried_again_when_the_node_says() {
    for (status, seconds) in [(404, 0), (409, 0), (429, 7), (500, 0), (503, 0)] {
        let Err(Trouble::Passing(_, asked)) = judge::<Session>(reply(status, "")) else {
            panic!("{status} is not passing");
        };
        assert_eq!(asked, Duration::from_secs(seconds), "{status}");
    }
}
