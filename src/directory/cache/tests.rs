#![allow(clippy::expect_used)] // a failing `expect` is a failing test

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::SystemTime,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};

use super::{books::Books, *};
use crate::{
    directory::{Changed, EntryId, Notice, TopologyReading, Unusable},
    routing::mailbox::Mailbox,
};

const DEADLINE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Knows whom it is told of, `both` as ambiguous, and `right` as everybody's password. What it answers is as old as the
/// question; and it answers only as often as `answers` has permits.
struct Fake {
    people: Mutex<HashMap<MailboxName, Entry>>,
    answers: Semaphore,
    /// Says at once that it cannot be reached.
    is_away: AtomicBool,
    /// Takes questions, and says after a while that it did not answer.
    is_mute: AtomicBool,
    questions: AtomicUsize,
}

#[async_trait]
impl Directory for Fake {
    async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
        Ok(TopologyReading::default())
    }

    async fn find(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
        let found = self.people.lock().get(name).cloned();
        self.answer().await?;
        if *name == bare("both") {
            return Err(DirectoryError::Ambiguous { name: name.clone(), dns: vec!["CN=a".into(), "CN=b".into()] });
        }
        Ok(found)
    }

    async fn changes(&self) -> Result<Changes, DirectoryError> {
        Ok(Changes::default())
    }

    async fn verify(&self, _: &Entry, password: &Secret) -> Result<Verdict, DirectoryError> {
        self.answer().await?;
        Ok(match password.expose() {
            b"right" => Verdict::Right,
            b"expired" => Verdict::Unusable(Unusable::PasswordExpired),
            password if password.starts_with(b"locked") => Verdict::Unusable(Unusable::AccountLocked),
            _ => Verdict::Wrong,
        })
    }
}

impl Fake {
    async fn answer(&self) -> Result<(), DirectoryError> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if self.is_away.load(Ordering::Relaxed) {
            return Err(DirectoryError::Unreachable { server: "fake".into(), source: "away".into() });
        }
        self.answers.acquire().await.expect("never closed").forget();
        if self.is_mute.load(Ordering::Relaxed) {
            return Err(DirectoryError::TimedOut { operation: "a question".into(), after: Duration::ZERO });
        }
        Ok(())
    }

    fn has(&self, names: &[&str], entry: &Entry) {
        self.people.lock().extend(names.iter().map(|name| (bare(name), entry.clone())));
    }
}

/// A cache before a [`Fake`], and what was told.
struct Cached {
    fake: Arc<Fake>,
    directory: Arc<CachedDirectory>,
    told: Arc<Mutex<Vec<Notice>>>,
}

impl Cached {
    fn with(answers: usize, settings: Settings) -> Self {
        let fake = Arc::new(Fake {
            people: Mutex::default(),
            answers: Semaphore::new(answers),
            is_away: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            questions: AtomicUsize::new(0),
        });
        fake.has(&["ana", "ana.almeida"], &ana());
        let told = Arc::<Mutex<Vec<Notice>>>::default();
        let tell = {
            let told = told.clone();
            Arc::new(move |notice| told.lock().push(notice))
        };
        let directory = Arc::new(CachedDirectory::new(fake.clone(), settings, tell, Handle::current()));
        Cached { fake, directory, told }
    }

    fn new(answers: usize) -> Self {
        Self::with(answers, settings())
    }

    /// Answers every question at once.
    fn answering() -> Self {
        Self::new(Semaphore::MAX_PERMITS)
    }

    async fn find(&self, name: &str) -> Lookup {
        (*self.ask(name).await.expect("an answer")).clone()
    }

    async fn ask(&self, name: &str) -> Result<Arc<Lookup>, Arc<DirectoryError>> {
        timeout(DEADLINE, self.directory.find(&bare(name))).await.expect("in time")
    }

    /// Asks while the test goes on; has asked when this returns.
    async fn begin(&self, name: &'static str) -> JoinHandle<Lookup> {
        let before = self.fake.questions.load(Ordering::Relaxed);
        let directory = self.directory.clone();
        let asking = tokio::spawn(async move { (*directory.find(&bare(name)).await.expect("an answer")).clone() });
        until(|| self.fake.questions.load(Ordering::Relaxed) > before).await;
        asking
    }

    /// Whether it is right.
    async fn verify(&self, entry: &Entry, password: &str) -> Result<bool, Arc<DirectoryError>> {
        self.judge(entry, password).await.map(Verdict::is_right)
    }

    async fn judge(&self, entry: &Entry, password: &str) -> Result<Verdict, Arc<DirectoryError>> {
        let password = Secret::new(password.as_bytes());
        timeout(DEADLINE, self.directory.verify(entry, &password)).await.expect("in time")
    }

    fn pass(&self, time: Duration) {
        self.directory.clock.pass(time);
    }

    fn changed(&self, entry: &Entry, names: &[&str]) {
        self.fake.has(names, entry);
        let changed = Changed { entry: entry.clone(), names: names.iter().map(|name| bare(name)).collect() };
        self.directory.apply(&Changes { people: vec![changed], ..Changes::default() });
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(self.directory.counters()).load(Ordering::Relaxed)
    }

    fn searches(&self) -> u64 {
        self.count(|counters| &counters.searches)
    }

    fn binds(&self) -> u64 {
        self.count(|counters| &counters.binds)
    }
}

