//! The rules a second time, for comparison: a tree that owns its children and carries each event out on the spot,
//! from where it happens outwards. The core instead keeps an arena and compares what is with what should be.
//!
//! In this model starts and stops succeed at once.

use std::time::Duration;

use crate::{Backoff, ExitReason, Restart, Strategy, Window};

/// The time, and what was done, in the words of [`World`](super::world::World).
#[derive(Default)]
pub(super) struct Journal {
    pub(super) now: Duration,
    pub(super) lines: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Up,
    /// Down, but to be started when nothing stands in the way.
    Down,
    /// Down until its group or its supervisor begins anew.
    Done,
}

/// A child, whatever it is.
pub(super) struct Plain {
    pub(super) path: String,
    pub(super) restart: Restart,
    /// Its own window; `None` where only its supervisor's counts.
    pub(super) window: Option<Window>,
    pub(super) past: Vec<Duration>,
    pub(super) backoff: Backoff,
    /// Before this it does not start again.
    pub(super) due: Option<Duration>,
    pub(super) life: Life,
    pub(super) quarantined: bool,
    pub(super) generation: u64,
    /// `None` for a worker.
    pub(super) group: Option<Group>,
}

/// What a supervisor has and a worker has not.
pub(super) struct Group {
    pub(super) strategy: Strategy,
    pub(super) window: Window,
    pub(super) past: Vec<Duration>,
    pub(super) children: Vec<Plain>,
}

pub(super) fn count(past: &[Duration], window: Window, now: Duration) -> u32 {
    past.iter()
        .filter(|&&at| at + window.within >= now)
        .map(|_| 1)
        .sum()
}

impl Plain {
    pub(super) fn start(&mut self, journal: &mut Journal) {
        (self.life, self.due) = (Life::Up, None);
        self.generation += 1;
        match &mut self.group {
            None => {
                let line = format!("start {} {}", self.path, self.generation);
                journal.lines.push(line);
            }
            Some(group) => group.begin(journal),
        }
    }

    pub(super) fn stop(&mut self, journal: &mut Journal) {
        self.due = None;
        self.go_down(journal);
    }

    /// As [`stop`](Self::stop), but a pause goes on.
    fn go_down(&mut self, journal: &mut Journal) {
        if self.life != Life::Up {
            return;
        }
        match &mut self.group {
            None => {
                let line = format!("stop {} {}", self.path, self.generation);
                journal.lines.push(line);
            }
            Some(group) => group.stop_all(journal),
        }
        self.life = Life::Down;
    }

    fn forgive(&mut self) {
        (self.quarantined, self.due) = (false, None);
        self.past.clear();
        if self.life == Life::Done {
            self.life = Life::Down;
        }
    }

    /// The end of the next pause in this subtree.
    pub(super) fn next_due(&self, now: Duration) -> Option<Duration> {
        let below = self.group.iter().flat_map(|group| &group.children);
        let below = below.filter_map(|child| child.next_due(now));
        self.due
            .filter(|&at| at > now)
            .into_iter()
            .chain(below)
            .min()
    }

    /// Starts those whose pause is over.
    pub(super) fn wake(&mut self, journal: &mut Journal) {
        let up = self.life == Life::Up;
        if let Some(group) = self.group.as_mut().filter(|_| up) {
            for child in &mut group.children {
                child.wake(journal);
            }
            group.start_all(journal);
        }
    }

    /// The child at `indices` below this one has exited. True when this supervisor has given up for it.
    pub(super) fn exits(
        &mut self,
        indices: &[usize],
        reason: ExitReason,
        journal: &mut Journal,
    ) -> bool {
        let path = self.path.clone();
        let Some((group, (&first, rest))) = self.group.as_mut().zip(indices.split_first()) else {
            return false;
        };
        let child = &mut group.children[first];
        let reason = if rest.is_empty() {
            reason
        } else if child.exits(rest, reason, journal) {
            ExitReason::Escalated(String::new())
        } else {
            return false;
        };
        child.life = Life::Down;
        let gives_up = !group.copes_with(first, &reason, journal);
        if gives_up {
            journal.lines.push(format!("gives up {path}"));
            group.stop_all(journal);
            self.life = Life::Down;
        }
        gives_up
    }

