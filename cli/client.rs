//! Calls that find a node, wait no longer than they may, and are repeated where repeating is safe.
//!
//! Every call of the contract can be repeated: reads because they are reads, writes because they
//! carry a request id or name the state they want. So one loop serves all: an attempt at an
//! endpoint, a look at its fault, the next attempt. What differs is what is said when the time is
//! over: a call that may have had its effect says so.

use std::{collections::BTreeMap, future::Future, time::Duration};

use tonic::{Request, Response, Status, Streaming, transport::Channel};

use super::{
    connection::Access,
    fault::{self, Fault, Then},
    identity::{self, Meant},
    retry::{Attempt, Attempts},
    term::exit::{self, Failure},
};
use crate::{
    base::{
        clock::{Clock, Random},
        ids::ClusterId,
        limits,
    },
    proto::v1::LocalAnswer,
};

/// A deadline is told rounded down, in milliseconds at the coarsest: the other side's may end by so
/// much before ours.
const TIMEOUT_UNIT: Duration = Duration::from_millis(1);

pub struct Client {
    endpoints: Vec<String>,
    access: Access,
    channels: Vec<Option<Channel>>,
    /// The endpoint that answered last; the next call begins there.
    preferred: usize,
    meant: Meant,
    timeout: Duration,
    patient: bool,
    clock: Clock,
    rng: Random,
}

/// What a call is, for its failures.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// In the infinitive: `put "k"`.
    pub what: String,
    /// How to repeat it safely when its outcome is unknown; empty where repeating is always safe.
    pub again: String,
}

/// An answer, and whether an earlier attempt may have had its effect already.
#[derive(Debug)]
pub struct Answer<A> {
    pub body: A,
    pub repeated: bool,
}

/// Takes what a stream brings, across broken streams.
pub trait Feed {
    type Request;
    type Piece;

    /// Asks for what is still to come.
    fn request(&mut self) -> Self::Request;
    /// Takes a piece; a failure ends it for good.
    fn take(&mut self, piece: Self::Piece) -> Result<Taken, Failure>;
    /// The stream ended by itself. False when something is still missing.
    fn ended(&mut self) -> bool;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Something, but nothing that could not come again for ever.
    Nothing,
    Progress,
    /// All there is.
    Done,
}

impl Call {
    pub fn new(what: impl Into<String>) -> Call {
        Call { what: what.into(), again: String::new() }
    }
}

impl Client {
    /// `pinned` is the cluster that every call is for; without it, several endpoints are asked.
    pub fn new(
        endpoints: Vec<String>,
        access: Access,
        pinned: Option<ClusterId>,
        timeout: Duration,
        clock: Clock,
        rng: Random,
    ) -> Client {
        let channels = endpoints.iter().map(|_| None).collect();
        let meant = Meant::at_first(endpoints.len(), pinned);
        Client {
            endpoints,
            access,
            channels,
            preferred: 0,
            meant,
            timeout,
            patient: false,
            clock,
            rng,
        }
    }

    /// Makes the client wait the whole timeout for nodes that refuse connections, too: they may be
    /// starting again.
    pub fn be_patient(&mut self) {
        self.patient = true;
    }

    /// A name for a request.
    pub fn draw_id(&mut self) -> uuid::Uuid {
        self.rng.uuid()
    }

    /// Milliseconds since 1970 as this machine believes.
    pub fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A generator of chance that shares nothing with this one.
    pub fn draw_chance(&mut self) -> Random {
        Random::seeded(self.rng.next_u64())
    }

