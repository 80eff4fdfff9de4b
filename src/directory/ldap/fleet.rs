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
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync};
use zeroize::Zeroizing;

use super::{
    breaker::Breaker,
    certificate, filter,
    link::{Base, Failure, Holds, Link, Place, Reach, Search, Size, not_ldap},
};
use crate::directory::{DirectoryError, Notice, Tell, forest::AnyOf, repeated, schema::attribute};

/// The servers, the preferred one first.
pub(super) struct Fleet {
    reach: Arc<Reach>,
    holds: Holds,
    runtime: Handle,
    tell: Tell,
    members: ArcSwap<Vec<Arc<Member>>>,
    turn: AtomicUsize,
    is_away: AtomicBool,
    /// What the last server that stopped answering said.
    problem: Mutex<Option<DirectoryError>>,
}

/// One server and the connections to it.
struct Member {
    place: Place,
    breaker: Breaker,
    slots: Vec<sync::Mutex<Option<(u64, Link)>>>,
    /// Counts how often the server was lost: connections from before are of no use.
    era: AtomicU64,
    answered: Mutex<Option<Instant>>,
    /// When it was last said that its certificate ends soon.
    warned: Mutex<Option<Instant>>,
}

/// What a question to a server gives, in the end.
pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

impl Fleet {
    pub(super) fn new(reach: Arc<Reach>, holds: Holds, runtime: Handle, tell: Tell, places: Vec<Place>) -> Self {
        let fleet = Fleet {
            reach,
            holds,
            runtime,
            tell,
            members: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            is_away: AtomicBool::new(false),
            problem: Mutex::default(),
        };
        fleet.replace(places);
        fleet
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
    }

    fn member(&self, place: Place) -> Member {
        Member {
            place,
            breaker: Breaker::default(),
            slots: (0..self.reach.settings.connections.max(1)).map(|_| sync::Mutex::default()).collect(),
            era: AtomicU64::new(0),
            answered: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    /// Asks the preferred server that answers. What is asked must be idempotent: it may be asked of several.
    pub(super) async fn ask<'q, T>(
        &self,
        question: &(dyn Fn(Link) -> Answer<'q, T> + Send + Sync + 'q),
    ) -> Result<T, DirectoryError> {
        let mut last = None;
        for member in self.members.load_full().iter().filter(|member| member.breaker.is_closed()) {
            match self.ask_one(member, question).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Broken(error) | Failure::Silent(error)) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.away()))
    }

    /// Whether a bind as this DN with this password succeeds. Once a server may have seen the password no other is asked:
    /// each might count a wrong one.
    pub(super) async fn bind_as(&self, dn: &str, password: &str) -> Result<bool, DirectoryError> {
        let mut last = None;
        for member in self.members.load_full().iter().filter(|member| member.breaker.is_closed()) {
            let (reach, place) = (self.reach.clone(), member.place.clone());
            let (dn, password) = (dn.to_owned(), Zeroizing::new(password.to_owned()));
            let began = Instant::now();
            let bind = self.runtime.spawn(async move { reach.bind_as(&place, &dn, &password).await });
            match bind.await.unwrap_or_else(|_| Err(Failure::Silent(not_ldap(member.place.url.as_str())))) {
                Ok(right) => {
                    member.has_answered();
                    return Ok(right);
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

    /// Looks whether servers that do not answer do again, and closes connections that are too old.
    pub(super) async fn tend(&self) {
        let members = self.members.load_full();
        futures_util::future::join_all(members.iter().map(|member| self.tend_one(member))).await;
    }

    async fn tend_one(&self, member: &Member) {
        if member.breaker.is_due(Instant::now()) {
            match self.open_proven(member).await {
                Ok(link) => {
                    if let Some(slot) = member.slots.first() {
                        *slot.lock().await = Some((member.era.load(Ordering::Relaxed), link));
                    }
                    self.regained(member);
                }
                Err(error) => self.lost(member, &error),
            }
        }
        for slot in &member.slots {
            if let Ok(mut slot) = slot.try_lock()
                && slot.as_mut().is_some_and(|(_, link)| link.is_spent())
            {
                *slot = None;
            }
        }
    }

    /// A connection to a server that answers searches. One that only lets itself be bound to would be found lost again
    /// by the next request, after a time-out.
    async fn open_proven(&self, member: &Member) -> Result<Link, DirectoryError> {
        let link = self.open(member).await?;
        let probe = Search {
            operation: "a search to see whether it answers again",
            base: Base::Users,
            filter: filter::any_of(&AnyOf::text(attribute::SAM_ACCOUNT_NAME, "nobody has this name")),
            attributes: attribute::OF_ACCOUNTS,
            size: Size::AtMost(1),
        };
        match link.clone().search(&probe, self.reach.settings.search_timeout).await {
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
            let failure = match question(link.clone()).await {
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
        // A bind account that is refused again and again would end up locked.
        let refused = matches!(error, DirectoryError::Rejected { .. });
        let is_news = member.breaker.open(Instant::now(), if refused { REFUSED_PAUSE } else { Duration::ZERO });
        *self.problem.lock() = Some(repeated(error));
        if !is_news {
            return;
        }
        member.era.fetch_add(1, Ordering::Relaxed);
        let problem = chain(error);
        let members = self.members.load();
        if members.len() > 1 {
            (self.tell)(Notice::ServerAway { server: member.place.url.to_string(), problem: problem.clone() });
        }
        if !members.iter().any(|member| member.breaker.is_closed()) && !self.is_away.swap(true, Ordering::Relaxed) {
            (self.tell)(Notice::Away { problem });
        }
    }

    fn regained(&self, member: &Member) {
        if member.breaker.close() && self.members.load().len() > 1 {
            (self.tell)(Notice::ServerBack { server: member.place.url.to_string() });
        }
        if self.is_away.swap(false, Ordering::Relaxed) {
            (self.tell)(Notice::Back);
        }
    }

    /// What is said without asking anybody, because nobody answers.
    fn away(&self) -> DirectoryError {
        self.problem.lock().as_ref().map_or_else(
            || DirectoryError::Unusable { place: "urls".into(), problem: "no LDAP server is known".into() },
            repeated,
        )
    }
}

impl Member {
    fn has_answered(&self) {
        *self.answered.lock() = Some(Instant::now());
    }
}

async fn discard(slot: &sync::Mutex<Option<(u64, Link)>>, link: &Link) {
    let mut slot = slot.lock().await;
    if slot.as_ref().is_some_and(|(_, current)| current.is(link)) {
        *slot = None;
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    chain
}

/// Time to renew a certificate in.
const CERTIFICATE_WARNING_DAYS: i64 = 30;
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a server is left alone that refused the edge's own account.
const REFUSED_PAUSE: Duration = Duration::from_secs(5 * 60);