    /// The supervisor of the node at `indices`, if it is up, and the node's place in it.
    fn supervisor_of(&mut self, indices: &[usize]) -> (&mut Group, usize, bool) {
        let up = self.life == Life::Up;
        let group = self.group.as_mut().expect("a supervisor");
        match indices {
            [last] => (group, *last, up),
            [first, rest @ ..] => group.children[*first].supervisor_of(rest),
            [] => panic!("the root has no supervisor"),
        }
    }

    pub(super) fn quarantine(&mut self, indices: &[usize], journal: &mut Journal) {
        let (group, child, _) = self.supervisor_of(indices);
        group.quarantine(child, journal);
    }

    pub(super) fn recover(&mut self, indices: &[usize], journal: &mut Journal) {
        let (group, child, up) = self.supervisor_of(indices);
        group.children[child].forgive();
        if up {
            group.start_all(journal);
        }
    }

    /// False when it refuses.
    pub(super) fn restart(&mut self, indices: &[usize], journal: &mut Journal) -> bool {
        let (group, child, up) = self.supervisor_of(indices);
        let takes_it = !group.children[child].quarantined;
        if takes_it {
            group.stop_with(child, journal);
        }
        if takes_it && up {
            group.start_all(journal);
        }
        takes_it
    }
}

impl Group {
    /// A supervisor that starts forgets everything but quarantines.
    fn begin(&mut self, journal: &mut Journal) {
        self.past.clear();
        let forgiven = self.children.iter_mut().filter(|child| !child.quarantined);
        forgiven.for_each(Plain::forgive);
        self.start_all(journal);
    }

    fn start_all(&mut self, journal: &mut Journal) {
        for child in 0..self.children.len() {
            let free = !self.children[child].quarantined && !self.is_blocked(child);
            if !free || self.children[child].life != Life::Down {
                continue;
            }
            if self.children[child].due.is_none_or(|at| at <= journal.now) {
                self.children[child].start(journal);
            } else if self.strategy != Strategy::OneForOne {
                // Those after it may need it.
                break;
            }
        }
    }

    fn stop_all(&mut self, journal: &mut Journal) {
        for child in self.children.iter_mut().rev() {
            child.stop(journal);
        }
    }

    /// True when a sibling that `child` needs is quarantined.
    fn is_blocked(&self, child: usize) -> bool {
        let needed = match self.strategy {
            Strategy::OneForOne => &[],
            Strategy::RestForOne => &self.children[..child],
            Strategy::OneForAll => &self.children[..],
        };
        needed.iter().any(|sibling| sibling.quarantined)
    }

    /// False when the exit is one too many.
    fn copes_with(&mut self, at: usize, reason: &ExitReason, journal: &mut Journal) -> bool {
        let now = journal.now;
        let child = &mut self.children[at];
        let again = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => !matches!(reason, ExitReason::Normal | ExitReason::Shutdown),
            Restart::Temporary => false,
        };
        let used_up =
            |past: &[Duration], window: Window| count(past, window, now) >= window.max_restarts;
        if matches!(reason, ExitReason::Corrupt(_)) {
            self.quarantine(at, journal);
        } else if !again {
            child.life = Life::Done;
        } else if child
            .window
            .is_some_and(|window| used_up(&child.past, window))
        {
            self.quarantine(at, journal);
        } else if used_up(&self.past, self.window) {
            return false;
        } else {
            let window = child.window.unwrap_or(self.window);
            let pause = child.backoff.pause(count(&child.past, window, now));
            child.due = Some(now + pause);
            child.past.push(now);
            self.past.push(now);
            self.stop_with(at, journal);
            self.start_all(journal);
        }
        true
    }

    /// Takes `child` down with all who share its fate, the last first; of these, temporary ones for good.
    fn stop_with(&mut self, child: usize, journal: &mut Journal) {
        let group = match self.strategy {
            Strategy::OneForOne => child..child + 1,
            Strategy::RestForOne => child..self.children.len(),
            Strategy::OneForAll => 0..self.children.len(),
        };
        for at in group.rev() {
            let member = &mut self.children[at];
            member.go_down(journal);
            let stays_down = at != child && member.restart == Restart::Temporary;
            member.life = if stays_down { Life::Done } else { Life::Down };
        }
    }

    /// Takes `child` out, and down those who need it, the last first.
    fn quarantine(&mut self, child: usize, journal: &mut Journal) {
        self.children[child].quarantined = true;
        for at in (0..self.children.len()).rev() {
            if at == child || self.is_blocked(at) {
                self.children[at].stop(journal);
            }
        }
    }
}
