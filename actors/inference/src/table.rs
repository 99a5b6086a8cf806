//! All sequences of the node with their streams: the scheduler behind a lock, a clock and the runtime.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use blyan_protocol::{
    ChatEvent, ChatSummary, FinishReason, ModelId, Outcome, PublicError, Receipt, ReceiptSink,
    RequestId,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, OwnedPermit, error::TrySendError};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::core::{
    Effect, Ended, Ending, Fenced, Limits, Moment, NewSequence, Owner, PlannedRow, Refusal,
    ReplicaId, RowDone, Scheduler, SequenceId, StepShape, Turn,
};
use crate::edition::Edition;
use crate::step::{StepEngine, Terminate};
use crate::{metrics, receipts, usage::UsageBook};

/// How often the table asks whether a replica will come back while sequences wait and none is there.
const ABSENCE_TICK: Duration = Duration::from_millis(250);

/// Why waiting makes no sense: no replica will come back by itself.
type Absence = Box<dyn Fn() -> Option<PublicError> + Send + Sync>;

/// Everything that stays the same while the table lives.
pub struct TableParts {
    /// Bounds of the scheduling.
    pub limits: Limits,
    /// Events that a stream keeps for its reader.
    pub stream_buffer_events: usize,
    /// Where receipts go.
    pub receipts: Arc<dyn ReceiptSink>,
    /// Counts requests by expert.
    pub usage: Arc<UsageBook>,
}

/// All sequences; shared by the replicas and by all who ask. Its tasks run on the runtime that it was made on.
pub struct SequenceTable {
    this: Weak<Self>,
    parts: TableParts,
    clock: Clock,
    runtime: Handle,
    inner: Mutex<Inner>,
    /// The next expiry may be earlier than before.
    expiry_moved: Arc<Notify>,
    settled: Notify,
    absence: OnceLock<Absence>,
}

struct Inner {
    core: Scheduler,
    outlets: HashMap<SequenceId, Outlet>,
    posts: BTreeMap<ReplicaId, Post>,
}

/// Where a sequence's events go.
struct Outlet {
    request: RequestId,
    /// What it is computed with, whoever does it.
    edition: Arc<Edition>,
    events: mpsc::Sender<ChatEvent>,
    /// Kept for the last event, which therefore never waits for the reader.
    last: OwnedPermit<ChatEvent>,
    /// A task waits for the reader to make room.
    awaited: bool,
}

impl Outlet {
    /// Sends an event for which there is room; false if the reader has gone.
    fn say(&self, event: ChatEvent) -> bool {
        !matches!(self.events.try_send(event), Err(TrySendError::Closed(_)))
    }
}

/// How a replica's current generation is reached.
struct Post {
    wake: Arc<Notify>,
    terminate: Terminate,
    /// The edition of the last step: with several, they take turns.
    turn: u64,
}

/// The next step of a replica.
pub(crate) struct Plan {
    pub(crate) rows: Vec<PlannedRow>,
    /// That of every row.
    pub(crate) edition: Arc<Edition>,
    pub(crate) terminate: Terminate,
}

impl Inner {
    /// The editions of the sequences that `owner` computes, the one after that of its last step first.
    fn editions(&self, owner: Owner) -> Result<Vec<Arc<Edition>>, Fenced> {
        let last = self.posts.get(&owner.replica).map_or(0, |post| post.turn);
        let owned = self.core.owned(owner)?;
        let outlets = owned.iter().filter_map(|id| self.outlets.get(id));
        let editions: BTreeMap<_, _> = outlets
            .map(|outlet| (outlet.edition.number, &outlet.edition))
            .collect();
        let after = editions.range(last + 1..).chain(editions.range(..=last));
        Ok(after.map(|(_, edition)| Arc::clone(edition)).collect())
    }
}

