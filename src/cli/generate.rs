use std::io::Write;
use std::ops::ControlFlow;

use anyhow::Result;
use blyan_inference::local::{LocalRequest, generate};
use blyan_inference::tokenizer::Transcript;
use blyan_protocol::{Message, Role, Sampling};
use clap::Args;

use super::ComputeArgs;
use crate::config::Config;
use crate::wiring::LocalModel;

/// `blyan generate`
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// One user message
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Always take the most likely token
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "seed"])]
    greedy: bool,
    /// Generated tokens, at most [default: inference.max_tokens_default]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// 0 to 2 [default: chat.temperature]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Above 0, at most 1 [default: chat.top_p]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Same seed, same answer
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    compute: ComputeArgs,
}

pub fn run(config: &Config, args: &GenerateArgs) -> Result<()> {
    let config = args.compute.apply(config)?;
    let sampling = args.sampling(&config)?;
    let max_tokens = args
        .max_tokens
        .unwrap_or(config.inference.max_tokens_default);
    super::with_model(&config, |local| answer(local, args, &sampling, max_tokens))
}

impl GenerateArgs {
    fn sampling(&self, config: &Config) -> Result<Sampling> {
        let greedy = self.greedy.then_some(0.0);
        let temperature = greedy
            .or(self.temperature)
            .unwrap_or(config.chat.temperature);
        let top_p = self.top_p.unwrap_or(config.chat.top_p);
        anyhow::ensure!(
            (0.0..=2.0).contains(&temperature),
            "--temperature must be 0 to 2"
        );
        anyhow::ensure!(
            top_p > 0.0 && top_p <= 1.0,
            "--top-p must be above 0 and at most 1"
        );
        Ok(Sampling {
            temperature,
            top_p,
            top_k: None,
            seed: self.seed.unwrap_or_else(rand::random),
        })
    }
}

fn answer(
    local: &LocalModel,
    args: &GenerateArgs,
    sampling: &Sampling,
    max_tokens: u32,
) -> Result<()> {
    let top_k = local.top_k(args.compute.top_k_experts)?;
    let messages = [Message {
        role: Role::User,
        content: args.prompt.clone(),
    }];
    let prompt = local.tokenizer.encode_chat(&messages)?;
    let context = local.context();
    anyhow::ensure!(
        prompt.len() < context,
        "the prompt has {} tokens, the context holds {context}",
        prompt.len()
    );
    let room = u32::try_from(context - prompt.len()).unwrap_or(u32::MAX);
    let request = LocalRequest {
        prompt: &prompt,
        max_tokens: max_tokens.min(room),
        top_k,
        sampling,
        transcript: Transcript::new(local.tokenizer.vocabulary().clone(), args.stop.clone()),
    };
    let mut out = std::io::stdout().lock();
    let shown = |text: &str| match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        // Nobody reads any more.
        Err(_) => ControlFlow::Break(()),
    };
    generate(&local.engine, request, shown)?;
    writeln!(out)?;
    Ok(())
}
