//! Several servers that hold the same: the preferred one is asked, the next while it does not answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync};
use zeroize::Zeroizing;

use super::{
    breaker::Breaker,
    certificate,
    link::{Failure, Holds, Link, Place, REFUSED_PAUSE, Reach, Search, not_ldap},
};
use crate::{
    directory::{DirectoryError, Notice, ServerState, Tell, Verdict},
    error_chain::whole_chain,
};

/// The servers, the preferred one first.
pub(super) struct Fleet {
    /// For messages.
    name: String,
    reach: Arc<Reach>,
    holds: Holds,
    runtime: Handle,
    tell: Tell,
    members: ArcSwap<Vec<Arc<Member>>>,
    turn: AtomicUsize,
    is_away: AtomicBool,
    /// One was lost, so it is time to see whether the others are there.
    muster: AtomicBool,
    /// What the last server that stopped answering said.
    problem: Mutex<Option<String>>,
}

/// One server and the connections to it.
struct Member {
    place: Place,
    breaker: Breaker,
    slots: Vec<sync::Mutex<Option<(u64, Link)>>>,
    /// Counts how often the server was lost: connections from before are of no use.
    era: AtomicU64,
    answered: Mutex<Option<Instant>>,
    tally: Tally,
    /// When it was last said that its certificate ends soon.
    warned: Mutex<Option<Instant>>,
}

/// How a server has answered so far.
#[derive(Default)]
struct Tally {
    searches: AtomicU64,
    failures: AtomicU64,
    duration_us: AtomicU64,
}

/// What a question to a server gives, in the end.
pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

impl Fleet {
    pub(super) fn new(reach: Arc<Reach>, holds: Holds, runtime: Handle, tell: Tell, places: Vec<Place>) -> Self {
        let name = match holds {
            Holds::Domain => reach.settings.servers.controllers_text(),
            Holds::Forest => reach.settings.servers.catalogs_text(),
        };
        let fleet = Fleet {
            name,
            reach,
            holds,
            runtime,
            tell,
            members: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            is_away: AtomicBool::new(false),
            muster: AtomicBool::new(false),
            problem: Mutex::default(),
        };
        fleet.replace(places);
        fleet
    }

    /// How each server has answered so far.
    pub(super) fn states(&self) -> Vec<ServerState> {
        let asked_for = match self.holds {
            Holds::Domain => "configuration",
            Holds::Forest => "people",
        };
        self.members.load().iter().map(|member| member.state(asked_for)).collect()
    }