    /// One more of the same, that another task may use at the same time. It asks the node at
    /// `address` first, if that is one of the endpoints.
    pub fn beside(&mut self, address: &str) -> Client {
        let preferred = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint == address)
            .unwrap_or(self.preferred);
        let rng = self.draw_chance();
        Client {
            preferred,
            meant: self.meant,
            patient: self.patient,
            ..Client::new(
                self.endpoints.clone(),
                self.access.clone(),
                None,
                self.timeout,
                self.clock,
                rng,
            )
        }
    }

    /// One more for some of the endpoints, with a time of its own.
    pub fn within(&mut self, timeout: Duration, endpoints: Vec<String>) -> Client {
        let rng = self.draw_chance();
        let access = self.access.clone();
        Client {
            meant: self.meant,
            ..Client::new(endpoints, access, None, timeout, self.clock, rng)
        }
    }

    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// How it opens connections.
    pub fn access(&self) -> &Access {
        &self.access
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The cluster that calls are for, as far as it is known by now.
    pub fn meant(&self) -> Meant {
        self.meant
    }

    /// One question, one answer.
    pub async fn call<Q, A, F, Fut>(
        &mut self,
        call: &Call,
        body: Q,
        send: F,
    ) -> Result<Answer<A>, Failure>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        self.persist(body, &send).await.map_err(|end| end.failure(call, &self.endpoints))
    }

    /// As `call`, for what makes something vanish. When an earlier attempt may have done it and the
    /// last finds nothing, it is done.
    pub async fn remove<Q, A, F, Fut>(
        &mut self,
        call: &Call,
        body: Q,
        send: F,
    ) -> Result<Option<A>, Failure>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        match self.persist(body, &send).await {
            Ok(answer) => Ok(Some(answer.body)),
            Err(End::Faults(faults)) if faults.unsure && faults.absent() => Ok(None),
            Err(end) => Err(end.failure(call, &self.endpoints)),
        }
    }

    /// Every page of a list. `split` takes a page apart into its items and the token of the next
    /// page.
    pub async fn pages<Q, A, I, F, Fut>(
        &mut self,
        call: &Call,
        request: impl Fn(String) -> Q,
        send: F,
        split: impl Fn(A) -> (Vec<I>, String),
    ) -> Result<Vec<I>, Failure>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let page = self.call(call, request(token.clone()), &send).await?.body;
            let (items, next) = split(page);
            all.extend(items);
            if next.is_empty() {
                return Ok(all);
            }
            if next == token {
                return Err(Failure::new(
                    exit::FAILED,
                    format!("cannot {}: the list does not end", call.what),
                    "a page names itself as the next one",
                    "",
                ));
            }
            token = next;
        }
    }

    /// As `pages`, of a list that a node may give alone: with who did so.
    pub async fn pages_of<Q, A, I, F, Fut>(
        &mut self,
        call: &Call,
        request: impl Fn(String) -> Q,
        send: F,
        split: impl Fn(A) -> (Vec<I>, String, Option<LocalAnswer>),
    ) -> Result<(Vec<I>, Option<LocalAnswer>), Failure>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let pages = self
            .pages(call, request, send, |page| {
                let (items, next, alone) = split(page);
                (vec![(items, alone)], next)
            })
            .await?;
        let mut alone = None;
        let mut all = Vec::new();
        for (items, by) in pages {
            all.extend(items);
            // What is applied may grow from page to page; the first page knows least.
            alone = alone.or(by);
        }
        Ok((all, alone))
    }

    async fn persist<Q, A, F, Fut>(&mut self, body: Q, send: &F) -> Result<Answer<A>, End>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let mut attempts = self.attempts();
        let mut faults = Faults::default();
        self.settle().await?;
        while let Some(attempt) = attempts.next(self.clock.now(), &mut self.rng) {
            let fault = match self.ask(&mut attempts, attempt, body.clone(), send).await {
                Ok(body) => return Ok(Answer { body, repeated: faults.unsure }),
                Err(fault) => fault,
            };
            self.note(&mut attempts, &mut faults, attempt.endpoint, fault.clone());
            if fault.is_final() {
                break;
            }
        }
        Err(End::Faults(faults))
    }

    /// Finds out which cluster the endpoints belong to, unless that is known.
    async fn settle(&mut self) -> Result<(), End> {
        if self.meant != Meant::Unasked {
            return Ok(());
        }
        // The endpoints together are as one: whoever answers speaks for all that do not.
        let mut attempts = Attempts::begin(1, 0, self.clock.now(), self.timeout, self.patient);
        let mut faults = Faults::default();
        while let Some(attempt) = attempts.next(self.clock.now(), &mut self.rng) {
            tokio::time::sleep(attempt.after).await;
            let asked = self.endpoints.iter().zip(&self.channels).map(|(endpoint, channel)| {
                let (access, endpoint) = (self.access.clone(), endpoint.clone());
                tokio::spawn(identity::ask(access, endpoint, channel.clone(), attempt.within))
            });
            let mut said = Vec::new();
            for (at, answer) in asked.collect::<Vec<_>>().into_iter().enumerate() {
                let answer = answer
                    .await
                    .expect("a question does not panic and is not aborted")
                    .and_then(|(channel, answer)| {
                        attempts.connected();
                        let answer = answer?;
                        self.channels[at] = Some(channel);
                        Ok(answer)
                    });
                match answer {
                    Ok(answer) => said.push((self.endpoints[at].as_str(), answer)),
                    Err(fault) => faults.add(at, fault),
                }
            }
            if !said.is_empty() {
                self.meant = Meant::of(&said).map_err(End::Refused)?;
                return Ok(());
            }
            if faults.last.iter().any(|(_, fault)| fault.is_final()) {
                break;
            }
        }
        Err(End::Faults(faults))
    }

    /// One question, a stream of answers. A stream that breaks is opened again where it broke.
    pub async fn stream<T, F, Fut>(
        &mut self,
        call: &Call,
        feed: &mut T,
        send: F,
    ) -> Result<(), Failure>
    where
        T: Feed,
        F: Fn(Channel, Request<T::Request>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<T::Piece>>, Status>>,
    {
        let mut attempts = self.attempts();
        let mut faults = Faults::default();
        self.settle().await.map_err(|end| end.failure(call, &self.endpoints))?;
        while let Some(attempt) = attempts.next(self.clock.now(), &mut self.rng) {
            let fault = match self.follow(&mut attempts, attempt, feed, &send).await? {
                None => return Ok(()),
                Some(fault) => fault,
            };
            self.note(&mut attempts, &mut faults, attempt.endpoint, fault.clone());
            if fault.is_final() {
                break;
            }
        }
        faults.unsure = false;
        Err(faults.failure(call, &self.endpoints))
    }

    fn attempts(&self) -> Attempts {
        Attempts::begin(
            self.endpoints.len(),
            self.preferred,
            self.clock.now(),
            self.timeout,
            self.patient,
        )
    }

    fn note(
        &mut self,
        attempts: &mut Attempts,
        faults: &mut Faults,
        endpoint: usize,
        fault: Fault,
    ) {
        if fault.then == Then::Slower {
            attempts.slower(fault.rest);
        }
        if fault.exit == exit::UNREACHABLE {
            self.channels[endpoint] = None;
        }
        faults.add(endpoint, fault);
    }

    async fn ask<Q, A, F, Fut>(
        &mut self,
        attempts: &mut Attempts,
        attempt: Attempt,
        body: Q,
        send: &F,
    ) -> Result<A, Fault>
    where
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let (channel, left) = self.connect(attempts, attempt).await?;
        let mut request = Request::new(body);
        self.meant.mark(&mut request);
        self.access.mark(&mut request);
        request.set_timeout(left);
        let ends = self.clock.now() + left;
        let answer = tokio::time::timeout(left, send(channel, request))
            .await
            .map_err(|_| Fault::late(attempt.within.as_secs_f64()))?;
        let late = |status: &Status| {
            fault::timed_out(status)
                || (self.clock.now() + TIMEOUT_UNIT >= ends && fault::may_be_the_deadline(status))
        };
        let answer = answer.map_err(|status| {
            if late(&status) {
                Fault::late(attempt.within.as_secs_f64())
            } else {
                Fault::of(&status)
            }
        })?;
        self.preferred = attempt.endpoint;
        Ok(answer.into_inner())
    }

    /// None when the feed has all.
    async fn follow<T, F, Fut>(
        &mut self,
        attempts: &mut Attempts,
        attempt: Attempt,
        feed: &mut T,
        send: &F,
    ) -> Result<Option<Fault>, Failure>
    where
        T: Feed,
        F: Fn(Channel, Request<T::Request>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<T::Piece>>, Status>>,
    {
        let (channel, mut left) = match self.connect(attempts, attempt).await {
            Ok(connected) => connected,
            Err(fault) => return Ok(Some(fault)),
        };
        let mut request = Request::new(feed.request());
        self.meant.mark(&mut request);
        self.access.mark(&mut request);
        let mut stream = match tokio::time::timeout(left, send(channel, request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ok(Some(Fault::of(&status))),
            Err(_) => return Ok(Some(Fault::late(attempt.within.as_secs_f64()))),
        };
        loop {
            let piece = match tokio::time::timeout(left, stream.message()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) if feed.ended() => return Ok(None),
                Ok(Ok(None)) => return Ok(Some(Fault::cut_short())),
                Ok(Err(status)) => return Ok(Some(Fault::of(&status))),
                Err(_) => return Ok(Some(Fault::late(left.as_secs_f64()))),
            };
            match feed.take(piece)? {
                Taken::Done => return Ok(None),
                Taken::Nothing => {}
                Taken::Progress => {
                    self.preferred = attempt.endpoint;
                    left = attempts.progress(self.clock.now());
                }
            }
        }
    }

    /// Waits for its turn, connects, and says how much of the attempt's time is left.
    async fn connect(
        &mut self,
        attempts: &mut Attempts,
        attempt: Attempt,
    ) -> Result<(Channel, Duration), Fault> {
        tokio::time::sleep(attempt.after).await;
        let began = self.clock.now();
        let channel = match self.channels[attempt.endpoint].clone() {
            Some(channel) => channel,
            None => {
                let within = attempt.within.min(limits::CTL_CONNECT);
                self.access.open(&self.endpoints[attempt.endpoint], within).await?
            }
        };
        attempts.connected();
        self.channels[attempt.endpoint] = Some(channel.clone());
        let left = attempt.within.saturating_sub(self.clock.now() - began);
        if left.is_zero() {
            Err(Fault::refused("no time was left to ask"))
        } else {
            Ok((channel, left))
        }
    }
}

