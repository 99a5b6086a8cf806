use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::fut::{ActorFutureExt, WrapFuture};
use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use blyan_supervisors::{CallError, ChildSpec, ExitHandle, ExitReason, Probe, StartContext};
use tokio::sync::oneshot;

use crate::books::{Books, Credited};
use crate::core::{Account, Balance, Limits, Receipt, Transfer};
use crate::earnings::{Payouts, Standing, Use};
use crate::handle::{Earner, Supply};
use crate::{LedgerError, Refusal, metrics};

/// Where tests put faults in.
const PROBE_POINT: &str = "reward";
/// How long a start may take: every entry is decided again.
const START_LIMIT: Duration = Duration::from_secs(60);

type Reply<T> = Result<T, LedgerError>;
type Decisions = Vec<Result<Receipt, Refusal>>;

/// Decides transfers in order; each on its own.
#[derive(Message)]
#[rtype(result = "Reply<Decisions>")]
pub(crate) struct Apply(pub Vec<Transfer>);

#[derive(Message)]
#[rtype(result = "Reply<Balance>")]
pub(crate) struct GetBalance(pub Account);

#[derive(Message)]
#[rtype(result = "Reply<Supply>")]
pub(crate) struct GetSupply;

/// See [`Books::credit`].
#[derive(Message)]
#[rtype(result = "Reply<Credited>")]
pub(crate) struct Credit(pub Vec<Use>);

/// See [`Books::distribute`].
#[derive(Message)]
#[rtype(result = "Reply<Payouts>")]
pub(crate) struct Distribute;

#[derive(Message)]
#[rtype(result = "Reply<Vec<Earner>>")]
pub(crate) struct ListEarners;

#[derive(Message)]
#[rtype(result = "Reply<Vec<(String, Standing)>>")]
pub(crate) struct ListExperts;

/// Transfers of one message that wait for the next entry, and who waits for them.
struct Waiting {
    transfers: Vec<Transfer>,
    done: oneshot::Sender<Reply<Decisions>>,
}

/// Owns the ledger. All messages that wait at one moment become one entry, so that one sync serves them all.
pub struct RewardActor {
    books: Books,
    probe: Arc<dyn Probe>,
    exit: ExitHandle,
    waiting: Vec<Waiting>,
}

impl RewardActor {
    /// A permanent child on a thread of its own. Each generation opens the ledger in `dir` anew.
    pub fn spec(
        id: impl Into<String>,
        dir: PathBuf,
        limits: Limits,
        mailbox_len_max: usize,
    ) -> ChildSpec<Self> {
        ChildSpec::new(id, move |start| {
            Self::open(&start, dir.clone(), limits).map_err(ExitReason::from)
        })
        .mailbox_len_max(mailbox_len_max)
        .start_limit(START_LIMIT)
    }

    fn open(start: &StartContext, dir: PathBuf, limits: Limits) -> Result<Self, LedgerError> {
        let books = Books::open(&dir, limits)?;
        tracing::info!(entries = books.store().entries(), generation = ?start.generation(), "the ledger is open");
        Ok(Self {
            books,
            probe: Arc::clone(start.probe()),
            exit: start.exit_handle(),
            waiting: Vec::new(),
        })
    }

    /// Answers, and ends this generation if the error says that its books or its disk are doubtful.
    fn heed<T>(&self, reply: Reply<T>) -> Reply<T> {
        if let Some(reason) = reply.as_ref().err().and_then(LedgerError::exit_reason) {
            self.exit.exit(reason);
        }
        reply
    }

    fn flush(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let lens: Vec<_> = waiting.iter().map(|one| one.transfers.len()).collect();
        let (mut transfers, mut waiters) = (Vec::new(), Vec::new());
        for one in waiting {
            transfers.extend(one.transfers);
            waiters.push(one.done);
        }
        let decided = self.books.commit(now_s(), &transfers);
        let decided = self.heed(decided);
        metrics::committed(&decided);
        let mut decided = decided.map(Vec::into_iter);
        for (done, len) in waiters.into_iter().zip(lens) {
            let own = match &mut decided {
                Ok(decided) => Ok(decided.by_ref().take(len).collect()),
                Err(error) => Err(error.clone()),
            };
            // Whoever waited may have gone; what was decided is durable all the same.
            let _ = done.send(own);
        }
    }
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Actor for RewardActor {
    type Context = Context<Self>;
}

impl Handler<Apply> for RewardActor {
    type Result = ResponseFuture<Reply<Decisions>>;

    fn handle(&mut self, Apply(transfers): Apply, ctx: &mut Context<Self>) -> Self::Result {
        self.probe.hit(PROBE_POINT);
        let (done, decided) = oneshot::channel();
        if self.waiting.is_empty() {
            let taken = std::future::ready(()).into_actor(self);
            ctx.spawn(taken.map(|(), actor, _| actor.flush()));
        }
        self.waiting.push(Waiting { transfers, done });
        Box::pin(async move {
            decided
                .await
                .unwrap_or(Err(LedgerError::Call(CallError::Lost)))
        })
    }
}

/// Answers `$message` by `$answer` of the books.
macro_rules! answer {
    ($message:pat => $type:ty, $reply:ty, |$books:ident| $answer:expr) => {
        impl Handler<$type> for RewardActor {
            type Result = Reply<$reply>;

            fn handle(&mut self, $message: $type, _: &mut Context<Self>) -> Self::Result {
                self.probe.hit(PROBE_POINT);
                let $books = &mut self.books;
                let reply = $books.store().check_sealed().and_then(|()| $answer);
                self.heed(reply)
            }
        }
    };
}

answer!(Credit(uses) => Credit, Credited, |books| books.credit(now_s(), &uses));
answer!(Distribute => Distribute, Payouts, |books| books.distribute(now_s()));
answer!(GetBalance(account) => GetBalance, Balance, |books| Ok(books.store().ledger().balance(account)));
answer!(GetSupply => GetSupply, Supply, |books| Ok(Supply::of(books)));
answer!(ListEarners => ListEarners, Vec<Earner>, |books| Ok(Earner::all(books)));
answer!(ListExperts => ListExperts, Vec<(String, Standing)>, |books| {
    let experts = books.standings().iter();
    Ok(experts.map(|(name, standing)| (name.clone(), *standing)).collect())
});
