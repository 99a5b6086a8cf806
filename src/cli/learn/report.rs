//! What `blyan learn` says.

use blyan_formats::{PayloadHash, TensorName};
use blyan_learner::{Comparison, Refusal};
use blyan_model::eval::{Estimate, Losses};
use serde_json::{Value, json};

use super::BOOTSTRAP_SEED;

/// Losses on the held-out text with few experts a layer and with all.
pub struct Scores {
    pub sparse: Losses,
    pub dense: Losses,
}

impl Scores {
    /// Perplexities, under a title such as `before`.
    pub fn say(&self, title: &str, top_k: u32, as_json: bool) {
        let perplexity = |losses: &Losses| losses.perplexity(BOOTSTRAP_SEED);
        let (sparse, dense) = (perplexity(&self.sparse), perplexity(&self.dense));
        if as_json {
            let said = json!({
                "perplexity": title,
                "windows": self.sparse.windows(),
                "top_k": top_k,
                "sparse": interval(&sparse),
                "dense": interval(&dense),
            });
            println!("{said}");
            return;
        }
        let (windows, tokens) = (self.sparse.windows(), self.sparse.tokens());
        println!("{title}: perplexity of {tokens} held-out tokens in {windows} windows");
        println!("  {top_k} experts   {}", text(&sparse));
        println!("  all experts  {}", text(&dense));
    }
}

/// What one expert's lesson came to.
pub struct Taught {
    pub expert: TensorName,
    /// Tokens that it learned from.
    pub tokens: usize,
    /// Share of what the layer lacked before that is left: on what was learned from, and on windows kept apart.
    pub left: [f64; 2],
    /// Seconds of reading and learning.
    pub seconds: f64,
}

impl Taught {
    pub fn say(&self, as_json: bool) {
        let [learned, apart] = self.left;
        if as_json {
            let said = json!({
                "taught": self.expert.to_string(),
                "tokens": self.tokens,
                "seconds": self.seconds,
                "left_learned": learned,
                "left_apart": apart,
            });
            println!("{said}");
            return;
        }
        println!(
            "{}: {} tokens, {:.0} s; of what the layer lacked {:.1} % is left, on windows kept apart {:.1} %",
            self.expert,
            self.tokens,
            self.seconds,
            100.0 * learned,
            100.0 * apart
        );
    }
}

/// What held-out text says about experts that are adopted or not as one.
pub struct Judgement<'a> {
    pub experts: &'a [TensorName],
    pub comparison: Comparison,
    pub verdict: Result<(), Refusal>,
    /// Of the experts in their order, if they are adopted.
    pub payloads: Vec<PayloadHash>,
}

impl Judgement<'_> {
    pub fn say(&self, as_json: bool) {
        if as_json {
            println!("{}", self.as_json());
            return;
        }
        println!(
            "  perplexity after over before  {}",
            text(&self.comparison.sparse)
        );
        println!(
            "  with all experts, over start  {}",
            text(&self.comparison.dense)
        );
        match self.verdict {
            Err(refusal) => println!("  not adopted: {refusal}"),
            Ok(()) => println!("  adopted"),
        }
        for (name, payload) in self.experts.iter().zip(&self.payloads) {
            println!("  {name}  payload {payload}");
        }
    }

    fn as_json(&self) -> Value {
        let names: Vec<_> = self.experts.iter().map(ToString::to_string).collect();
        let hashes: Vec<_> = self.payloads.iter().map(ToString::to_string).collect();
        json!({
            "judged": names,
            "sparse_ratio": interval(&self.comparison.sparse),
            "dense_ratio": interval(&self.comparison.dense),
            "adopted": self.verdict.is_ok(),
            "refusal": self.verdict.err().map(|refusal| refusal.to_string()),
            "payload_hashes": hashes,
        })
    }
}

fn interval(Estimate { value, low, high }: &Estimate) -> Value {
    json!({ "value": value, "low": low, "high": high })
}

fn text(Estimate { value, low, high }: &Estimate) -> String {
    format!("{value:.4} ({low:.4} to {high:.4})")
}