    /// Whether there is nobody to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.members.load().is_empty()
    }

    /// Other servers from now on; those that stay keep their connections and what is known of them. The same servers in
    /// another order are no reason to prefer another one: DNS gives equal servers by chance.
    pub(super) fn replace(&self, places: Vec<Place>) {
        let old = self.members.load();
        if old.len() == places.len() && old.iter().all(|member| places.contains(&member.place)) {
            return;
        }
        let known = |place: &Place| old.iter().find(|member| member.place == *place).cloned();
        let members = places.into_iter().map(|place| known(&place).unwrap_or_else(|| Arc::new(self.member(place))));
        self.members.store(Arc::new(members.collect()));
        self.tell_whether_away();
    }

    fn member(&self, place: Place) -> Member {
        Member {
            place,
            breaker: Breaker::default(),
            slots: (0..self.reach.settings.connections.max(1)).map(|_| sync::Mutex::default()).collect(),
            era: AtomicU64::new(0),
            answered: Mutex::default(),
            tally: Tally::default(),
            warned: Mutex::default(),
        }
    }

    /// Asks the preferred server that answers. What is asked must be idempotent: it may be asked of several, for as long
    /// as connecting to two and a search at each may take.
    pub(super) async fn ask<'q, T>(
        &self,
        question: &(dyn Fn(Link) -> Answer<'q, T> + Send + Sync + 'q),
    ) -> Result<T, DirectoryError> {
        let began = Instant::now();
        let mut last = None;
        for member in self.members.load_full().iter().filter(|member| member.breaker.is_closed()) {
            if last.is_some()
                && began.elapsed() > self.reach.settings.connect_timeout + self.reach.settings.search_timeout
            {
                break;
            }
            match self.ask_one(member, question).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Broken(error) | Failure::Silent(error)) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.away()))
    }

    /// What a bind as this DN with this password says. Once a server may have seen the password no other is asked:
    /// each might count a wrong one.
    pub(super) async fn bind_as(&self, dn: &str, password: &str) -> Result<Verdict, DirectoryError> {
        let mut last = None;
        for member in self.members.load_full().iter().filter(|member| member.breaker.is_closed()).take(BINDS_TRIED_MAX)
        {
            let (reach, place) = (self.reach.clone(), member.place.clone());
            let (dn, password) = (dn.to_owned(), Zeroizing::new(password.to_owned()));
            let began = Instant::now();
            let bind = self.runtime.spawn(async move { reach.bind_as(&place, &dn, &password).await });
            match bind.await.unwrap_or_else(|_| Err(Failure::Silent(not_ldap(member.place.url.as_str())))) {
                Ok(verdict) => {
                    member.has_answered();
                    return Ok(verdict);
                }
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Silent(error)) => {
                    self.unless_others_are_answered(member, began, &error);
                    return Err(error);
                }
                Err(Failure::Broken(error)) => {
                    self.lost(member, &error);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.away()))
    }

    /// Looks whether servers that do not answer do again; when one was lost, whether the others are there, before somebody
    /// has to find out by waiting; and closes connections that are too old.
    pub(super) async fn tend(&self) {
        let members = self.members.load_full();
        let muster = self.muster.swap(false, Ordering::Relaxed);
        let doubtful = members.iter().filter(|member| {
            member.breaker.is_due(Instant::now())
                || muster && member.breaker.is_closed() && !member.has_answered_lately()
        });
        join_all(doubtful.map(|member| self.probe(member))).await;
        for slot in members.iter().flat_map(|member| &member.slots) {
            if let Ok(mut slot) = slot.try_lock()
                && slot.as_mut().is_some_and(|(_, link)| link.is_spent())
            {
                *slot = None;
            }
        }
    }

    async fn probe(&self, member: &Member) {
        match self.open_proven(member).await {
            Ok(link) => {
                if let Some(slot) = member.slots.first() {
                    *slot.lock().await = Some((member.era.load(Ordering::Relaxed), link));
                }
                member.has_answered();
                self.regained(member);
            }
            Err(error) => self.lost(member, &error),
        }
    }

    /// A connection to a server that answers searches. One that only lets itself be bound to would be found lost again
    /// by the next request, after a time-out.
    async fn open_proven(&self, member: &Member) -> Result<Link, DirectoryError> {
        let link = self.open(member).await?;
        match link.clone().search(&Search::probe(), self.reach.settings.search_timeout).await {
            Ok(_) | Err(Failure::Refused(_)) => Ok(link),
            Err(Failure::Broken(error) | Failure::Silent(error)) => Err(error),
        }
    }

    async fn ask_one<'q, T>(
        &self,
        member: &Arc<Member>,
        question: &(dyn Fn(Link) -> Answer<'q, T> + Send + Sync + 'q),
    ) -> Result<T, Failure> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % member.slots.len().max(1);
        let Some(slot) = member.slots.get(turn) else { return Err(Failure::Broken(self.away())) };
        loop {
            let (mut link, is_new) = self.link(member, slot).await?;
            let began = Instant::now();
            let answer = question(link.clone()).await;
            member.tally.note(began.elapsed(), answer.is_ok());
            let failure = match answer {
                Err(failure @ (Failure::Broken(_) | Failure::Silent(_))) => failure,
                answer => {
                    member.has_answered();
                    if link.is_spent() {
                        discard(slot, &link).await;
                    }
                    return answer;
                }
            };
            discard(slot, &link).await;
            match &failure {
                // The server closes connections that were idle for long: that says nothing about a new one.
                Failure::Broken(_) if !is_new => continue,
                Failure::Broken(error) => self.lost(member, error),
                Failure::Silent(error) => self.unless_others_are_answered(member, began, error),
                Failure::Refused(_) => {}
            }
            return Err(failure);
        }
    }

    /// The slot's connection, opened if it has none that is of use; and whether it was.
    async fn link(&self, member: &Member, slot: &sync::Mutex<Option<(u64, Link)>>) -> Result<(Link, bool), Failure> {
        let mut slot = slot.lock().await;
        let era = member.era.load(Ordering::Relaxed);
        if let Some((of_era, link)) = &mut *slot
            && *of_era == era
            && !link.is_spent()
        {
            return Ok((link.clone(), false));
        }
        *slot = None;
        // Whoever waited for somebody else's attempt shares its result.
        if !member.breaker.is_closed() {
            return Err(Failure::Broken(self.away()));
        }
        match self.open(member).await {
            Ok(link) => {
                *slot = Some((era, link.clone()));
                Ok((link, true))
            }
            Err(error) => {
                self.lost(member, &error);
                Err(Failure::Broken(error))
            }
        }
    }

    /// All connections live on the directory's own runtime, whoever needs them first.
    async fn open(&self, member: &Member) -> Result<Link, DirectoryError> {
        let (reach, place, holds) = (self.reach.clone(), member.place.clone(), self.holds);
        let opening = self.runtime.spawn(async move { reach.open(&place, holds).await });
        let link = opening.await.unwrap_or_else(|_| Err(not_ldap(member.place.url.as_str())))?;
        if let Some(days) =
            link.certificate.as_deref().and_then(|shown| certificate::days_left(shown, SystemTime::now()))
            && days < CERTIFICATE_WARNING_DAYS
        {
            let mut warned = member.warned.lock();
            if warned.is_none_or(|warned| warned.elapsed() > WARNING_INTERVAL) {
                *warned = Some(Instant::now());
                (self.tell)(Notice::CertificateEnds { server: member.place.url.to_string(), days });
            }
        }
        Ok(link)
    }

    /// A server that answered somebody while we waited is slow, not lost.
    fn unless_others_are_answered(&self, member: &Member, began: Instant, error: &DirectoryError) {
        if member.answered.lock().is_none_or(|answered| answered < began) {
            self.lost(member, error);
        }
    }

    fn lost(&self, member: &Member, error: &DirectoryError) {
        let refused = matches!(error, DirectoryError::Rejected { .. });
        let is_news = member.breaker.open(Instant::now(), if refused { REFUSED_PAUSE } else { Duration::ZERO });
        *self.problem.lock() = Some(whole_chain(error));
        if !is_news {
            return;
        }
        member.era.fetch_add(1, Ordering::Relaxed);
        self.muster.store(true, Ordering::Relaxed);
        if self.members.load().len() > 1 {
            let (server, problem) = (member.place.url.to_string(), whole_chain(error));
            (self.tell)(Notice::ServerAway { server, problem });
        }
        self.tell_whether_away();
    }

    fn regained(&self, member: &Member) {
        if member.breaker.close() && self.members.load().len() > 1 {
            (self.tell)(Notice::ServerBack { server: member.place.url.to_string() });
        }
        self.tell_whether_away();
    }

    fn tell_whether_away(&self) {
        let members = self.members.load();
        let is_away = !members.is_empty() && !members.iter().any(|member| member.breaker.is_closed());
        if self.is_away.swap(is_away, Ordering::Relaxed) != is_away {
            let (servers, problem) = (self.name.clone(), self.problem.lock().clone().unwrap_or_default());
            (self.tell)(if is_away { Notice::Away { servers, problem } } else { Notice::Back { servers } });
        }
    }

    /// What is said without asking anybody, because nobody answers.
    fn away(&self) -> DirectoryError {
        let problem = self.problem.lock().clone();
        DirectoryError::Unreachable {
            server: self.name.clone(),
            source: problem.unwrap_or_else(|| "no LDAP server is known".to_owned()).into(),
        }
    }
}

