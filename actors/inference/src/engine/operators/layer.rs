//! The operators of a layer that belong to a run: they find it by its id and leave their faults with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::{Pool, Shared, panic_text};
use crate::engine::ffn::FfnCall;
use crate::engine::runs::RunContext;
use crate::graph::{ATTENTION, EXPERT_FFN};
use crate::step::StepError;

/// The probe's name for the start of each call of the experts.
const PROBE_POINT: &str = "expert_ffn";

pub struct FfnOperator(pub Arc<Shared>);

pub struct AttentionOperator(pub Arc<Shared>);

impl Operator for FfnOperator {
    type Kernel<'attr> = LayerKernel;

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
        LayerKernel::new(&self.0, context, LayerKernel::experts, 2)
    }
}

impl Operator for AttentionOperator {
    type Kernel<'attr> = LayerKernel;

    fn name(&self) -> &str {
        ATTENTION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [TensorElementType::Float32, TensorElementType::Int64].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        LayerKernel::new(&self.0, context, LayerKernel::attention, 1)
    }
}

type Call = fn(&LayerKernel, &ComputeContext, &RunContext) -> Result<(), StepError>;

/// One node of one session. Concurrent runs of the session share it, though `compute` takes `&mut self`: nothing in it
/// may ever be written.
pub struct LayerKernel {
    shared: Arc<Shared>,
    layer: usize,
    call: Call,
    /// Which input is the run's id.
    run_input: usize,
}

impl Kernel for LayerKernel {
    /// Never unwinds: the frames above are C++.
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let this = &*self;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let run = this.find_run(context)?;
            match catch_unwind(AssertUnwindSafe(|| (this.call)(this, context, &run))) {
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

impl LayerKernel {
    fn new(
        shared: &Arc<Shared>,
        context: &KernelContext<'_>,
        call: Call,
        run_input: usize,
    ) -> ort::Result<Self> {
        let layer = context.get::<i64>("layer");
        let layer = layer.and_then(|layer| usize::try_from(layer).ok());
        let layer = layer.filter(|layer| *layer < shared.shape.layers);
        Ok(Self {
            shared: Arc::clone(shared),
            layer: layer.ok_or_else(|| ort::Error::new("the operator needs a layer"))?,
            call,
            run_input,
        })
    }

    fn find_run(&self, context: &ComputeContext) -> ort::Result<Arc<RunContext>> {
        let value = context
            .input(self.run_input)?
            .ok_or_else(|| ort::Error::new("no run id"))?;
        let (_, id) = value.try_extract_tensor::<i64>()?;
        let run = id.first().and_then(|id| self.shared.runs.find(*id));
        run.ok_or_else(|| ort::Error::new("the run is not known"))
    }

    fn pool<'a>(&self, context: &'a ComputeContext) -> Pool<'a> {
        Pool {
            context,
            threads: self.shared.threads,
        }
    }

    fn experts(&self, context: &ComputeContext, run: &RunContext) -> Result<(), StepError> {
        self.shared.probe.hit(PROBE_POINT);
        if run.state.is_terminated() {
            return Err(StepError::Terminated);
        }
        let input = context.input(0).map_err(refused)?.ok_or_else(missing)?;
        let scores = context.input(1).map_err(refused)?.ok_or_else(missing)?;
        let (shape, input) = input.try_extract_tensor::<f32>().map_err(refused)?;
        let (_, scores) = scores.try_extract_tensor::<f32>().map_err(refused)?;
        let output = context.output(0, shape.to_vec()).map_err(refused)?;
        let mut output = output.ok_or_else(missing)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>().map_err(refused)?;
        self.shared.compute.compute(&mut FfnCall {
            layer: self.layer,
            hidden: self.shared.shape.hidden,
            input,
            scores,
            output,
            run: &run.state,
            workers: &self.pool(context),
        })
    }

    fn attention(&self, context: &ComputeContext, run: &RunContext) -> Result<(), StepError> {
        if run.state.is_terminated() {
            return Err(StepError::Terminated);
        }
        let qkv = context.input(0).map_err(refused)?.ok_or_else(missing)?;
        let (_, qkv) = qkv.try_extract_tensor::<f32>().map_err(refused)?;
        let attention = &self.shared.attention;
        let tokens = qkv.len() / self.shared.shape.qkv_width();
        let shape = [1, tokens as i64, attention.width() as i64];
        let output = context.output(0, shape).map_err(refused)?;
        let mut output = output.ok_or_else(missing)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>().map_err(refused)?;
        let mut memory = run.memory.lock();
        attention.compute(self.layer, &mut memory, qkv, output, &self.pool(context))
    }
}

fn refused(why: ort::Error) -> StepError {
    StepError::Runtime(why.to_string())
}

fn missing() -> StepError {
    StepError::Runtime("an operator lacks an input or output".to_owned())
}