fn settings() -> Settings {
    Settings {
        max_entries: 1000,
        found_lifetime: HOUR,
        not_found_lifetime: Duration::from_millis(50),
        max_proofs: 1000,
        proof_lifetime: Duration::from_secs(600),
        disproof_lifetime: Duration::from_millis(50),
        stale_lifetime: 24 * HOUR,
        not_found_max: 100,
        wrong_passwords_max: 3,
        wrong_passwords_window: 10 * MINUTE,
    }
}

/// The one for whom unknown names stay unknown.
fn settings_for_a_long_time() -> Settings {
    Settings { not_found_lifetime: HOUR, ..settings() }
}

fn person(number: u8, name: &str, server: Option<&str>) -> Entry {
    Entry {
        id: EntryId([number; 16]),
        dn: format!("CN={name}"),
        name: name.into(),
        mailbox: server.map(|server| Mailbox {
            key: u64::from(number),
            home_server: server.into(),
            home_database: Some(format!("cn=database of {server}").into()),
        }),
        master_account: None,
        principal: None,
    }
}

fn ana() -> Entry {
    person(1, "ana", Some("mbx-lis"))
}

fn ana_in_porto() -> Entry {
    person(1, "ana", Some("mbx-opo"))
}

fn bruno() -> Entry {
    person(2, "bruno", Some("mbx-opo"))
}

fn bare(name: &str) -> MailboxName {
    MailboxName::Bare(name.into())
}

/// Waits until the other tasks have brought something about.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, waiting).await.expect("it comes about");
}