impl Tally {
    fn note(&self, duration: Duration, is_answered: bool) {
        self.searches.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(u64::from(!is_answered), Ordering::Relaxed);
        self.duration_us.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Member {
    fn state(&self, asked_for: &'static str) -> ServerState {
        ServerState {
            url: self.place.url.to_string(),
            asked_for,
            is_up: self.breaker.is_closed(),
            searches: self.tally.searches.load(Ordering::Relaxed),
            failures: self.tally.failures.load(Ordering::Relaxed),
            duration: Duration::from_micros(self.tally.duration_us.load(Ordering::Relaxed)),
        }
    }

    fn has_answered(&self) {
        *self.answered.lock() = Some(Instant::now());
    }

    fn has_answered_lately(&self) -> bool {
        self.answered.lock().is_some_and(|answered| answered.elapsed() < LATELY)
    }
}

async fn discard(slot: &sync::Mutex<Option<(u64, Link)>>, link: &Link) {
    let mut slot = slot.lock().await;
    if slot.as_ref().is_some_and(|(_, current)| current.is(link)) {
        *slot = None;
    }
}

/// Time to renew a certificate in.
const CERTIFICATE_WARNING_DAYS: i64 = 30;
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// A server that answered so shortly ago needs no look.
const LATELY: Duration = Duration::from_secs(10);
/// How many servers are tried for one password.
const BINDS_TRIED_MAX: usize = 3;