/// How a call ended that was not answered.
#[derive(Debug)]
enum End {
    Faults(Faults),
    /// The endpoints are not of one cluster.
    Refused(Failure),
}

impl End {
    fn failure(self, call: &Call, endpoints: &[String]) -> Failure {
        match self {
            End::Faults(faults) => faults.failure(call, endpoints),
            End::Refused(failure) => {
                Failure { what: format!("cannot {}: {}", call.what, failure.what), ..failure }
            }
        }
    }
}

/// The last fault of each endpoint, with the last reason that it gave before it fell silent, and
/// what they leave unsure.
#[derive(Debug, Default)]
struct Faults {
    last: Vec<(usize, Fault)>,
    reasons: BTreeMap<usize, String>,
    unsure: bool,
}

impl Faults {
    fn add(&mut self, endpoint: usize, fault: Fault) {
        self.unsure |= fault.may_have_effect();
        self.last.retain(|(at, _)| *at != endpoint);
        if fault.told {
            self.reasons.insert(endpoint, fault.message.clone());
        }
        self.last.push((endpoint, fault));
    }

    fn told(&self, endpoint: usize, fault: &Fault) -> String {
        match self.reasons.get(&endpoint).filter(|_| !fault.told) {
            Some(reason) => format!("{}; before that it said: {reason}", fault.message),
            None => fault.message.clone(),
        }
    }

