//! Steps that fail: the caller gets a type, memory keeps its length, the next step works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blyan_inference::engine::{Engine, EngineError, EngineOptions, Provider};
use blyan_inference::graph::ModelShape;
use blyan_inference::kv::KvSlot;
use blyan_inference::step::{Logits, StepEngine, StepError, StepRow, Terminate};
use blyan_protocol::LeaseError;
use blyan_supervisors::Probe;
use parking_lot::Mutex;

use crate::model::{Fate, SHAPE, World, expert_name, ort_library, payload_of};
use crate::scalar::ScalarModel;
use crate::{ALL, assert_close, row, slot, step, tokens};

/// After a failed step the memory is as it was and the same step works.
fn assert_recovers(world: &World, kv: &mut KvSlot) {
    let committed = kv.len();
    let line = tokens(40, 3);
    let ours = step(world, kv, &line, ALL).unwrap();
    let mut model = ScalarModel::new(&world.weights);
    model.logits(&tokens(0, committed as u32), SHAPE.experts, |_, _| true);
    let expected = model.logits(&line, SHAPE.experts, |_, _| true).concat();
    assert_close(&ours.logits[0], &expected, 1e-4);
}

fn prefilled(world: &World) -> KvSlot {
    let mut kv = slot(world);
    step(world, &mut kv, &tokens(0, 4), ALL).unwrap();
    kv
}

fn corrupt(fault: &str, layer: usize, expert: usize) -> StepError {
    let name = expert_name(layer, expert);
    LeaseError::Corrupt {
        name,
        payload: payload_of(&name),
        fault: fault.to_owned(),
    }
    .into()
}

#[test]
fn a_corrupt_expert_is_named_when_all_are_needed() {
    let world = World::new(20);
    let mut kv = prefilled(&world);
    world.table.set_corrupt(expert_name(1, 3));
    assert_eq!(
        step(&world, &mut kv, &[5], ALL).unwrap_err(),
        corrupt("known", 1, 3)
    );
    assert_eq!(kv.len(), 4);
    world.table.heal_all();
    assert_recovers(&world, &mut kv);
}

#[test]
fn a_corrupt_routed_expert_is_passed_over_while_others_suffice() {
    let world = World::new(21);
    world.table.set_corrupt(expert_name(0, 2));
    let line = tokens(6, 20);
    for top_k in [3, 5] {
        let allowed = |layer, expert| (layer, expert) != (0, 2);
        let expected = ScalarModel::new(&world.weights)
            .logits(&line, top_k, allowed)
            .concat();
        let output = step(&world, &mut slot(&world), &line, top_k as u32).unwrap();
        assert_close(&output.logits[0], &expected, 1e-4);
        assert!(!output.experts[0].contains_key(&expert_name(0, 2)));
    }
}

#[test]
fn a_corrupt_always_on_expert_stops_everything() {
    let world = World::new(22);
    world.table.set_corrupt(expert_name(0, 1));
    let fault = step(&world, &mut slot(&world), &[5], SHAPE.always_on as u32).unwrap_err();
    assert_eq!(fault, corrupt("known", 0, 1));
}

#[test]
fn corruption_found_at_the_lease_or_after_use_is_passed_over_too() {
    for fate in [Fate::CorruptWhenLeased, Fate::Damaged] {
        let world = World::new(23);
        let line = tokens(6, 20);
        world.table.set_fate(expert_name(1, 4), fate);
        let allowed = |layer, expert| (layer, expert) != (1, 4);
        let expected = ScalarModel::new(&world.weights)
            .logits(&line, 5, allowed)
            .concat();
        let output = step(&world, &mut slot(&world), &line, 5).unwrap();
        assert_close(&output.logits[0], &expected, 1e-4);

        let mut kv = slot(&world);
        let fault = step(&world, &mut kv, &line, ALL).unwrap_err();
        assert!(
            matches!(fault, StepError::Expert(LeaseError::Corrupt { name, .. }) if name == expert_name(1, 4))
        );
        assert!(kv.is_empty());
    }
}

#[test]
fn an_expert_that_is_not_loaded_in_time_ends_the_step() {
    let world = World::new(24);
    let mut kv = prefilled(&world);
    world.table.set_fate(expert_name(0, 0), Fate::Late);
    let late = StepError::Expert(LeaseError::Timeout {
        name: expert_name(0, 0),
    });
    assert_eq!(step(&world, &mut kv, &[5], ALL).unwrap_err(), late);
    assert_eq!(kv.len(), 4);
    world.table.heal_all();
    assert_recovers(&world, &mut kv);
}