/// Lets every task that could do something do it, on a runtime of one thread.
async fn let_others_work() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Repeats an action until the counter moves: how a test waits for a lifetime to pass without guessing its length.
async fn until_it_rises<F: Future>(counter: &AtomicU64, mut action: impl FnMut() -> F) {
    let before = counter.load(Ordering::Relaxed);
    let rising = async {
        while counter.load(Ordering::Relaxed) == before {
            action().await;
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, rising).await.expect("the lifetime passes");
}

mod searching {
    use super::*;

    #[tokio::test]
    async fn a_found_name_is_searched_once_and_then_hit() {
        let cached = Cached::new(1);
        for _ in 0..3 {
            assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
        }
        let of = |counter: fn(&Counters) -> &AtomicU64| cached.count(counter);
        assert_eq!((cached.searches(), of(|it| &it.misses), of(|it| &it.hits)), (1, 1, 2));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ten_thousand_who_want_one_cold_name_share_one_search() {
        let cached = Cached::new(0);
        let finds: Vec<_> = (0..10_000)
            .map(|_| {
                let directory = cached.directory.clone();
                tokio::spawn(async move { directory.find(&bare("ana")).await })
            })
            .collect();
        // The search ends amid the rush: some wait for it, some come when it has ended.
        until(|| cached.count(|it| &it.misses) > 5000).await;
        cached.fake.answers.add_permits(Semaphore::MAX_PERMITS);
        for find in finds {
            let lookup = timeout(DEADLINE, find).await.expect("in time").expect("no panic").expect("an answer");
            assert_eq!(*lookup, Lookup::Found(ana()));
        }
        assert_eq!(cached.searches(), 1);
    }

    #[tokio::test]
    async fn a_search_whose_client_went_away_goes_on_for_the_next_who_waits() {
        let cached = Cached::new(0);
        let first = cached.begin("ana").await;
        let directory = cached.directory.clone();
        let second = tokio::spawn(async move { directory.find(&bare("ana")).await });
        until(|| cached.count(|it| &it.misses) == 2).await;
        first.abort();
        cached.fake.answers.add_permits(1);
        let lookup = timeout(DEADLINE, second).await.expect("in time").expect("no panic").expect("an answer");
        assert_eq!(*lookup, Lookup::Found(ana()));
        assert_eq!(cached.searches(), 1);
    }

    #[tokio::test]
    async fn a_search_that_nobody_waits_for_is_given_up_and_leaves_nothing() {
        let cached = Cached::new(0);
        for _ in 0..3 {
            cached.begin("ana").await.abort();
        }
        let_others_work().await;
        cached.fake.answers.add_permits(1);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
        assert_eq!(cached.searches(), 4);
        assert_eq!(cached.fake.answers.available_permits(), 0, "the first three took no answer");
    }

    #[tokio::test]
    async fn unknown_and_ambiguous_names_are_answers_that_are_soon_asked_for_again() {
        let cached = Cached::answering();
        for (name, answer) in
            [("nobody", Lookup::NotFound), ("both", Lookup::Ambiguous(vec!["CN=a".into(), "CN=b".into()]))]
        {
            assert_eq!(cached.find(name).await, answer);
            until_it_rises(&cached.directory.counters().searches, || cached.find(name)).await;
        }
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let cached = Cached::answering();
        cached.fake.is_away.store(true, Ordering::Relaxed);
        cached.ask("ana").await.expect_err("the directory is away");
        cached.verify(&ana(), "right").await.expect_err("the directory is away");
        cached.fake.is_away.store(false, Ordering::Relaxed);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
        assert!(cached.verify(&ana(), "right").await.expect("an answer"));
    }

    #[tokio::test]
    async fn a_flood_of_made_up_names_displaces_nobody() {
        let cached = Cached::with(Semaphore::MAX_PERMITS, settings_for_a_long_time());
        let known: Vec<_> = (0..200).map(|number| format!("known-{number}")).collect();
        for (name, number) in known.iter().zip(0..) {
            cached.fake.has(&[name], &person(number, name, Some("mbx-lis")));
            cached.find(name).await;
        }
        for number in 0..100_000 {
            assert_eq!(cached.find(&format!("made-up-{number}")).await, Lookup::NotFound);
        }
        let searches = cached.searches();
        for name in &known {
            assert!(matches!(cached.find(name).await, Lookup::Found(_)), "{name}");
        }
        assert_eq!(cached.searches(), searches, "all were still known");
        let kept = cached.directory.people.unknown_names();
        assert!(kept <= settings().not_found_max, "{kept} made-up names are kept");
    }

    #[tokio::test]
    async fn abandoned_searches_of_made_up_names_do_not_pile_up() {
        let cached = Cached::new(0);
        for number in 0..10_000 {
            let name = bare(&format!("made-up-{number}"));
            assert!(cached.directory.find(&name).now_or_never().is_none());
            if number % 100 == 0 {
                let_others_work().await;
            }
        }
        let kept = cached.directory.people.searches_noted();
        assert!(kept <= 1000, "{kept} are noted");
    }

    #[tokio::test]
    async fn mailboxes_of_one_database_and_names_of_one_person_share_what_they_have_in_common() {
        let cached = Cached::answering();
        cached.fake.has(&["aurora"], &person(3, "aurora", Some("mbx-lis")));
        let [ana, almeida] = [cached.ask("ana").await, cached.ask("ana.almeida").await].map(|it| it.expect("found"));
        assert!(Arc::ptr_eq(&ana, &almeida));
        let homes = [ana, cached.ask("aurora").await.expect("found")].map(|lookup| {
            let Lookup::Found(Entry { mailbox: Some(it), .. }) = &*lookup else { panic!("a mailbox") };
            (it.home_server.clone(), it.home_database.clone())
        });
        let [(server, Some(database)), (other_server, Some(other_database))] = homes else { panic!("databases") };
        assert!(Arc::ptr_eq(&server, &other_server) && Arc::ptr_eq(&database, &other_database));
    }
}

mod lifetimes {
    use super::*;

    #[tokio::test]
    async fn a_busy_name_is_searched_again_in_time_once_and_nobody_waits() {
        let cached = Cached::new(1);
        cached.find("ana").await;
        cached.pass(HOUR / 2);
        cached.find("ana").await;
        let_others_work().await;
        assert_eq!(cached.searches(), 1, "half of its lifetime is no reason to search");

        cached.fake.has(&["ana"], &ana_in_porto());
        cached.pass(HOUR / 3);
        for _ in 0..100 {
            assert_eq!(cached.find("ana").await, Lookup::Found(ana()), "what is known serves until there is more");
            tokio::task::yield_now().await;
        }
        assert_eq!((cached.searches(), cached.count(|it| &it.refreshes)), (2, 1));

        cached.fake.answers.add_permits(1);
        let_others_work().await;
        cached.pass(HOUR / 2);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana_in_porto()));
        let_others_work().await;
        assert_eq!((cached.searches(), cached.count(|it| &it.refreshes)), (2, 1), "it is fresh again");
        assert_eq!(cached.count(|it| &it.misses), 1);
    }

    #[tokio::test]
    async fn after_its_lifetime_a_name_waits_for_a_new_search() {
        let cached = Cached::new(1);
        cached.find("ana").await;
        cached.fake.has(&["ana"], &ana_in_porto());
        cached.pass(HOUR);
        let waits = cached.begin("ana").await;
        cached.fake.answers.add_permits(1);
        assert_eq!(waits.await.expect("no panic"), Lookup::Found(ana_in_porto()));
        assert_eq!(cached.count(|it| &it.stale_answers), 0);
    }

    #[tokio::test]
    async fn a_name_that_is_gone_is_unknown_after_its_lifetime() {
        let cached = Cached::answering();
        cached.find("ana").await;
        cached.fake.people.lock().clear();
        cached.pass(HOUR);
        assert_eq!(cached.find("ana").await, Lookup::NotFound);
        cached.fake.is_away.store(true, Ordering::Relaxed);
        until_it_rises(&cached.directory.counters().searches, || cached.ask("ana")).await;
        cached.ask("ana").await.expect_err("what was known before is forgotten");
    }

    #[tokio::test]
    async fn while_the_directory_is_away_what_was_known_serves_for_so_long_and_no_longer() {
        let cached = Cached::answering();
        cached.find("ana").await;
        cached.fake.is_away.store(true, Ordering::Relaxed);
        cached.pass(HOUR);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
        cached.ask("bruno").await.expect_err("nobody knew him before");
        cached.pass(22 * HOUR);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
        assert_eq!(cached.count(|it| &it.stale_answers), 2);
        cached.pass(HOUR);
        cached.ask("ana").await.expect_err("it is too old");
        cached.fake.is_away.store(false, Ordering::Relaxed);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
    }

    #[tokio::test]
    async fn while_the_directory_is_away_it_is_asked_about_a_name_once_a_second_and_nobody_waits_again() {
        let cached = Cached::answering();
        cached.find("ana").await;
        cached.pass(2 * HOUR);
        cached.fake.is_away.store(true, Ordering::Relaxed);
        let mut attempts = vec![];
        for _ in 0..5 {
            let before = cached.searches();
            for _ in 0..100 {
                assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
                let_others_work().await;
            }
            attempts.push(cached.searches() - before);
            cached.pass(Duration::from_secs(1));
        }
        assert_eq!(attempts, [1; 5]);
        assert_eq!(cached.count(|it| &it.misses), 2, "the first that found it away, and the very first");

        // It is there again, but slow; nobody knows that, and nobody waits.
        cached.fake.is_away.store(false, Ordering::Relaxed);
        let permits = cached.fake.answers.forget_permits(Semaphore::MAX_PERMITS);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
        let_others_work().await;
        cached.fake.answers.add_permits(permits);
        let_others_work().await;
        let hits = cached.count(|it| &it.hits);
        cached.find("ana").await;
        assert_eq!(cached.count(|it| &it.hits), hits + 1, "it is fresh again");
    }

    #[tokio::test]
    async fn when_another_name_was_answered_one_that_failed_waits_again() {
        let cached = Cached::answering();
        cached.find("ana").await;
        cached.pass(2 * HOUR);
        cached.fake.is_away.store(true, Ordering::Relaxed);
        cached.find("ana").await;
        cached.fake.is_away.store(false, Ordering::Relaxed);
        cached.fake.has(&["ana"], &ana_in_porto());
        cached.find("nobody").await;
        cached.pass(Duration::from_secs(1));
        assert_eq!(cached.find("ana").await, Lookup::Found(ana_in_porto()));
    }

    #[tokio::test]
    async fn a_directory_that_says_nothing_makes_nobody_wait_for_long() {
        let cached = Cached::new(1);
        cached.find("ana").await;
        cached.fake.has(&["ana"], &ana_in_porto());
        cached.pass(HOUR);
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()), "after a second's wait");
        let again = timeout(Duration::from_millis(500), cached.find("ana")).await.expect("at once");
        assert_eq!(again, Lookup::Found(ana()));
        assert_eq!(cached.count(|it| &it.stale_answers), 2);
        assert_eq!(cached.searches(), 2);
        cached.fake.answers.add_permits(1);
        let_others_work().await;
        assert_eq!(cached.find("ana").await, Lookup::Found(ana_in_porto()), "the search went on by itself");
        assert_eq!(cached.searches(), 2);
    }

    #[tokio::test]
    async fn searches_that_nobody_waits_for_are_few_at_a_time() {
        let cached = Cached::answering();
        let names: Vec<_> = (0..100).map(|number| format!("known-{number}")).collect();
        for (name, number) in names.iter().zip(0..) {
            cached.fake.has(&[name], &person(number, name, None));
            cached.find(name).await;
        }
        let permits = cached.fake.answers.forget_permits(Semaphore::MAX_PERMITS);
        cached.pass(HOUR / 5 * 4);
        for name in &names {
            assert!(matches!(cached.find(name).await, Lookup::Found(_)));
        }
        assert_eq!(cached.count(|it| &it.refreshes), 16);
        cached.fake.answers.add_permits(permits);
        until(|| cached.directory.people.refreshes_free() == 16).await;
        for name in &names[50..60] {
            cached.find(name).await;
        }
        assert_eq!(cached.count(|it| &it.refreshes), 26);
    }

    /// The load on the directory that a steady thousand requests a second cause over 100,000 mailboxes; here a
    /// hundredth of both; the whole by `--ignored`.
    #[tokio::test]
    async fn a_steady_load_searches_each_mailbox_once_in_three_quarters_of_the_lifetime() {
        let (searches_per_second, waited) = steady_load(1000, 10).await;
        assert!((0.30..0.38).contains(&searches_per_second), "{searches_per_second} of 10 requests a second");
        assert!(waited < 0.0002, "{waited} of the requests waited");
    }

    #[tokio::test]
    #[ignore = "some minutes; prints a figure of the README"]
    async fn a_steady_thousand_requests_a_second_over_a_hundred_thousand_mailboxes() {
        let (searches_per_second, waited) = steady_load(100_000, 1000).await;
        println!("{searches_per_second:.2} searches/s; {:.4} % of the requests waited", waited * 100.0);
    }

    /// Requests come at random, at a steady rate. In the first hour the mailboxes come into use one after the other,
    /// so that they are not all searched again at the same time; the next two hours are measured. Gives searches per
    /// second, and the part of the requests that waited for one.
    async fn steady_load(mailboxes: u32, requests_per_second: u32) -> (f64, f64) {
        let settings = Settings { max_entries: u64::from(mailboxes) * 2, ..settings() };
        let cached = Cached::with(Semaphore::MAX_PERMITS, settings);
        let names: Vec<_> = (0..mailboxes).map(|number| bare(&format!("mailbox-{number}"))).collect();
        for (name, number) in names.iter().zip(0_u128..) {
            let entry = Entry { id: EntryId(number.to_be_bytes()), ..person(0, "somebody", Some("mbx-lis")) };
            cached.fake.people.lock().insert(name.clone(), entry);
        }
        let mut chance = fastrand::Rng::with_seed(4);
        let an_hour = requests_per_second as usize * 3600;
        let mut before = (0, 0);
        for request in 0..3 * an_hour {
            if request == an_hour {
                before = (cached.searches(), cached.count(|it| &it.misses));
            }
            let in_use = (names.len() * (request + 1)).div_ceil(an_hour / 4 * 3).min(names.len());
            let name = &names[chance.usize(..in_use)];
            cached.directory.find(name).await.expect("an answer");
            tokio::task::yield_now().await;
            cached.pass(Duration::from_secs(1) / requests_per_second);
        }
        #[allow(clippy::cast_precision_loss)] // small numbers
        let per = |count: u64, whole: f64| count as f64 / whole;
        let (searches, waited) = (cached.searches() - before.0, cached.count(|it| &it.misses) - before.1);
        let seconds = 2.0 * HOUR.as_secs_f64();
        (per(searches, seconds), per(waited, seconds * f64::from(requests_per_second)))
    }
}