impl SequenceTable {
    /// An empty table.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(parts: TableParts) -> Arc<Self> {
        let expiry_moved = Arc::new(Notify::new());
        let table = Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: Weak::clone(this),
            clock: Clock::new(),
            runtime: Handle::current(),
            inner: Mutex::new(Inner {
                core: Scheduler::new(parts.limits),
                outlets: HashMap::new(),
                posts: BTreeMap::new(),
            }),
            parts,
            expiry_moved: Arc::clone(&expiry_moved),
            settled: Notify::new(),
            absence: OnceLock::new(),
        });
        table
            .runtime
            .spawn(keep_time(Arc::downgrade(&table), expiry_moved));
        table
    }

    /// Sets what is asked while sequences wait and no replica is there; the first one given counts.
    pub(crate) fn ask_when_absent(&self, absence: Absence) {
        let _ = self.absence.set(absence);
    }

    /// The time until which a request that may take `within` has to end.
    pub(crate) fn deadline(&self, within: Duration) -> Moment {
        self.clock.now().saturating_add(within)
    }

    /// Admits a request. Its events come out of the receiver, the first of them at once.
    pub(crate) fn submit(
        &self,
        request: RequestId,
        edition: Arc<Edition>,
        new: NewSequence,
    ) -> Result<(SequenceId, mpsc::Receiver<ChatEvent>), Refusal> {
        let (prompt_tokens, max_tokens) = (new.prompt.len() as u32, new.max_new);
        let (events, receiver) = mpsc::channel(self.parts.stream_buffer_events + 2);
        let mut inner = self.inner.lock();
        let id = inner.core.submit(new, self.clock.now())?;
        let Ok(last) = events.clone().try_reserve_owned() else {
            unreachable!("a fresh channel has room for two");
        };
        let _ = events.try_send(ChatEvent::Started {
            prompt_tokens,
            max_tokens,
        });
        inner.outlets.insert(
            id,
            Outlet {
                request,
                edition,
                events,
                last,
                awaited: false,
            },
        );
        self.after_change(&inner);
        Ok((id, receiver))
    }

    /// Ends a sequence as cancelled; nothing happens if it has ended.
    pub(crate) fn cancel(&self, id: SequenceId) {
        let mut inner = self.inner.lock();
        let effect = inner.core.cancel(id, self.clock.now());
        self.carry_out(&mut inner, effect.into_iter().collect());
    }

    /// Makes `owner` the replica's current generation; what an older one had goes back to waiting. The returned
    /// signal is given when there may be something to do.
    ///
    /// # Errors
    /// [`Fenced`] when a newer generation is there already, or this one was given up.
    pub fn register(&self, owner: Owner) -> Result<Arc<Notify>, Fenced> {
        let mut inner = self.inner.lock();
        let effects = inner.core.register(owner, self.clock.now())?;
        let wake = Arc::new(Notify::new());
        let post = Post {
            wake: Arc::clone(&wake),
            terminate: Terminate::default(),
            turn: 0,
        };
        if let Some(old) = inner.posts.insert(owner.replica, post) {
            old.terminate.set();
        }
        self.carry_out(&mut inner, effects);
        Ok(wake)
    }

    /// `owner` is gone or will not come back: its sequences go back to waiting, and a step that it still computes is
    /// asked to end. Does nothing when the generation is not the current one.
    pub fn replica_lost(&self, owner: Owner) {
        let mut inner = self.inner.lock();
        if inner.core.owned(owner).is_err() {
            return;
        }
        let effects = inner.core.replica_lost(owner, self.clock.now());
        if let Some(post) = inner.posts.remove(&owner.replica) {
            post.terminate.set();
        }
        self.carry_out(&mut inner, effects);
    }

    /// Requests in the house, and of them those that wait for a replica.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.core.admitted(), inner.core.waiting())
    }

    /// Admits nothing more, ends everything with `error` and waits until all receipts are durable, at most `within`.
    /// Returns how many are not.
    pub async fn drain(&self, error: &PublicError, within: Duration) -> usize {
        {
            let mut inner = self.inner.lock();
            let effects = inner.core.shut_down(error, self.clock.now());
            self.carry_out(&mut inner, effects);
        }
        let all_settled = async {
            loop {
                let settled = self.settled.notified();
                tokio::pin!(settled);
                settled.as_mut().enable();
                if self.load().0 == 0 {
                    return;
                }
                settled.await;
            }
        };
        let _ = tokio::time::timeout(within, all_settled).await;
        self.load().0
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn owned(&self, owner: Owner) -> Result<BTreeSet<SequenceId>, Fenced> {
        self.inner.lock().core.owned(owner)
    }

    /// Sequences that are `owner`'s from now on, with the tokens that each may come to have and what computes it.
    pub(crate) fn pull(
        &self,
        owner: Owner,
        free: usize,
    ) -> Result<Vec<(SequenceId, usize, Arc<Edition>)>, Fenced> {
        let mut inner = self.inner.lock();
        let pulled = inner.core.pull(owner, free)?;
        let with_edition = |(id, context)| {
            let outlet = inner.outlets.get(&id)?;
            Some((id, context, Arc::clone(&outlet.edition)))
        };
        Ok(pulled.into_iter().filter_map(with_edition).collect())
    }

    pub(crate) fn give_back(&self, owner: Owner, id: SequenceId) -> Result<(), Fenced> {
        self.inner.lock().core.give_back(owner, id)
    }

    /// The next step of `owner`: rows of one edition, `None` where there is nothing to do. Of several editions the next
    /// one has its turn.
    pub(crate) fn plan(
        &self,
        owner: Owner,
        shape: impl Fn(&dyn StepEngine) -> StepShape,
    ) -> Result<Option<Plan>, Fenced> {
        let mut inner = self.inner.lock();
        for edition in inner.editions(owner)? {
            let rows = self.rows_of(&mut inner, owner, &edition, shape(&*edition.engine))?;
            if rows.is_empty() {
                continue;
            }
            let terminate = Terminate::default();
            if let Some(post) = inner.posts.get_mut(&owner.replica) {
                post.terminate = terminate.clone();
                post.turn = edition.number;
            }
            self.expiry_moved.notify_one();
            return Ok(Some(Plan {
                rows,
                edition,
                terminate,
            }));
        }
        self.expiry_moved.notify_one();
        Ok(None)
    }

    fn rows_of(
        &self,
        inner: &mut Inner,
        owner: Owner,
        edition: &Arc<Edition>,
        shape: StepShape,
    ) -> Result<Vec<PlannedRow>, Fenced> {
        let Inner { core, outlets, .. } = inner;
        let full = RefCell::new(Vec::new());
        let turn = |id| match outlets.get(&id) {
            Some(outlet) if outlet.edition.number != edition.number => Turn::Later,
            Some(outlet) if outlet.events.capacity() > 0 => Turn::Now,
            _ => {
                full.borrow_mut().push(id);
                Turn::ReaderFull
            }
        };
        let rows = core.plan(owner, shape, self.clock.now(), turn)?;
        for id in full.into_inner() {
            self.await_room(outlets, id);
        }
        Ok(rows)
    }

    pub(crate) fn publish(
        &self,
        owner: Owner,
        done: Vec<RowDone>,
        took: Duration,
    ) -> Result<(), Fenced> {
        self.change(|core, now| core.publish(owner, done, took, now))
    }

    pub(crate) fn step_failed(&self, owner: Owner) -> Result<(), Fenced> {
        self.change(|core, now| core.step_failed(owner, now))
    }

    pub(crate) fn lease_failed(
        &self,
        owner: Owner,
        error: &PublicError,
        hopeless: bool,
    ) -> Result<(), Fenced> {
        self.change(|core, now| core.lease_failed(owner, error, hopeless, now))
    }

    pub(crate) fn fail_rows(
        &self,
        owner: Owner,
        failed: Vec<(SequenceId, PublicError)>,
    ) -> Result<(), Fenced> {
        self.change(|core, now| core.fail_rows(owner, failed, now))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Scheduler, Moment) -> Result<Vec<Effect>, Fenced>,
    ) -> Result<(), Fenced> {
        let mut inner = self.inner.lock();
        let effects = change(&mut inner.core, self.clock.now())?;
        self.carry_out(&mut inner, effects);
        Ok(())
    }

    /// Delivers under the lock, so that a sequence's events keep their order whoever computes it. Whose reader has
    /// gone is cancelled.
    fn carry_out(&self, inner: &mut Inner, effects: Vec<Effect>) {
        let mut gone = Vec::new();
        for effect in effects {
            match effect {
                Effect::Token(id, event) => {
                    let outlet = inner.outlets.get(&id);
                    if outlet.is_some_and(|outlet| !outlet.say(ChatEvent::Token(event))) {
                        gone.push(id);
                    }
                }
                Effect::Ended(id, ended) => self.end(inner, id, *ended),
                Effect::Terminate(replica) => {
                    if let Some(post) = inner.posts.get(&replica) {
                        post.terminate.set();
                    }
                }
            }
        }
        for id in gone {
            if let Some(Effect::Ended(id, ended)) = inner.core.cancel(id, self.clock.now()) {
                self.end(inner, id, *ended);
            }
        }
        self.after_change(inner);
    }

    fn end(&self, inner: &mut Inner, id: SequenceId, ended: Ended) {
        let Some(outlet) = inner.outlets.remove(&id) else {
            return;
        };
        self.parts.usage.count_request(ended.expert_tokens.keys());
        let model = outlet.edition.model;
        let receipt = self.receipt(outlet.request, model, &ended);
        metrics::request_ended(&ended, &receipt.outcome);
        let last = last_event(outlet.request, model, ended);
        let farewell =
            receipts::bid_farewell(Arc::clone(&self.parts.receipts), receipt, last, outlet.last);
        let table = Weak::clone(&self.this);
        self.runtime.spawn(async move {
            farewell.await;
            if let Some(table) = table.upgrade() {
                table.settle(id);
            }
        });
    }

    fn settle(&self, id: SequenceId) {
        let mut inner = self.inner.lock();
        inner.core.settle(id);
        metrics::house(inner.core.admitted(), inner.core.waiting());
        drop(inner);
        self.settled.notify_waiters();
    }

    fn receipt(&self, request_id: RequestId, model_id: ModelId, ended: &Ended) -> Receipt {
        let outcome = match &ended.ending {
            Ending::Finished(FinishReason::Cancelled) => Outcome::Cancelled,
            Ending::Finished(_) => Outcome::Finished,
            Ending::Failed(error) => Outcome::Failed { code: error.code },
        };
        let experts = ended
            .expert_tokens
            .iter()
            .map(|(name, tokens)| (name.to_string(), *tokens));
        Receipt {
            request_id,
            model_id,
            outcome,
            tokens_in: ended.usage.prompt_tokens,
            tokens_out: ended.usage.completion_tokens,
            experts: experts.collect(),
            admitted_ms: self.clock.unix_ms(ended.admitted),
            ended_ms: self.clock.unix_ms(ended.ended),
        }
    }

    /// Wakes all replicas: sequences may have come, or memory of sequences that ended can go.
    fn after_change(&self, inner: &Inner) {
        for post in inner.posts.values() {
            post.wake.notify_one();
        }
        self.expiry_moved.notify_one();
        metrics::house(inner.core.admitted(), inner.core.waiting());
    }

    /// Lets a task wait for the reader of a sequence that pauses.
    fn await_room(&self, outlets: &mut HashMap<SequenceId, Outlet>, id: SequenceId) {
        let Some(outlet) = outlets.get_mut(&id).filter(|outlet| !outlet.awaited) else {
            return;
        };
        outlet.awaited = true;
        metrics::reader_paused();
        let (events, table) = (outlet.events.clone(), Weak::clone(&self.this));
        self.runtime.spawn(async move {
            let room = events.reserve().await.is_ok();
            if let Some(table) = table.upgrade() {
                table.room_made(id, room);
            }
        });
    }

    fn room_made(&self, id: SequenceId, room: bool) {
        if !room {
            return self.cancel(id);
        }
        let mut inner = self.inner.lock();
        inner.core.reader_back(id);
        if let Some(outlet) = inner.outlets.get_mut(&id) {
            outlet.awaited = false;
        }
        self.after_change(&inner);
    }

    /// Ends what is due and says when to look again.
    fn sweep(&self) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        let mut effects = inner.core.expire(now);
        let abandoned = inner.core.waiting() > 0 && !inner.core.has_replicas();
        if let Some(error) = abandoned
            .then(|| self.absence.get().and_then(|absence| absence()))
            .flatten()
        {
            effects.extend(inner.core.fail_waiting(&error, now));
        }
        if !effects.is_empty() {
            self.carry_out(&mut inner, effects);
        }
        let next = inner.core.next_expiry();
        let tick = abandoned.then(|| now + ABSENCE_TICK);
        next.into_iter()
            .chain(tick)
            .min()
            .map(|at| self.clock.instant(at))
    }
}

impl Drop for SequenceTable {
    /// Ends the task that keeps the time.
    fn drop(&mut self) {
        self.expiry_moved.notify_one();
    }
}

fn last_event(id: RequestId, model: ModelId, ended: Ended) -> ChatEvent {
    match ended.ending {
        Ending::Failed(error) => ChatEvent::Failed(error),
        Ending::Finished(finish_reason) => ChatEvent::Ended(ChatSummary {
            id,
            model,
            finish_reason,
            usage: ended.usage,
            experts: ended.experts,
            timing: ended.timing,
        }),
    }
}

async fn keep_time(table: Weak<SequenceTable>, moved: Arc<Notify>) {
    loop {
        let Some(next) = table.upgrade().map(|table| table.sweep()) else {
            return;
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = moved.notified() => {}
        }
    }
}