/// Does what it is told at the `after`th call of the operator.
struct Fault {
    after: AtomicU64,
    act: Box<dyn Fn() + Send + Sync>,
}

impl Probe for Fault {
    fn hit(&self, point: &str) {
        assert_eq!(point, "expert_ffn");
        if self.after.fetch_sub(1, Ordering::SeqCst) == 1 {
            (self.act)();
        }
    }
}

fn world_with_probe(act: impl Fn() + Send + Sync + 'static) -> (World, Arc<Fault>) {
    // Never, until a test says when.
    let fault = Arc::new(Fault {
        after: AtomicU64::new(u64::MAX),
        act: Box::new(act),
    });
    let probe = Arc::clone(&fault);
    (
        World::with_options(25, |options| options.probe = probe),
        fault,
    )
}

#[test]
fn a_panic_in_the_operator_is_an_error_and_the_next_step_works() {
    let (world, fault) = world_with_probe(|| panic!("a fault on demand"));
    let mut kv = prefilled(&world);
    for calls in 1..=SHAPE.layers as u64 {
        fault.after.store(calls, Ordering::SeqCst);
        let panicked = StepError::Panicked("a fault on demand".to_owned());
        assert_eq!(step(&world, &mut kv, &[5], ALL).unwrap_err(), panicked);
        assert_eq!(kv.len(), 4);
    }
    assert_recovers(&world, &mut kv);
}

#[test]
fn a_panic_on_any_of_the_threads_is_an_error() {
    let world = World::new(30);
    let mut kv = prefilled(&world);
    for expert in 0..SHAPE.experts {
        world.table.set_fate(expert_name(1, expert), Fate::Panics);
    }
    let panicked = StepError::Panicked("a fault in the table".to_owned());
    assert_eq!(
        step(&world, &mut kv, &tokens(0, 70), ALL).unwrap_err(),
        panicked
    );
    assert_eq!(kv.len(), 4);
    world.table.heal_all();
    assert_recovers(&world, &mut kv);
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("again");
    }
}

#[test]
fn a_panic_whose_payload_panics_is_an_error_too() {
    let (world, fault) = world_with_probe(|| std::panic::panic_any(PanicsOnDrop));
    let mut kv = prefilled(&world);
    fault.after.store(1, Ordering::SeqCst);
    assert!(matches!(
        step(&world, &mut kv, &[5], ALL),
        Err(StepError::Panicked(_))
    ));
    assert_recovers(&world, &mut kv);
}

#[test]
fn terminate_ends_a_step_that_is_under_way() {
    let terminate: Arc<Mutex<Terminate>> = Arc::default();
    let reached = Arc::new(AtomicBool::new(false));
    let (inside, seen) = (Arc::clone(&terminate), Arc::clone(&reached));
    let (world, fault) = world_with_probe(move || {
        seen.store(true, Ordering::SeqCst);
        while !inside.lock().is_set() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut kv = prefilled(&world);
    fault.after.store(1, Ordering::SeqCst);
    let ask = Terminate::default();
    *terminate.lock() = ask.clone();
    let ended = std::thread::scope(|scope| {
        let asked = ask.clone();
        scope.spawn(move || {
            while !reached.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            asked.set();
        });
        world
            .engine
            .step(&mut [row(&[5], &mut kv, ALL)], &ask)
            .map(drop)
    });
    assert_eq!(ended, Err(StepError::Terminated));
    assert_eq!(kv.len(), 4);
    assert_recovers(&world, &mut kv);
}

#[test]
fn steps_ended_at_any_time_leave_no_trace() {
    let world = World::new(31);
    let line = tokens(0, 40);
    let whole = step(&world, &mut slot(&world), &line, ALL)
        .unwrap()
        .logits
        .concat();
    let mut kv = slot(&world);
    for wait in 0..200 {
        kv.truncate(0);
        let terminate = Terminate::default();
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..wait * 200).for_each(|_| std::hint::spin_loop());
                terminate.set();
            });
            world
                .engine
                .step(&mut [row(&line, &mut kv, ALL)], &terminate)
        });
        match outcome {
            Ok(output) => assert_close(&output.logits[0], &whole, 1e-6),
            Err(fault) => assert_eq!((fault, kv.len()), (StepError::Terminated, 0)),
        }
    }
    kv.truncate(0);
    let output = step(&world, &mut kv, &line, ALL).unwrap();
    assert_close(&output.logits[0], &whole, 1e-6);
}