mod changing {
    use super::*;

    #[tokio::test]
    async fn a_moved_mailbox_is_followed_under_all_its_names_at_once_and_told() {
        let cached = Cached::answering();
        cached.find("ana").await;
        cached.find("ana.almeida").await;
        cached.changed(&ana_in_porto(), &["ana", "ana.almeida"]);
        for name in ["ana", "ana.almeida"] {
            assert_eq!(cached.find(name).await, Lookup::Found(ana_in_porto()));
        }
        let (from, to) = (ana().mailbox, ana_in_porto().mailbox);
        assert_eq!(*cached.told.lock(), [Notice::MailboxMoved { name: "ana".into(), from, to }]);
        assert_eq!((cached.searches(), cached.count(|it| &it.moves)), (2, 1));
    }

    #[tokio::test]
    async fn another_database_is_a_move_and_another_dn_is_none() {
        let cached = Cached::answering();
        cached.find("ana").await;
        let renamed = Entry { dn: "CN=ana almeida".into(), ..ana() };
        cached.changed(&renamed, &["ana"]);
        assert_eq!(cached.find("ana").await, Lookup::Found(renamed.clone()));
        assert_eq!(cached.count(|it| &it.moves), 0);
        let mailbox = renamed.mailbox.clone().map(|it| Mailbox { home_database: Some("cn=other".into()), ..it });
        cached.changed(&Entry { mailbox, ..renamed.clone() }, &["ana"]);
        cached.changed(&Entry { mailbox: None, ..renamed }, &["ana"]);
        assert_eq!(cached.count(|it| &it.moves), 2);
    }

