//! Faults on demand, and the book of calls: what came, how often, with which headers.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use mmap_proto::reason::Reason;
use tonic::{Code, Request, Status, metadata::MetadataMap};

use crate::error::refuse_for;

/// What happens to one call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: the calls before it in the plan are those with faults.
    None,
    /// Refused with this reason before anything was done, with a `RetryInfo` of that long.
    Refuse(Reason, Duration),
    /// Refused with a bare status, as a proxy does.
    Bare(Code),
    /// Done, and then answered with a bare status: the client cannot know.
    DoneThenBare(Code),
    /// Never answered.
    Hang,
    /// A stream: ended for this reason after so many messages.
    Cut(usize, Reason),
    /// A read: answered with a byte too few. An operation: answered under a tag that nobody chose, and then rightly.
    Garble,
}

/// What is left to do with a call that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Do it and answer.
    Plain,
    /// Do it and answer this.
    ThenFail(Code),
    /// Do nothing, ever.
    Hang,
    /// Break off after so many messages.
    Cut(usize, Reason),
    /// Answer wrongly.
    Garble,
}

/// The book.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    plans: HashMap<&'static str, VecDeque<Fault>>,
    calls: HashMap<&'static str, usize>,
    headers: HashMap<&'static str, MetadataMap>,
    peers: HashMap<&'static str, SocketAddr>,
}

impl Desk {
    pub(crate) fn plan(&mut self, method: &'static str, fault: Fault) {
        self.plans.entry(method).or_default().push_back(fault);
    }

    pub(crate) fn calls(&self, method: &str) -> usize {
        self.calls.get(method).copied().unwrap_or_default()
    }

    pub(crate) fn last_header(&self, method: &str, header: &str) -> Option<String> {
        Some(self.headers.get(method)?.get(header)?.to_str().ok()?.to_owned())
    }

    pub(crate) fn last_peer(&self, method: &str) -> Option<SocketAddr> {
        self.peers.get(method).copied()
    }

    /// Writes a call down and says what happens to it.
    pub(crate) fn admit<Q>(&mut self, method: &'static str, request: &Request<Q>) -> Result<Admission, Status> {
        *self.calls.entry(method).or_default() += 1;
        self.headers.insert(method, request.metadata().clone());
        self.peers.extend(request.remote_addr().map(|peer| (method, peer)));
        match self.plans.get_mut(method).and_then(VecDeque::pop_front) {
            None | Some(Fault::None) => Ok(Admission::Plain),
            Some(Fault::Refuse(reason, delay)) => Err(refuse_for(reason, format!("planned {reason}"), delay)),
            Some(Fault::Bare(code)) => Err(Status::new(code, "planned")),
            Some(Fault::DoneThenBare(code)) => Ok(Admission::ThenFail(code)),
            Some(Fault::Hang) => Ok(Admission::Hang),
            Some(Fault::Cut(after, reason)) => Ok(Admission::Cut(after, reason)),
            Some(Fault::Garble) => Ok(Admission::Garble),
        }
    }
}
