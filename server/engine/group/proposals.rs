//! What waits for a group's log, and what is proposed: commands go in, entries come out, and who
//! asked is remembered until the entry is applied.

use std::{collections::VecDeque, time::Duration};

use super::{super::requests::Asker, Group};
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, SnapshotSeq},
        limits,
    },
    cut::Open,
    data,
    entry::{Action, Command, Entry, Position},
    faults::mutation::{Mutation, mutated},
    wire,
};

/// A command that is not proposed yet.
#[derive(Debug)]
pub struct Waiting {
    pub asker: Asker,
    pub command: Command,
    pub deadline: Duration,
}

impl Waiting {
    /// A command of the engine itself, proposed like the rest; nobody waits for the answer.
    pub fn for_nobody(action: Action, deadline: Duration) -> Waiting {
        Waiting { asker: Asker::Nobody, command: Command { request: None, action }, deadline }
    }
}

/// An entry that is proposed and not applied.
#[derive(Debug)]
pub(super) struct Proposed {
    at: Position,
    pub(super) commands: Vec<Waiting>,
}

/// Whether a command has so many bytes that holding them once more matters.
fn is_large(command: &Command) -> bool {
    wire::command_bytes(command) >= limits::ENTRY_SHARED_BYTES
}

impl Group {
    /// Queues a command for the group's log, unless `WAITING_REQUESTS_MAX` wait already.
    pub fn enqueue(&mut self, waiting: Waiting) -> Result<()> {
        if self.queue.len() >= limits::WAITING_REQUESTS_MAX {
            return Err(Error::exhausted(format!(
                "{} writes already wait in group {}; slow down",
                self.queue.len(),
                self.id
            )));
        }
        self.queue.push_back(waiting);
        Ok(())
    }

    /// Queues a command of the engine, however many wait.
    pub fn enqueue_own(&mut self, waiting: Waiting) {
        self.queue.push_back(waiting);
    }

    /// Whether a command of this asker waits here.
    pub fn holds(&self, asker: Asker) -> bool {
        self.unapplied().any(|waiting| waiting.asker == asker)
    }

    fn unapplied(&self) -> impl Iterator<Item = &Waiting> {
        self.queue.iter().chain(self.proposed.iter().flat_map(|proposed| &proposed.commands))
    }

    /// Proposes what waits, as far as it may; users' writes only where the overlay has room and the
    /// group is in the present lineage. How long the fence of a snapshot held writes back, when it
    /// does so no more.
    pub fn propose_waiting(
        &mut self,
        open: Open,
        lineage: Lineage,
        has_room: bool,
        now: Duration,
    ) -> Option<Duration> {
        if !self.knows_all() {
            return None;
        }
        let same = self.machine.as_ref().is_none_or(|machine| machine.state().lineage == lineage)
            && lineage != Lineage::PENDING;
        let held = self.propose_all(open, same && has_room) && self.fence.holds_writes(open);
        match (held, self.held_since) {
            (true, None) => {
                self.held_since = Some(now);
                None
            }
            (false, Some(since)) => {
                self.held_since = None;
                Some(now.saturating_sub(since))
            }
            _ => None,
        }
    }

    /// Whether a user's write is left.
    fn propose_all(&mut self, open: Open, user_allowed: bool) -> bool {
        let hold = self.fence.holds_writes(open)
            && !mutated(Mutation::NoHold)
            && !mutated(Mutation::SeenFromMark);
        let held = hold || !user_allowed;
        let mut kept = VecDeque::new();
        while !self.queue.is_empty() {
            let mut commands = Vec::new();
            let mut bytes = 0;
            while let Some(waiting) = self.queue.pop_front() {
                if held && waiting.command.action.is_user() {
                    kept.push_back(waiting);
                    continue;
                }
                bytes += wire::command_bytes(&waiting.command);
                commands.push(waiting);
                if commands.len() >= limits::ENTRY_COMMANDS_MAX || bytes >= limits::ENTRY_BYTES_MAX
                {
                    break;
                }
            }
            if commands.is_empty() {
                break;
            }
            if let Err(commands) = self.propose(open, commands) {
                kept.extend(commands);
                kept.append(&mut self.queue);
                break;
            }
        }
        self.queue = kept;
        held && !self.queue.is_empty()
    }