    #[tokio::test]
    async fn a_move_that_a_search_finds_is_told_too() {
        let cached = Cached::answering();
        cached.find("ana").await;
        cached.fake.has(&["ana"], &ana_in_porto());
        cached.pass(HOUR);
        cached.find("ana").await;
        assert_eq!(cached.told.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_new_person_is_found_although_the_name_was_unknown_or_ambiguous_just_now() {
        let cached = Cached::with(Semaphore::MAX_PERMITS, settings_for_a_long_time());
        assert_eq!(cached.find("bruno").await, Lookup::NotFound);
        cached.changed(&bruno(), &["bruno"]);
        assert_eq!(cached.find("bruno").await, Lookup::Found(bruno()));
        cached.find("both").await;
        let searches = cached.searches();
        cached.changed(&bruno(), &["bruno", "both"]);
        cached.find("both").await;
        assert_eq!(cached.searches(), searches + 1);
    }

    #[tokio::test]
    async fn a_name_that_has_changed_hands_is_asked_for_again() {
        let cached = Cached::answering();
        for name in ["ana", "ana.almeida"] {
            cached.find(name).await;
        }
        cached.changed(&bruno(), &["bruno", "ana.almeida"]);
        assert_eq!(cached.find("ana.almeida").await, Lookup::Found(bruno()));
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()));
        assert_eq!(cached.searches(), 3);
    }

    /// A search begins, a change comes, and then the search's answer, which is older.
    async fn overtaken(known_as: Option<&str>, asked: &'static str, change: &Entry, names: &[&str]) -> Cached {
        let cached = Cached::with(0, settings_for_a_long_time());
        if let Some(name) = known_as {
            cached.fake.answers.add_permits(1);
            cached.find(name).await;
        }
        let asking = cached.begin(asked).await;
        cached.changed(change, names);
        cached.fake.answers.add_permits(Semaphore::MAX_PERMITS);
        let answer = timeout(DEADLINE, asking).await.expect("in time").expect("no panic");
        assert_eq!(answer, Lookup::Found(change.clone()));
        assert_eq!(cached.find(asked).await, Lookup::Found(change.clone()));
        cached
    }

    #[tokio::test]
    async fn a_change_of_somebody_known_outlasts_a_search_that_began_before() {
        let cached = overtaken(Some("ana.almeida"), "ana", &ana_in_porto(), &["ana", "ana.almeida"]).await;
        assert_eq!(cached.find("ana.almeida").await, Lookup::Found(ana_in_porto()));
        assert_eq!(cached.count(|it| &it.moves), 1);
    }

    #[tokio::test]
    async fn a_change_of_somebody_yet_unknown_outlasts_a_search_that_began_before() {
        overtaken(None, "ana", &ana_in_porto(), &["ana"]).await;
    }

    #[tokio::test]
    async fn a_change_outlasts_a_search_by_a_name_that_it_does_not_list() {
        let cached = Cached::new(0);
        let asking = cached.begin("ana.almeida").await;
        cached.fake.has(&["ana.almeida"], &ana_in_porto());
        cached.changed(&ana_in_porto(), &["ana"]);
        cached.fake.answers.add_permits(2);
        assert_eq!(asking.await.expect("no panic"), Lookup::Found(ana_in_porto()));
        assert_eq!(cached.searches(), 2, "it asked once more");
    }

