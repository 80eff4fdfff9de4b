//! The tickets that are kept, by mandate: whom the edge signs in for, and by what right.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use moka::{Expiry, future::Cache};
use parking_lot::{Mutex, RwLock};
use ring::rand::{SecureRandom, SystemRandom};

use super::{
    errand::{Habit, Mandate, Proof},
    pin::PinNumber,
};
use crate::{
    kerberos::{KerberosError, desk::Desk, library::Credential, negotiate},
    metrics::{Metrics, TicketsBy, TicketsOutcome},
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
    own_account: Mutex<Option<(Instant, KerberosError)>>,
    /// By service, of which there are as many as servers.
    habits: RwLock<HashMap<String, Habit>>,
}

/// Why a user has no tickets is kept, too: asking again and again for a wrong password's would lock the account.
type Found = Result<Arc<Tickets>, KerberosError>;

/// Somebody's tickets, by one mandate.
pub(super) struct Tickets {
    number: PinNumber,
    credential: Credential,
    realm: String,
    got: Instant,
    ends: Instant,
    /// The services that there are tickets for.
    services: RwLock<HashSet<String>>,
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
            own_account: Mutex::default(),
            habits: RwLock::default(),
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
        if let (By::Delegation(_), Some((since, why))) = (by, &*self.own_account.lock())
            && since.elapsed() < OWN_ACCOUNT_PAUSE
        {
            return Err(why.clone());
        }
        let principal = mandate.principal().to_owned();
        let realm = principal.rsplit_once('@').map_or("", |(_, realm)| realm).to_owned();
        let by_what = by.clone();
        let get = move || {
            let credential = match by_what {
                By::Password(password) => Credential::by_password(&principal, &password),
                By::Delegation(account) => Credential::by_delegation(&account, &principal),
            }?;
            Ok((credential.lifetime()?, credential))
        };
        let got = self.desk.ask(&realm, patience, get).await;
        self.metrics.tickets(by.counted(), got.as_ref().err().map_or(TicketsOutcome::Got, counted));
        match got {
            Ok((lifetime, credential)) => {
                let got = Instant::now();
                let ends = got + lifetime.saturating_sub(BEFORE_THE_END.min(lifetime / 10));
                let (number, services) = (PinNumber::next(), RwLock::default());
                Ok(Ok(Arc::new(Tickets { number, credential, realm, got, ends, services })))
            }
            Err(error @ KerberosError::OwnAccount(_)) => {
                *self.own_account.lock() = Some((Instant::now(), error.clone()));
                Err(error)
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
        let make = {
            let (tickets, service) = (tickets.clone(), service.to_owned());
            move || tickets.credential.token(&service)
        };
        let token = if tickets.has(service) {
            self.desk.at_hand(patience, make).await?
        } else {
            let token = self.desk.ask(&tickets.realm, patience, make).await?;
            tickets.services.write().insert(service.to_owned());
            token
        };
        negotiate::authorization(&token).ok_or_else(|| KerberosError::Other("its token is too long".into()))
    }

    /// What a service does with a connection that somebody has signed in over.
    pub(super) fn habit(&self, service: &str) -> Habit {
        self.habits.read().get(service).copied().unwrap_or_default()
    }

    pub(super) fn learned(&self, service: &str, habit: Habit) {
        if self.habit(service) != habit {
            self.habits.write().insert(service.to_owned(), habit);
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
        self.services.read().contains(service)
    }

    /// Whether they were got a moment ago, so that others would be no better.
    pub(super) fn are_fresh(&self) -> bool {
        self.got.elapsed() < FRESH
    }
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
