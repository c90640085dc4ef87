//! The cut as stories: `tests/golden/cut`. Also the few facts too small for one.

use super::*;
use crate::base::golden::{self, ms, number};

#[derive(Default)]
struct Actor {
    barrier: Option<Barrier>,
    fence: Fence,
    open: Open,
}

fn groups(word: &str) -> Vec<GroupId> {
    word.split(',')
        .map(|g| if g == "meta" { GroupId::META } else { GroupId(number(g) as u32) })
        .collect()
}

impl Actor {
    fn act(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["barrier", seq, "of", list, "from", now, "for", patience] => {
                self.barrier = Some(Barrier::new(
                    SnapshotSeq(number(seq)),
                    groups(list),
                    ms(now),
                    ms(patience),
                ));
                String::new()
            }
            ["tick", now] => said(self.barrier.as_mut().unwrap().tick(ms(now))),
            ["marked", seq, list, now] => said(self.barrier.as_mut().unwrap().marked(
                SnapshotSeq(number(seq)),
                &groups(list),
                ms(now),
            )),
            _ => format!("{}\n  {}", self.at_replica(&words), self.standing()),
        }
    }

    fn at_replica(&mut self, words: &[&str]) -> String {
        match *words {
            ["release", seq] => format!("opens: {}", self.open.released(SnapshotSeq(number(seq)))),
            ["resolve", seq] => format!("opens: {}", self.open.resolved(SnapshotSeq(number(seq)))),
            ["asked", seq, "before", "the", "no-op"] => {
                format!(
                    "may mark: {}",
                    self.fence.may_propose_mark(SnapshotSeq(number(seq)), false)
                )
            }
            ["asked", seq] => {
                let seq = SnapshotSeq(number(seq));
                let may = self.fence.may_propose_mark(seq, true);
                if may {
                    self.fence.proposed(seq);
                }
                format!(
                    "appends the mark: {may}, reports it applied: {}",
                    self.fence.is_marked(seq)
                )
            }
            ["apply", "mark", seq] => {
                format!("captures: {}", self.fence.apply_mark(SnapshotSeq(number(seq))))
            }
            ["apply", "write", "seen", seen] => (if self.fence.fenced(SnapshotSeq(number(seen))) {
                "no effect, retry"
            } else {
                "takes effect"
            })
            .into(),
            ["lose", "leadership"] => {
                self.fence.leadership_lost();
                "follows".into()
            }
            _ => panic!("nobody knows what {words:?} means"),
        }
    }

    fn standing(&self) -> String {
        let writes = if self.fence.holds_writes(self.open) {
            "writes wait".into()
        } else {
            format!("writes go with seen = {}", self.open.get())
        };
        format!(
            "mark {}, in flight {}, open {}: {writes}",
            self.fence.mark,
            self.fence.in_flight,
            self.open.get()
        )
    }
}

fn said(actions: Vec<Action>) -> String {
    let lines: Vec<String> = actions.iter().map(|a| format!("  {a:?}")).collect();
    if lines.is_empty() { "  nothing".into() } else { lines.join("\n") }
}

#[test]
fn the_stories_of_the_cut_are_as_they_were() {
    golden::play("cut", || {
        let mut actor = Actor::default();
        move |line: &str| actor.act(line)
    });
}

#[test]
fn what_is_open_never_closes_again() {
    let mut open = Open::default();
    assert!(open.released(SnapshotSeq(5)));
    assert!(!open.resolved(SnapshotSeq(4)));
    assert!(!open.released(SnapshotSeq(5)));
    assert_eq!(open.get(), SnapshotSeq(5));
}