#[test]
fn terminate_before_the_step_ends_it_too() {
    let world = World::new(26);
    let mut kv = prefilled(&world);
    let terminate = Terminate::default();
    terminate.set();
    let leased = world.table.leased.load(Ordering::SeqCst);
    let ended = world
        .engine
        .step(&mut [row(&[5], &mut kv, ALL)], &terminate)
        .map(drop);
    assert_eq!(ended, Err(StepError::Terminated));
    assert_eq!(world.table.leased.load(Ordering::SeqCst), leased);
    assert_recovers(&world, &mut kv);
}

#[test]
fn steps_out_of_bounds_are_refused() {
    let world = World::with_options(27, |options| options.chunk_max = 8);
    let refused = |tokens: &[u32], top_k| {
        let fault = step(&world, &mut slot(&world), tokens, top_k).map(drop);
        assert!(matches!(fault, Err(StepError::Invalid(_))), "{fault:?}");
    };
    refused(&[], ALL);
    refused(&tokens(0, 9), ALL);
    refused(&[SHAPE.vocab as u32], ALL);
    refused(&[1], SHAPE.always_on as u32 - 1);
    refused(&[1], ALL + 1);
    let fault = world.engine.step(&mut [], &Terminate::default()).map(drop);
    assert!(matches!(fault, Err(StepError::Invalid(_))));
    assert!(matches!(
        world.engine.new_slot(SHAPE.context + 1),
        Err(StepError::Invalid(_))
    ));

    let mut small = world.engine.new_slot(5).unwrap();
    step(&world, &mut small, &tokens(0, 5), ALL).unwrap();
    assert!(matches!(
        step(&world, &mut small, &[1], ALL),
        Err(StepError::Invalid(_))
    ));
    assert_eq!(small.len(), 5);

    let mut slots: Vec<_> = (0..5).map(|_| slot(&world)).collect();
    let rows = slots.iter_mut().map(|kv| StepRow {
        tokens: &[1],
        kv,
        top_k: ALL,
        logits: Logits::Last,
    });
    let fault = world
        .engine
        .step(&mut rows.collect::<Vec<_>>(), &Terminate::default())
        .map(drop);
    assert!(matches!(fault, Err(StepError::Invalid(_))));
}

#[test]
fn memory_beyond_the_bound_is_refused() {
    let bytes = SHAPE.kv().slot_bytes(SHAPE.context).unwrap() as u64;
    let world = World::with_options(28, |options| options.kv_bytes_max = bytes + 1);
    let held = slot(&world);
    let refused = world.engine.new_slot(SHAPE.context).map(drop);
    assert_eq!(
        refused,
        Err(StepError::KvFull {
            needs_bytes: bytes,
            free_bytes: 1
        })
    );
    drop(held);
    drop(slot(&world));
}

fn refusal(change: impl FnOnce(&mut EngineOptions, &mut ModelShape)) -> EngineError {
    let world = World::new(29);
    let mut options = EngineOptions::new(ort_library());
    let mut shape = SHAPE;
    options.context_max = SHAPE.context;
    change(&mut options, &mut shape);
    let ffn = Arc::new(Nothing);
    Engine::with_ffn(options, shape, Arc::clone(&world.weights) as _, ffn)
        .map(drop)
        .unwrap_err()
}

struct Nothing;

impl blyan_inference::engine::FfnCompute for Nothing {
    fn compute(&self, call: &mut blyan_inference::engine::FfnCall<'_>) -> Result<(), StepError> {
        call.output.fill(0.0);
        Ok(())
    }
}

#[test]
fn an_engine_that_cannot_be_says_why() {
    let cuda = Provider::Cuda {
        device: 0,
        memory_bytes: 1 << 30,
    };
    let fault = refusal(|options, _| options.provider = cuda);
    assert!(matches!(&fault, EngineError::Cuda { .. }), "{fault}");
    assert!(fault.to_string().contains("onnxruntime-gpu"), "{fault}");
    assert!(matches!(
        refusal(|options, _| options.threads = 0),
        EngineError::Options(_)
    ));
    assert!(matches!(
        refusal(|options, _| options.context_max = 97),
        EngineError::Options(_)
    ));
    assert!(matches!(
        refusal(|_, shape| shape.vocab += 1),
        EngineError::Weight { .. }
    ));
    assert!(matches!(
        refusal(|_, shape| shape.layers += 1),
        EngineError::Weight { .. }
    ));
    let other = refusal(|options, _| options.ort_library = "/nowhere/libonnxruntime.so".into());
    assert!(matches!(&other, EngineError::Library { .. }), "{other}");
}