    fn absent(&self) -> bool {
        self.last.last().is_some_and(|(_, fault)| fault.then == Then::Absent)
    }

    /// A final answer speaks for itself; otherwise every endpoint has its say.
    fn failure(&self, call: &Call, endpoints: &[String]) -> Failure {
        let Some((at, last)) = self.last.last() else {
            return Failure::new(
                exit::UNREACHABLE,
                format!("cannot {}: there was no time to ask", call.what),
                endpoints.join(","),
                "allow more with --timeout",
            );
        };
        if last.exit != exit::UNREACHABLE {
            let unsure = if self.unsure && !call.again.is_empty() {
                "an earlier attempt may have taken effect"
            } else {
                ""
            };
            return Failure::new(
                last.exit,
                format!("cannot {}: {}", call.what, last.message),
                &endpoints[*at],
                unsure,
            );
        }
        let told: Vec<String> = self
            .last
            .iter()
            .map(|(at, fault)| format!("{} ({})", endpoints[*at], self.told(*at, fault)))
            .collect();
        let remedy = match (self.unsure, call.again.is_empty()) {
            (true, false) => format!("it may have taken effect; {}", call.again),
            _ => "see that a node runs there and can reach the others, or name others with \
                  --endpoint"
                .to_owned(),
        };
        Failure::new(exit::UNREACHABLE, format!("cannot {}", call.what), told.join(", "), remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call { what: "put \"k\"".into(), again: "repeat it with --request-id X".into() }
    }

    fn endpoints() -> [String; 2] {
        ["a:1".into(), "b:2".into()]
    }

    #[test]
    fn when_nobody_could_be_asked_every_endpoint_has_its_say() {
        let mut faults = Faults::default();
        faults.add(0, Fault::refused("Connection refused"));
        faults.add(1, Fault::refused("no connection within 3.0 s"));
        assert_eq!(
            faults.failure(&call(), &endpoints()).to_string(),
            "cannot put \"k\": a:1 (Connection refused), b:2 (no connection within 3.0 s): \
             see that a node runs there and can reach the others, or name others with --endpoint"
        );
    }

    #[test]
    fn an_outcome_that_was_once_unsure_stays_unsure() {
        let mut faults = Faults::default();
        faults.add(0, Fault::late(3.0));
        faults.add(0, Fault::refused("Connection refused"));
        let failure = faults.failure(&call(), &endpoints());
        assert_eq!(failure.exit, exit::UNREACHABLE);
        assert_eq!(failure.remedy, "it may have taken effect; repeat it with --request-id X");
    }

    #[test]
    fn an_endpoint_that_fell_silent_is_quoted_with_its_last_reason() {
        let mut faults = Faults::default();
        for reason in ["group 3 is not here", "group 3 has no leader"] {
            faults.add(0, Fault::of(&Status::unavailable(reason)));
        }
        faults.add(1, Fault::of(&Status::unavailable("shutting down")));
        faults.add(0, Fault::late(0.2));
        let failure = faults.failure(&Call::new("get key \"k\""), &endpoints());
        assert_eq!(failure.exit, exit::UNREACHABLE);
        assert_eq!(
            failure.place,
            "b:2 (shutting down), a:1 (no answer within 0.2 s; before that it said: group 3 has no \
             leader)"
        );
    }

    #[test]
    fn a_final_answer_speaks_alone() {
        let mut faults = Faults::default();
        faults.add(0, Fault::refused("Connection refused"));
        faults.add(1, Fault::of(&Status::not_found("site \"s\" does not exist")));
        assert_eq!(
            faults.failure(&call(), &endpoints()).to_string(),
            "cannot put \"k\": site \"s\" does not exist: b:2"
        );
    }
}