    #[tokio::test]
    async fn a_new_persons_name_is_not_unknown_because_a_search_that_began_before_said_so() {
        overtaken(None, "bruno", &bruno(), &["bruno"]).await;
    }

    #[tokio::test]
    async fn a_search_that_is_overtaken_again_and_again_answers_and_is_not_kept() {
        let cached = Cached::new(0);
        let asking = cached.begin("bruno").await;
        for home in 0..3 {
            let before = cached.fake.questions.load(Ordering::Relaxed);
            cached.changed(&person(2, "bruno", Some(&format!("mbx-{home}"))), &["bruno"]);
            cached.fake.answers.add_permits(1);
            until(|| asking.is_finished() || cached.fake.questions.load(Ordering::Relaxed) > before).await;
        }
        assert_eq!(asking.await.expect("no panic"), Lookup::Found(person(2, "bruno", Some("mbx-1"))));
        cached.fake.answers.add_permits(1);
        assert_eq!(cached.find("bruno").await, Lookup::Found(person(2, "bruno", Some("mbx-2"))));
        assert_eq!(cached.searches(), 4);
    }

    #[test]
    fn an_older_search_by_another_name_does_not_undo_a_newer_one() {
        let (mut books, clock) = (Books::default(), Clock::new());
        let older = clock.now();
        clock.pass(MINUTE);
        let (known, _) = books.learn(ana_in_porto(), clock.now());
        let (same, moved) = books.learn(ana(), older);
        assert!(Arc::ptr_eq(&known, &same));
        assert_eq!((moved, (**known.lookup.load()).clone()), (None, Lookup::Found(ana_in_porto())));
    }

    #[tokio::test]
    async fn when_changes_may_have_been_missed_everybody_is_served_and_searched_again_once() {
        let cached = Cached::answering();
        cached.find("ana").await;
        let permits = cached.fake.answers.forget_permits(Semaphore::MAX_PERMITS);
        cached.fake.has(&["ana"], &ana_in_porto());
        cached.directory.apply(&Changes { may_have_missed: true, ..Changes::default() });
        assert_eq!(cached.find("ana").await, Lookup::Found(ana()), "nobody waits");
        let_others_work().await;
        cached.fake.answers.add_permits(permits);
        let_others_work().await;
        for _ in 0..10 {
            assert_eq!(cached.find("ana").await, Lookup::Found(ana_in_porto()));
            let_others_work().await;
        }
        assert_eq!(cached.searches(), 2);
    }

    #[tokio::test]
    async fn a_search_that_began_before_changes_were_missed_is_made_again() {
        let cached = Cached::new(0);
        let asking = cached.begin("ana").await;
        cached.directory.apply(&Changes { may_have_missed: true, ..Changes::default() });
        cached.fake.answers.add_permits(2);
        asking.await.expect("no panic");
        cached.find("ana").await;
        let_others_work().await;
        assert_eq!(cached.count(|it| &it.refreshes), 1);
    }
}

mod remembering {
    use super::*;

    fn later(cached: &Cached, time: Duration) -> Vec<Remembered> {
        let mut people = cached.directory.remembered();
        for person in &mut people {
            person.read_at -= time;
        }
        people
    }

    #[tokio::test]
    async fn who_is_known_is_known_after_a_restart_under_the_same_names() {
        let cached = Cached::answering();
        for name in ["ana", "ana.almeida", "nobody", "both"] {
            cached.find(name).await;
        }
        let people = cached.directory.remembered();
        let mut names: Vec<_> = people.iter().flat_map(|person| &person.names).collect();
        names.sort();
        assert_eq!(names, [&bare("ana"), &bare("ana.almeida")]);
        assert!(people.iter().all(|person| person.entry == ana()));

        let restarted = Cached::answering();
        restarted.directory.restore(people);
        restarted.fake.is_away.store(true, Ordering::Relaxed);
        for name in ["ana", "ana.almeida"] {
            assert_eq!(restarted.find(name).await, Lookup::Found(ana()));
        }
        assert_eq!(restarted.count(|it| &it.hits), 2);
    }

    #[tokio::test]
    async fn who_was_restored_is_served_and_searched_again_as_changes_were_missed() {
        let cached = Cached::answering();
        cached.find("ana").await;
        let restarted = Cached::answering();
        restarted.directory.restore(cached.directory.remembered());
        restarted.fake.has(&["ana"], &ana_in_porto());
        assert_eq!(restarted.find("ana").await, Lookup::Found(ana()));
        let_others_work().await;
        assert_eq!(restarted.find("ana").await, Lookup::Found(ana_in_porto()));
        assert_eq!(restarted.told.lock().len(), 1, "the move is told");
    }

    #[tokio::test]
    async fn who_was_restored_is_as_old_as_when_it_was_read() {
        let cached = Cached::answering();
        cached.find("ana").await;
        let restarted = Cached::answering();
        restarted.directory.restore(later(&cached, 2 * HOUR));
        restarted.fake.has(&["ana"], &ana_in_porto());
        assert_eq!(restarted.find("ana").await, Lookup::Found(ana_in_porto()), "it waits for a new search");

        let restarted = Cached::answering();
        restarted.directory.restore(later(&cached, 23 * HOUR));
        restarted.fake.is_away.store(true, Ordering::Relaxed);
        assert_eq!(restarted.find("ana").await, Lookup::Found(ana()));
        restarted.pass(HOUR);
        restarted.ask("ana").await.expect_err("it is too old");

        let restarted = Cached::answering();
        restarted.directory.restore(later(&cached, 25 * HOUR));
        restarted.fake.is_away.store(true, Ordering::Relaxed);
        restarted.ask("ana").await.expect_err("it is too old");
    }

