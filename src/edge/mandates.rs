//! The tickets that are kept, by mandate: whom the edge signs in for, and by what right.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use moka::{Expiry, future::Cache};
use parking_lot::{Mutex, RwLock};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::timeout;

use super::{
    errand::{Habit, Mandate, Proof},
    pin::PinNumber,
};
use crate::{
    kerberos::{KerberosError, desk::Desk, library::Credential, negotiate},
    metrics::{Metrics, TicketsBy, TicketsOutcome},
    routing::protocol::Protocol,
    secret::Secret,
};

/// Tickets of users, and what is known of the servers that take them.
pub(super) struct Mandates {
    kept: Cache<Mandate, Found>,
    /// Not passwords are kept, but their hashes by this key.
    key: [u8; 32],
    desk: Desk,
    metrics: Arc<Metrics>,
    /// Since when the edge's own account cannot sign in, and why.
    own_account: Arc<Mutex<Option<(Instant, KerberosError)>>>,
    /// By service and protocol, of which there are as many as virtual directories.
    habits: RwLock<HashMap<(String, Protocol), Habit>>,
    /// Services that nobody has as principal name, and since when that is known.
    unknown: RwLock<HashMap<String, Instant>>,
}

/// Why a user has no tickets is kept, too: asking again and again for a wrong password's would lock the account.
type Found = Result<Arc<Tickets>, KerberosError>;

/// Somebody's tickets, by one mandate.
pub(super) struct Tickets {
    number: PinNumber,
    credential: Credential,
    got: Instant,
    ends: Instant,
    /// The services that there are tickets for, and until when.
    services: RwLock<HashMap<String, Instant>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// How tickets are got.
#[derive(Clone)]
pub(super) enum By {
    Password(Secret),
    /// By this account of the edge's.
    Delegation(String),
}

impl Mandates {
    /// # Panics
    /// If the operating system has no random bytes.
    #[allow(clippy::expect_used)] // no input leads here, and an edge with a guessable key must not start
    pub(super) fn new(users_max: u64, metrics: Arc<Metrics>) -> Self {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).expect("the operating system has random bytes");
        Mandates {
            kept: Cache::builder().max_capacity(users_max).expire_after(UntilTheyEnd).build(),
            key,
            desk: Desk::default(),
            metrics,
            own_account: Arc::default(),
            habits: RwLock::default(),
            unknown: RwLock::default(),
        }
    }

    /// The mandate of somebody by what it is got by.
    pub(super) fn mandate(&self, principal: &str, by: &By) -> Mandate {
        let proof = match by {
            By::Password(password) => Proof::Password(*blake3::keyed_hash(&self.key, password.expose()).as_bytes()),
            By::Delegation(_) => Proof::Delegation,
        };
        Mandate::new(principal, proof)
    }

    /// The tickets of a mandate that are at hand.
    pub(super) async fn kept(&self, mandate: &Mandate) -> Option<Arc<Tickets>> {
        self.kept.get(mandate).await?.ok()
    }

    /// The tickets of a mandate, got if they are not at hand.
    pub(super) async fn tickets(
        &self,
        mandate: &Mandate,
        by: &By,
        patience: Duration,
    ) -> Result<Arc<Tickets>, KerberosError> {
        let found = self.kept.try_get_with_by_ref(mandate, self.get(mandate, by, patience)).await;
        found.unwrap_or_else(|passing| Err((*passing).clone()))
    }

    /// For how many mandates tickets are at hand, or are not to be had.
    pub(super) fn len(&self) -> u64 {
        self.kept.entry_count()
    }

    /// Other tickets than these.
    pub(super) async fn renew(
        &self,
        mandate: &Mandate,
        refused: &Arc<Tickets>,
        by: &By,
        patience: Duration,
    ) -> Result<Arc<Tickets>, KerberosError> {
        if self.kept(mandate).await.is_some_and(|kept| Arc::ptr_eq(&kept, refused)) {
            self.kept.invalidate(mandate).await;
        }
        self.tickets(mandate, by, patience).await
    }

