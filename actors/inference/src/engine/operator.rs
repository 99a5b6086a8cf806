//! The custom operator: finds its run, calls the [`FfnCompute`], lets no panic out.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;
use parking_lot::Mutex;

use blyan_supervisors::Probe;

use super::ffn::{FfnCall, FfnCompute, Workers};
use super::runs::{RunContext, Runs};
use crate::graph::{BLYAN, EXPERT_FFN};
use crate::step::StepError;

/// The probe's name for the start of each call.
const PROBE_POINT: &str = "expert_ffn";

/// What every call of the operator shares.
pub struct Shared {
    pub runs: Runs,
    pub compute: Arc<dyn FfnCompute>,
    pub probe: Arc<dyn Probe>,
    pub threads: usize,
}

/// A domain that holds the operator.
#[derive(Clone)]
pub struct Domain(Arc<OperatorDomain>);

// SAFETY: nothing in a domain changes after `new`; ONNX Runtime only reads it, and the operator in it is `Send + Sync`
// as the trait `Operator` demands.
unsafe impl Send for Domain {}
// SAFETY: see above.
unsafe impl Sync for Domain {}

impl Domain {
    #[expect(
        clippy::arc_with_non_send_sync,
        reason = "sessions ask for an `Arc`; `Domain` is what threads share"
    )]
    pub fn new(shared: Arc<Shared>) -> ort::Result<Self> {
        OperatorDomain::new(BLYAN)?
            .add(FfnOperator(shared))
            .map(|domain| Self(Arc::new(domain)))
    }

    pub fn get(&self) -> Arc<OperatorDomain> {
        Arc::clone(&self.0)
    }
}

struct FfnOperator(Arc<Shared>);

impl Operator for FfnOperator {
    type Kernel<'attr> = FfnKernel;

    fn name(&self) -> &str {
        EXPERT_FFN
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            TensorElementType::Float32,
            TensorElementType::Float32,
            TensorElementType::Int64,
        ]
        .map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        let layer = context
            .get::<i64>("layer")
            .and_then(|layer| usize::try_from(layer).ok());
        let layer = layer.ok_or_else(|| ort::Error::new("the operator needs a layer"))?;
        Ok(FfnKernel {
            layer,
            shared: Arc::clone(&self.0),
        })
    }
}

/// One node of one session. Concurrent runs of the session share it, though `compute` takes `&mut self`: nothing in it
/// may ever be written.
struct FfnKernel {
    layer: usize,
    shared: Arc<Shared>,
}

impl Kernel for FfnKernel {
    /// Never unwinds: the frames above are C++.
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let this = &*self;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let run = this.find_run(context)?;
            match catch_unwind(AssertUnwindSafe(|| this.call(context, &run))) {
                Ok(done) => done.map_err(|fault| leave(&run, fault)),
                Err(payload) => Err(leave(&run, StepError::Panicked(panic_text(payload)))),
            }
        }));
        outcome.unwrap_or_else(|payload| Err(ort::Error::new(panic_text(payload))))
    }
}

fn leave(run: &RunContext, fault: StepError) -> ort::Error {
    let text = fault.to_string();
    run.fail(fault);
    ort::Error::new(text)
}

impl FfnKernel {
    fn find_run(&self, context: &ComputeContext) -> ort::Result<Arc<RunContext>> {
        let value = context
            .input(2)?
            .ok_or_else(|| ort::Error::new("no run id"))?;
        let (_, id) = value.try_extract_tensor::<i64>()?;
        let run = id.first().and_then(|id| self.shared.runs.find(*id));
        run.ok_or_else(|| ort::Error::new("the run is not known"))
    }

    fn call(&self, context: &ComputeContext, run: &RunContext) -> Result<(), StepError> {
        self.shared.probe.hit(PROBE_POINT);
        if run.state.is_terminated() {
            return Err(StepError::Terminated);
        }
        let refused = |why: ort::Error| StepError::Runtime(why.to_string());
        let missing =
            || StepError::Runtime("the expert operator lacks an input or output".to_owned());
        let input = context.input(0).map_err(refused)?.ok_or_else(missing)?;
        let scores = context.input(1).map_err(refused)?.ok_or_else(missing)?;
        let (shape, input) = input.try_extract_tensor::<f32>().map_err(refused)?;
        let (_, scores) = scores.try_extract_tensor::<f32>().map_err(refused)?;
        let mut output = context
            .output(0, shape.to_vec())
            .map_err(refused)?
            .ok_or_else(missing)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>().map_err(refused)?;
        let hidden = shape.last().map_or(0, |hidden| *hidden as usize);
        let workers = Pool {
            context,
            threads: self.shared.threads,
        };
        let (layer, run, workers) = (self.layer, &run.state, &workers);
        self.shared.compute.compute(&mut FfnCall {
            layer,
            hidden,
            input,
            scores,
            output,
            run,
            workers,
        })
    }
}

/// The session's own threads.
struct Pool<'a> {
    context: &'a ComputeContext,
    threads: usize,
}

impl Workers for Pool<'_> {
    fn count(&self) -> usize {
        self.threads
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let panicked = Mutex::new(None);
        let guarded = |index| {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(index))) {
                let text = panic_text(payload);
                panicked.lock().get_or_insert(text);
            }
        };
        if let Err(why) = self.context.par_for(count, count, guarded) {
            panic!("ONNX Runtime's threads: {why}");
        }
        if let Some(text) = panicked.into_inner() {
            resume_unwind(Box::new(text));
        }
    }
}

/// A payload of an unknown type is leaked: its destructor could panic again.
fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<String>() {
        Ok(text) => return *text,
        Err(payload) => payload,
    };
    match payload.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(payload) => {
            std::mem::forget(payload);
            "a panic without a text".to_owned()
        }
    }
}