    #[tokio::test]
    async fn a_person_read_in_the_future_was_read_now() {
        let restarted = Cached::answering();
        restarted.fake.is_away.store(true, Ordering::Relaxed);
        let read_at = SystemTime::now() + 1000 * HOUR;
        restarted.directory.restore(vec![Remembered { names: vec![bare("ana")], entry: ana(), read_at }]);
        assert_eq!(restarted.find("ana").await, Lookup::Found(ana()));
        restarted.pass(24 * HOUR);
        restarted.ask("ana").await.expect_err("it is too old");
    }

    #[tokio::test]
    async fn what_is_known_already_is_not_undone() {
        let cached = Cached::answering();
        cached.find("ana").await;
        let people = later(&cached, HOUR / 2);
        let restarted = Cached::answering();
        restarted.fake.has(&["ana", "ana.almeida"], &ana_in_porto());
        restarted.find("ana").await;
        restarted.directory.restore(people);
        assert_eq!(restarted.find("ana").await, Lookup::Found(ana_in_porto()));
    }

    #[tokio::test]
    async fn who_is_too_old_is_not_remembered() {
        let cached = Cached::answering();
        cached.find("ana").await;
        cached.pass(24 * HOUR);
        assert_eq!(cached.directory.remembered(), []);
    }
}

mod verifying {
    use super::*;

    #[tokio::test]
    async fn a_right_password_is_believed_and_a_wrong_one_soon_asked_about_again() {
        let cached = Cached::answering();
        for _ in 0..3 {
            assert!(cached.verify(&ana(), "right").await.expect("an answer"));
        }
        assert_eq!(cached.binds(), 1);
        assert!(!cached.verify(&ana(), "wrong").await.expect("an answer"));
        let (ana, wrong) = (ana(), Secret::new(*b"wrong"));
        until_it_rises(&cached.directory.counters().binds, || cached.directory.verify(&ana, &wrong)).await;
    }

    #[tokio::test]
    async fn a_locked_account_is_left_alone_for_a_while_and_its_owner_goes_on() {
        let cached = Cached::answering();
        let locked = Verdict::Unusable(Unusable::AccountLocked);
        assert!(cached.verify(&ana(), "right").await.expect("an answer"));
        for guess in 0..5 {
            assert_eq!(cached.judge(&ana(), &format!("locked {guess}")).await.expect("an answer"), locked);
        }
        assert_eq!(cached.judge(&ana(), "wrong").await.expect("an answer"), locked, "nobody has looked at it");
        assert_eq!(cached.binds(), 2);
        assert_eq!(
            (cached.directory.passwords.accounts_noted(), &**cached.told.lock()),
            (0, &[][..]),
            "no more guesses"
        );
        assert!(cached.verify(&ana(), "right").await.expect("an answer"), "what is known as right is believed");
        assert!(cached.verify(&bruno(), "right").await.expect("an answer"), "others are not concerned");
        let (ana, guess) = (ana(), Secret::new(*b"locked 0"));
        until_it_rises(&cached.directory.counters().binds, || cached.directory.verify(&ana, &guess)).await;
    }

    #[tokio::test]
    async fn the_right_password_of_an_account_that_is_unusable_is_no_guess() {
        let cached = Cached::answering();
        for _ in 0..9 {
            let verdict = cached.judge(&ana(), "expired").await.expect("an answer");
            assert_eq!(verdict, Verdict::Unusable(Unusable::PasswordExpired));
        }
        assert_eq!((cached.binds(), cached.directory.passwords.accounts_noted()), (1, 0));
        let (ana, expired) = (ana(), Secret::new(*b"expired"));
        until_it_rises(&cached.directory.counters().binds, || cached.directory.verify(&ana, &expired)).await;
        assert_eq!(*cached.told.lock(), []);
    }

    #[tokio::test]
    async fn a_password_proves_one_person_only() {
        let cached = Cached::answering();
        let hash = |dn: &str, password: &str| {
            let entry = Entry { dn: dn.into(), ..ana() };
            cached.directory.passwords.credential_hash(&entry, &Secret::new(password.as_bytes()))
        };
        assert_eq!(hash("CN=ana", "right"), hash("CN=ana", "right"));
        assert_ne!(hash("CN=ana", "right"), hash("CN=bruno", "right"));
        assert_ne!(hash("CN=ana", "right"), hash("CN=anar", "ight"));
    }