    /// The password of this mandate is not right any more.
    pub(super) async fn forget(&self, mandate: &Mandate) {
        self.kept.invalidate(mandate).await;
    }

    /// `Err`: what will be otherwise in a moment, and is not kept.
    async fn get(&self, mandate: &Mandate, by: &By, patience: Duration) -> Result<Found, KerberosError> {
        let principal = mandate.principal().to_owned();
        let realm = principal.rsplit_once('@').map_or("", |(_, realm)| realm).to_owned();
        let (by_what, own_account) = (by.clone(), self.own_account.clone());
        let get = move || {
            let credential = match by_what {
                By::Password(password) => Credential::by_password(&principal, &password),
                By::Delegation(account) => own_credential(&account, &own_account)?.delegated(&principal),
            }?;
            Ok((credential.lifetime()?, credential))
        };
        let got = self.desk.ask(&realm, patience, get).await;
        self.metrics.tickets(by.counted(), got.as_ref().err().map_or(TicketsOutcome::Got, counted));
        match got {
            Ok((lifetime, credential)) => {
                let got = Instant::now();
                let (number, ends) = (PinNumber::next(), got + usable(lifetime));
                let (services, turn) = (RwLock::default(), Arc::default());
                Ok(Ok(Arc::new(Tickets { number, credential, got, ends, services, turn })))
            }
            Err(error) if pause(&error).is_zero() => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }

    /// A new token for a service, as the `Authorization` field has it.
    pub(super) async fn token(
        &self,
        tickets: &Arc<Tickets>,
        service: &str,
        patience: Duration,
    ) -> Result<HeaderValue, KerberosError> {
        if self.unknown.read().get(service).is_some_and(|since| since.elapsed() < UNKNOWN_PAUSE) {
            return Err(KerberosError::NoServicePrincipalName(service.to_owned()));
        }
        // The library lets one at a time use a credential, even while it waits. So they wait here, where they hold no thread.
        let turn = timeout(patience, tickets.turn.clone().lock_owned()).await.map_err(|_| KerberosError::TimedOut)?;
        let work = {
            let (tickets, service) = (tickets.clone(), service.to_owned());
            move || {
                let _turn = turn;
                tickets.credential.token(&service)
            }
        };
        let made = match tickets.has(service) {
            true => self.desk.at_hand(patience, work).await,
            // By service: the silence of a server's domain is not that of its users'.
            false => self.desk.ask(service, patience, work).await,
        };
        if let Err(KerberosError::NoServicePrincipalName(_)) = made {
            self.unknown.write().insert(service.to_owned(), Instant::now());
        }
        let (token, lifetime) = made?;
        if !tickets.has(service) {
            tickets.services.write().insert(service.to_owned(), Instant::now() + usable(lifetime));
        }
        negotiate::authorization(&token).ok_or_else(|| KerberosError::Other("its token is too long".into()))
    }

    /// What a service does with a connection that somebody has signed in over.
    pub(super) fn habit(&self, of: &(String, Protocol)) -> Habit {
        self.habits.read().get(of).copied().unwrap_or_default()
    }

    pub(super) fn learned(&self, of: &(String, Protocol), habit: Habit) {
        if self.habit(of) != habit {
            self.habits.write().insert(of.clone(), habit);
        }
    }
}

impl Tickets {
    /// What keeps the connections signed in by them apart from all others.
    pub(super) fn number(&self) -> PinNumber {
        self.number
    }

    /// Whether there is a ticket for a service, so that a token takes no key distribution centre.
    pub(super) fn has(&self, service: &str) -> bool {
        self.services.read().get(service).is_some_and(|ends| Instant::now() < *ends)
    }

