//! Where tickets are asked for: on threads that may wait, a few at a time, and not where nobody answers.
//!
//! The library waits for up to half a minute where a key distribution centre is mute. So whoever needs one waits no longer
//! than is asked for; after a silence a realm is tried again by one request in [`RETRY_AFTER`], and the others are told at
//! once. What needs no key distribution centre does not queue behind what does.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use super::KerberosError;
use crate::events::Event;

/// The threads, and which realms are silent.
pub struct Desk {
    at_hand: Arc<Semaphore>,
    /// By what is asked for: realms, of which there are as many as domains, and services, as many as servers.
    realms: Mutex<HashMap<String, Realm>>,
}

struct Realm {
    /// Those of one realm do not wait for a mute one's.
    asking: Arc<Semaphore>,
    /// If it is silent: when it is tried again.
    again_at: Option<Instant>,
}

impl Default for Desk {
    fn default() -> Self {
        Desk { at_hand: Arc::new(Semaphore::new(AT_HAND_MAX)), realms: Mutex::default() }
    }
}

impl Desk {
    /// Does what takes a key distribution centre of this realm, or of this service's.
    pub async fn ask<T: Send + 'static>(
        &self,
        realm: &str,
        patience: Duration,
        work: impl FnOnce() -> Result<T, KerberosError> + Send + 'static,
    ) -> Result<T, KerberosError> {
        let places = self.may_ask(realm)?;
        let place = timeout(patience, places.acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(KerberosError::TimedOut) }; // the realm may be well, and busy
        let asked = timeout(patience, on_a_thread(place, work)).await;
        let asked = asked.unwrap_or_else(|_| Err(KerberosError::Away("the time for an answer is over".into())));
        self.note(realm, asked.as_ref().err());
        asked
    }

    /// Does what needs no key distribution centre, but some time.
    pub async fn at_hand<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> Result<T, KerberosError> + Send + 'static,
    ) -> Result<T, KerberosError> {
        let done = async {
            match self.at_hand.clone().acquire_owned().await {
                Ok(place) => on_a_thread(place, work).await,
                Err(_) => Err(KerberosError::TimedOut),
            }
        };
        timeout(patience, done).await.unwrap_or(Err(KerberosError::TimedOut))
    }

    fn may_ask(&self, realm: &str) -> Result<Arc<Semaphore>, KerberosError> {
        let now = Instant::now();
        let mut realms = self.realms.lock();
        let new = || Realm { asking: Arc::new(Semaphore::new(ASKING_MAX)), again_at: None };
        let realm = realms.entry(realm.to_owned()).or_insert_with(new);
        match realm.again_at {
            Some(again_at) if now < again_at => {
                return Err(KerberosError::Away("it did not answer a moment ago".into()));
            }
            Some(_) => realm.again_at = Some(now + RETRY_AFTER), // this request tries, for all
            None => {}
        }
        Ok(realm.asking.clone())
    }

    fn note(&self, name: &str, error: Option<&KerberosError>) {
        let mut realms = self.realms.lock();
        let Some(realm) = realms.get_mut(name) else { return };
        if let Some(KerberosError::Away(why)) = error {
            if realm.again_at.replace(Instant::now() + RETRY_AFTER).is_none() {
                Event::KdcAway.report(format_args!("{name}: {why}"));
            }
        } else if realm.again_at.take().is_some() {
            Event::KdcBack.report(format_args!("{name} answers again"));
        }
    }
}

async fn on_a_thread<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, KerberosError> + Send + 'static,
) -> Result<T, KerberosError> {
    let done = spawn_blocking(move || {
        let _place = place; // even of a call that nobody waits for any more
        work()
    });
    done.await.unwrap_or_else(|_| Err(KerberosError::Other("it failed within".into())))
}

/// How soon a silent realm is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(3);
/// Calls that may wait for one realm at a time; each has a thread.
const ASKING_MAX: usize = 16;
/// Calls that do not wait, at a time.
const AT_HAND_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn away() -> Result<(), KerberosError> {
        Err(KerberosError::Away("connection refused".into()))
    }

    #[tokio::test]
    async fn a_silent_realm_is_not_asked_again_at_once_and_another_is() {
        let desk = Desk::default();
        assert_eq!(desk.ask("CONTOSO.COM", LONG, away).await, away());
        let asked = desk.ask("CONTOSO.COM", LONG, || -> Result<(), _> { panic!("asked") }).await;
        assert!(matches!(asked, Err(KerberosError::Away(_))), "{asked:?}");
        assert_eq!(desk.ask("FABRIKAM.COM", LONG, || Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn one_request_tries_a_silent_realm_again_and_all_are_served_when_it_answers() {
        let desk = Desk::default();
        let _ = desk.ask("CONTOSO.COM", LONG, away).await;
        desk.realms.lock().get_mut("CONTOSO.COM").expect("it was asked").again_at = Some(Instant::now());
        assert!(desk.may_ask("CONTOSO.COM").is_ok(), "it is time");
        assert!(desk.may_ask("CONTOSO.COM").is_err(), "one is enough");
        desk.note("CONTOSO.COM", Some(&KerberosError::WrongPassword)); // an answer, too
        assert!(desk.may_ask("CONTOSO.COM").is_ok() && desk.may_ask("CONTOSO.COM").is_ok());
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_they_would_and_what_is_at_hand_does_not_queue_behind() {
        let desk = Desk::default();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let mute = || {
            let held = held.clone();
            move || {
                let _ = held.lock().recv();
                Ok(())
            }
        };
        let waits = (0..ASKING_MAX).map(|_| desk.ask("CONTOSO.COM", Duration::from_millis(50), mute()));
        let waited = futures_util::future::join_all(waits).await;
        assert!(waited.iter().all(|it| matches!(it, Err(KerberosError::Away(_)))), "{waited:?}");
        assert_eq!(desk.realms.lock()["CONTOSO.COM"].asking.available_permits(), 0, "the threads still wait");
        assert_eq!(desk.at_hand(LONG, || Ok(7)).await, Ok(7));
        assert_eq!(desk.ask("FABRIKAM.COM", LONG, || Ok(7)).await, Ok(7));
        drop(release);
    }
}