    #[tokio::test]
    async fn an_empty_password_is_wrong_without_asking() {
        let cached = Cached::new(0);
        assert!(!cached.verify(&ana(), "").await.expect("an answer"));
        assert_eq!(cached.binds(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_hundred_guesses_at_once_are_three_questions() {
        let cached = Cached::new(0);
        let guesses: Vec<_> = (0..200)
            .map(|guess| {
                let directory = cached.directory.clone();
                let password = Secret::new(format!("guess {guess}").into_bytes());
                tokio::spawn(async move { directory.verify(&ana(), &password).await })
            })
            .collect();
        until(|| cached.count(|it| &it.passwords_not_asked) == 197).await;
        cached.fake.answers.add_permits(Semaphore::MAX_PERMITS);
        for guess in guesses {
            let verdict = timeout(DEADLINE, guess).await.expect("in time").expect("no panic");
            assert_eq!(verdict.expect("an answer"), Verdict::Wrong);
        }
        assert_eq!(cached.binds(), 3);
        assert_eq!(*cached.told.lock(), [Notice::WrongPasswords { name: "ana".into(), pause: 10 * MINUTE }]);
    }

    #[tokio::test]
    async fn after_too_many_wrong_passwords_only_what_is_known_as_right_is_right_until_the_pause_ends() {
        let cached = Cached::answering();
        assert!(cached.verify(&ana(), "right").await.expect("an answer"));
        for guess in ["1", "2", "3", "4", "5"] {
            assert!(!cached.verify(&ana(), guess).await.expect("an answer"));
            cached.pass(2 * MINUTE);
        }
        assert_eq!((cached.binds(), cached.count(|it| &it.passwords_not_asked)), (4, 2));
        assert!(cached.verify(&ana(), "right").await.expect("an answer"));
        assert!(cached.verify(&bruno(), "right").await.expect("an answer"), "others are not concerned");
        assert_eq!(cached.told.lock().len(), 1);

        // Four minutes after the third; Active Directory counts from the last wrong one, and so do we.
        cached.pass(3 * MINUTE);
        cached.verify(&ana(), "6").await.expect("an answer");
        assert_eq!(cached.binds(), 5);
        cached.pass(MINUTE);
        for guess in ["7", "8", "9", "10"] {
            assert!(!cached.verify(&ana(), guess).await.expect("an answer"));
        }
        assert_eq!(cached.binds(), 8);
        assert_eq!(cached.told.lock().len(), 2, "once per pause");
    }

    #[tokio::test]
    async fn a_wrong_password_is_forgotten_only_when_as_long_as_the_window_no_other_has_come() {
        let cached = Cached::answering();
        for guess in 0..10 {
            cached.verify(&ana(), &format!("{guess}")).await.expect("an answer");
            cached.pass(10 * MINUTE);
        }
        assert_eq!(cached.binds(), 10);
        for guess in 0..10 {
            cached.verify(&bruno(), &format!("{guess}")).await.expect("an answer");
            cached.pass(9 * MINUTE);
        }
        assert_eq!(cached.binds(), 10 + 8, "after three the fourth comes within ten minutes of the last, and so on");
    }

    #[tokio::test]
    async fn right_passwords_and_a_directory_away_do_not_count() {
        let cached = Cached::answering();
        cached.fake.is_away.store(true, Ordering::Relaxed);
        for guess in ["1", "2", "3", "4"] {
            cached.verify(&ana(), guess).await.expect_err("the directory is away");
        }
        cached.fake.is_away.store(false, Ordering::Relaxed);
        let twin = |dn: &str| Entry { dn: dn.into(), ..ana() };
        for spelling in ["CN=ana", "cn=ana", "CN=Ana", "CN=ANA", "cn=ANA"] {
            assert!(cached.verify(&twin(spelling), "right").await.expect("an answer"));
        }
        for guess in ["1", "2", "3", "4"] {
            assert!(!cached.verify(&twin("cn=ANA"), guess).await.expect("an answer"));
        }
        assert_eq!(cached.binds(), 4 + 5 + 3);
    }

    #[tokio::test]
    async fn a_question_without_answer_counts_as_it_may_have_been_heard() {
        let cached = Cached::answering();
        cached.fake.is_mute.store(true, Ordering::Relaxed);
        for guess in ["1", "2", "3"] {
            cached.verify(&ana(), guess).await.expect_err("no answer");
        }
        assert!(!cached.verify(&ana(), "4").await.expect("an answer"));
        assert_eq!(cached.binds(), 3);
    }

    #[tokio::test]
    async fn a_question_whose_client_went_away_counts_as_it_may_have_been_heard() {
        let cached = Cached::new(0);
        for guess in ["1", "2", "3"] {
            let password = Secret::new(guess.as_bytes());
            assert!(cached.directory.verify(&ana(), &password).now_or_never().is_none());
        }
        assert!(!cached.verify(&ana(), "4").await.expect("an answer"));
        assert_eq!(cached.binds(), 3);
        assert_eq!(cached.told.lock().len(), 1);
    }

    #[tokio::test]
    async fn whoever_guesses_at_everybody_gets_no_more_guesses_than_can_be_counted() {
        let cached = Cached::answering();
        let wrong = async |number: u32| {
            let entry = Entry { dn: format!("CN={number}"), ..ana() };
            assert!(!cached.verify(&entry, "wrong").await.expect("an answer"));
        };
        for number in 0..2100 {
            wrong(number).await;
        }
        assert_eq!((cached.binds(), cached.count(|it| &it.passwords_not_asked)), (2000, 100));
        cached.pass(10 * MINUTE);
        wrong(2100).await;
        assert_eq!(cached.binds(), 2001);
    }

    #[tokio::test]
    async fn people_whose_wrong_passwords_are_long_past_are_forgotten() {
        let cached = Cached::answering();
        for number in 0..3000 {
            let entry = Entry { dn: format!("CN={number}"), ..ana() };
            cached.verify(&entry, "wrong").await.expect("an answer");
            cached.pass(MINUTE);
        }
        let kept = cached.directory.passwords.accounts_noted();
        assert!(kept <= 1000, "{kept} people are noted");
    }
}