    /// Whether they were got a moment ago, so that others would be no better.
    pub(super) fn are_fresh(&self) -> bool {
        self.got.elapsed() < FRESH
    }
}

/// The edge's own, got by one request at a time: were it refused to many at once, the account would be locked.
fn own_credential(
    account: &str,
    refused: &Mutex<Option<(Instant, KerberosError)>>,
) -> Result<Credential, KerberosError> {
    let mut refused = refused.lock();
    if let Some((since, why)) = &*refused
        && since.elapsed() < OWN_ACCOUNT_PAUSE
    {
        return Err(why.clone());
    }
    let own = Credential::of_account(account);
    *refused = match &own {
        Err(error @ KerberosError::OwnAccount(_)) => Some((Instant::now(), error.clone())),
        Ok(_) | Err(_) => None,
    };
    own
}

/// How much of a ticket's lifetime it is used for.
fn usable(lifetime: Duration) -> Duration {
    lifetime.saturating_sub(BEFORE_THE_END.min(lifetime / 10))
}

struct UntilTheyEnd;

impl Expiry<Mandate, Found> for UntilTheyEnd {
    fn expire_after_create(&self, _: &Mandate, found: &Found, now: Instant) -> Option<Duration> {
        Some(match found {
            Ok(tickets) => tickets.ends.saturating_duration_since(now),
            Err(error) => pause(error),
        })
    }
}

impl By {
    fn counted(&self) -> TicketsBy {
        match self {
            By::Password(_) => TicketsBy::Password,
            By::Delegation(_) => TicketsBy::Delegation,
        }
    }
}

fn counted(error: &KerberosError) -> TicketsOutcome {
    match error {
        KerberosError::WrongPassword
        | KerberosError::UnknownAccount
        | KerberosError::NoPrincipal
        | KerberosError::PasswordExpired
        | KerberosError::AccountUnusable
        | KerberosError::NotForUser => TicketsOutcome::Refused,
        KerberosError::Away(_) | KerberosError::TimedOut => TicketsOutcome::Away,
        KerberosError::NoServicePrincipalName(_)
        | KerberosError::DelegationNotAllowed(_)
        | KerberosError::OwnAccount(_)
        | KerberosError::ClockSkew
        | KerberosError::Other(_) => TicketsOutcome::Failed,
    }
}

/// How long it is before a user's tickets are asked for again; nought: it may be otherwise at once.
fn pause(error: &KerberosError) -> Duration {
    match error {
        // Each attempt counts towards the account's lock-out, and ten in ten minutes are what Windows allows as it comes.
        KerberosError::WrongPassword => Duration::from_secs(10 * 60),
        KerberosError::UnknownAccount | KerberosError::PasswordExpired | KerberosError::AccountUnusable => {
            Duration::from_secs(60)
        }
        KerberosError::NoPrincipal
        | KerberosError::NoServicePrincipalName(_)
        | KerberosError::DelegationNotAllowed(_)
        | KerberosError::NotForUser
        | KerberosError::OwnAccount(_)
        | KerberosError::ClockSkew
        | KerberosError::Away(_)
        | KerberosError::TimedOut
        | KerberosError::Other(_) => Duration::ZERO,
    }
}

/// Tickets are not used to their very end: a request is on its way for a while, and clocks differ by up to five minutes.
const BEFORE_THE_END: Duration = Duration::from_secs(5 * 60);
/// How long the edge's own account rests after it was refused, so that it is not locked out.
const OWN_ACCOUNT_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long a service that nobody has as principal name is not asked for again.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(5);
/// So long a server that does not take somebody's ticket gets no other.
const FRESH: Duration = Duration::from_secs(60);

#[cfg(all(test, feature = "gssapi"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_is_counted_each_time_that_tickets_are_asked_for_and_not_when_they_are_known() {
        let metrics = Arc::new(Metrics::new());
        let mandates = Mandates::new(10, metrics.clone());
        let by = By::Password(Secret::new(Vec::new())); // which is wrong, without anybody to say so
        let mandate = mandates.mandate("ana@CONTOSO.COM", &by);
        for _ in 0..2 {
            let found = mandates.tickets(&mandate, &by, Duration::from_secs(20)).await;
            assert!(matches!(found, Err(KerberosError::WrongPassword)));
        }
        let counted: Vec<_> = metrics.sign_ins().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(counted, [(TicketsBy::Password, TicketsOutcome::Refused, 1)]);
        mandates.kept.run_pending_tasks().await;
        assert_eq!(mandates.len(), 1);
    }
}