    /// Appends one entry, or gives the commands back when the group takes none now.
    fn propose(&mut self, open: Open, commands: Vec<Waiting>) -> Result<(), Vec<Waiting>> {
        let urgent = commands.iter().any(|waiting| !waiting.command.action.is_user());
        let (askers, entry): (Vec<_>, Vec<_>) =
            commands.into_iter().map(|w| ((w.asker, w.deadline), w.command)).unzip();
        let seen = if mutated(Mutation::SeenFromMark) {
            self.fence.mark().max(open.get())
        } else {
            open.get()
        };
        let mut entry = Entry { seen, commands: entry };
        let proposed = self.raft.propose(wire::encode_entry(&entry), urgent);
        if proposed.is_some() && entry.commands.iter().any(is_large) {
            self.share_proposed(&mut entry);
        }
        let commands = entry
            .commands
            .into_iter()
            .zip(askers)
            .map(|(command, (asker, deadline))| Waiting { asker, command, deadline })
            .collect();
        match proposed {
            Some(at) => {
                self.proposed.push_back(Proposed { at, commands });
                Ok(())
            }
            None => Err(commands),
        }
    }

    /// Has an entry's large commands share the bytes of the log's entry that was just made of them,
    /// so that the messages in which they came go.
    fn share_proposed(&self, entry: &mut Entry) {
        let Some(Ok(logged)) = self.raft.proposed().map(wire::decode_entry) else { return };
        debug_assert_eq!(*entry, logged, "the log holds what was proposed");
        for (command, logged) in entry.commands.iter_mut().zip(logged.commands) {
            if is_large(command) {
                *command = logged;
            }
        }
    }

    /// Large commands of this node's requests that were proposed behind an entry, each with the
    /// number of its request: they share the log's bytes.
    pub fn shared_behind(&self, index: u64) -> impl Iterator<Item = (u64, &Command)> {
        let new = self.proposed.iter().rev().take_while(move |proposed| proposed.at.index > index);
        let large = new.flat_map(|proposed| &proposed.commands).filter(|w| is_large(&w.command));
        large.filter_map(|waiting| match waiting.asker {
            Asker::Mine(number) => Some((number, &waiting.command)),
            Asker::Theirs(..) | Asker::Nobody => None,
        })
    }

    /// Appends a snapshot's mark at once, before all that waits, if this leader may. Whether it
    /// did.
    pub fn propose_mark(&mut self, seq: SnapshotSeq, open: Open, deadline: Duration) -> bool {
        let may = self.fence.may_propose_mark(seq, self.knows_all())
            || (mutated(Mutation::CapturedTwice) && self.knows_all());
        let mark = || vec![Waiting::for_nobody(Action::Mark(seq), deadline)];
        let proposed = may && self.propose(open, mark()).is_ok();
        if proposed {
            self.fence.proposed(seq);
        }
        proposed
    }

    /// Queues the command that brings the group into a lineage, before all that waits, if this
    /// leader finds it in another one and nobody has asked for that yet. Whether it did.
    pub fn enqueue_lineage(&mut self, lineage: Lineage, deadline: Duration) -> bool {
        let behind = self.machine.as_ref().is_some_and(|m| m.state().lineage != lineage);
        let set = Action::Data(data::Command::SetLineage { lineage });
        let queues = behind
            && self.knows_all()
            && !self.unapplied().any(|waiting| waiting.command.action == set);
        if queues {
            self.queue.push_front(Waiting::for_nobody(set, deadline));
        }
        queues
    }

    /// Who asked for the entry at a place; nobody when another leader's entry took that place.
    pub fn take_proposed(&mut self, at: Position) -> Vec<Waiting> {
        while self.proposed.front().is_some_and(|p| p.at.index < at.index) {
            self.proposed.pop_front();
        }
        match self.proposed.front() {
            Some(Proposed { at: place, .. }) if *place == at => {
                self.proposed.pop_front().map(|p| p.commands).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Commands that a mark has turned into no-ops wait again, before all others.
    pub fn enqueue_again(&mut self, commands: Vec<Waiting>) {
        for waiting in commands.into_iter().rev() {
            self.queue.push_front(waiting);
        }
    }
}
