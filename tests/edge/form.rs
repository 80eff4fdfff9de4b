//! Browsers that log on by the form, and everybody else, who does not meet it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine};
use firstcas::config::{SignIn, SignInBy};
use http::Method;
use rustls::pki_types::ServerName;
use sha1::{Digest, Sha1};
use url::form_urlencoded;

use crate::{
    abuse::stream_from,
    harness::{self, Answer, Client, House, Plan, within},
    record,
    tls::{TLS13, connector},
    wire::play,
};

/// Somebody's browser: it keeps cookies, and says what browsers say of their requests.
pub struct Browser<'h> {
    house: &'h House,
    edge: SocketAddr,
    from: &'static str,
    pub cookies: BTreeMap<String, String>,
    /// What it says of the site that a post comes from.
    site: &'static [(&'static str, &'static str)],
}

impl<'h> Browser<'h> {
    fn of(house: &'h House) -> Browser<'h> {
        Browser::at(house, house.tls())
    }

    pub fn at(house: &'h House, edge: SocketAddr) -> Browser<'h> {
        Browser { house, edge, from: "127.0.0.1", cookies: BTreeMap::new(), site: SAME_ORIGIN }
    }

    async fn client(&self) -> Client {
        let name = ServerName::try_from("mail.contoso.com").expect("a name");
        let stream = stream_from(self.from, self.edge).await;
        Client::over(within("TLS", connector(self.house, TLS13, &[]).connect(name, stream)).await.expect("TLS")).await
    }

    async fn send(&mut self, method: Method, target: &str, fields: &[(&str, &str)], body: String) -> Answer {
        let mut client = self.client().await;
        let mut asking = client.ask(method, target);
        for (name, value) in fields {
            asking = asking.header(name, value);
        }
        if !self.cookies.is_empty() {
            let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            asking = asking.header("Cookie", &cookies.join("; "));
        }
        let answer = asking.body(body).send().await;
        for cookie in answer.headers.get_all("Set-Cookie") {
            self.keep(cookie.to_str().expect("text"));
        }
        answer
    }

    fn keep(&mut self, cookie: &str) {
        let (pair, attributes) = cookie.split_once(';').expect("attributes");
        let (name, value) = pair.split_once('=').expect("a pair");
        if name.starts_with("__Host-") {
            for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
                assert!(format!(";{attributes}").contains(attribute), "{cookie}");
            }
            assert!(!attributes.contains("Domain"), "{cookie}");
        }
        match attributes.contains("Max-Age=0") {
            true => drop(self.cookies.remove(name)),
            false => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
        }
    }

    /// What is typed into the address bar, or clicked on.
    pub async fn get(&mut self, target: &str) -> Answer {
        let fields = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("X-Contoso-Echo", "1")];
        self.send(Method::GET, target, &fields, String::new()).await
    }

    /// What a script of a page does.
    async fn script(&mut self, target: &str) -> Answer {
        self.send(Method::POST, target, &[("Sec-Fetch-Mode", "cors"), ("X-Contoso-Echo", "1")], String::new()).await
    }

    /// Fills in the form of this page, and sends it.
    async fn fill_in(&mut self, page: &Answer, user: &str, password: &str, trusted: &str) -> Answer {
        let (destination, token) = (hidden(page, "destination"), hidden(page, "token"));
        let fields = [("username", user), ("password", password), ("trusted", trusted), ("flags", "0")];
        let body = form(&[("destination", &destination), ("token", &token)], &fields);
        self.post("/owa/auth/owaauth.dll", body).await
    }

    async fn post(&mut self, target: &str, body: String) -> Answer {
        let fields = [&[("Content-Type", "application/x-www-form-urlencoded")], self.site].concat();
        self.send(Method::POST, target, &fields, body).await
    }

    /// Asks for a page, is sent to the form, and fills it in.
    pub async fn log_on(&mut self, target: &str, user: &str, password: &str) -> Answer {
        self.log_on_at(target, user, password, "0").await
    }

    async fn log_on_at(&mut self, target: &str, user: &str, password: &str, trusted: &str) -> Answer {
        let sent = self.get(target).await;
        assert_eq!(sent.status, 302, "{sent:?}");
        let shown = self.get(sent.header("Location")).await;
        assert_eq!(shown.status, 200, "{shown:?}");
        self.fill_in(&shown, user, password, trusted).await
    }

    /// Somebody who has logged on, and is where they wanted to be.
    async fn logged_on(house: &'h House, user: &str) -> Browser<'h> {
        let mut browser = Browser::of(house);
        let answer = browser.log_on("/owa/", user, PASSWORD).await;
        assert_eq!((answer.status.as_u16(), answer.header("Location")), (302, "/owa/"), "{answer:?}");
        browser
    }
}

fn form(one: &[(&str, &str)], other: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(one.iter().chain(other)).finish()
}

fn hidden(page: &Answer, name: &str) -> String {
    let (_, rest) = page.body.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("{page:?}"));
    html_escape::decode_html_entities(rest.split('"').next().expect("a value")).into_owned()
}

async fn house() -> House {
    House::with("# logon form").await
}

const PASSWORD: &str = "Pass-word1";
const LOGON: &str = "__Host-firstcas-logon";
const SAME_ORIGIN: &[(&str, &str)] = &[("Sec-Fetch-Site", "same-origin"), ("Origin", "https://mail.contoso.com")];

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_on_by_every_form_of_a_name_and_is_where_it_wanted_to_be() {
    let house = house().await;
    for user in ["CONTOSO\\bruno", "bruno@contoso.com", "bruno", " Contoso\\Bruno "] {
        let mut browser = Browser::of(&house);
        let answer = browser.log_on("/owa/?ae=Item&id=Rg%2bA&x=%22%3e", user, PASSWORD).await;
        assert_eq!(answer.status, 302, "{user}: {answer:?}");
        let location = answer.header("Location").to_owned();
        assert_eq!(location, "/owa/?ae=Item&id=Rg%2bA&x=%22%3e", "{user}");
        let page = browser.get(&location).await;
        assert_eq!((page.status.as_u16(), page.user()), (200, "bruno"), "{user}: {page:?}");
        assert!(page.server().starts_with("cas-opo-"), "{user}: {page:?}");
    }
    let line = record::line(&["firstcas::access", "path=/owa/", "credential=form", "user=bruno@contoso.com"]).await;
    assert!(line.contains("rule=proxy-to-site") && line.contains("connection=shared"), "{line}");
    let line = record::line(&["firstcas::access", "rule=logon-form", "proven=bruno@contoso.com"]).await;
    assert!(!line.contains(PASSWORD), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mailbox_is_served_as_it_is_with_basic() {
    let house = house().await;
    let mut carla = Browser::logged_on(&house, "carla").await;
    let page = carla.get("/owa/").await;
    assert!(page.status == 200 && page.body.contains("https://mail.madrid.contoso.com/owa"), "{page:?}");
    let mut filipe = Browser::logged_on(&house, "filipe").await;
    let page = filipe.get("/owa/").await;
    assert!(page.status == 403 && page.body.contains("without a Client Access Server"), "{page:?}");
    let mut duarte = Browser::of(&house);
    let answer = duarte.log_on("/exchange/duarte/", "duarte", PASSWORD).await;
    assert_eq!(answer.header("Location"), "/exchange/duarte/");
    let page = duarte.get("/exchange/duarte/").await;
    assert_eq!((page.status.as_u16(), page.server(), page.user()), (200, "ex03-opo", "duarte"), "{page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_logged_on_sees_nothing_of_the_servers() {
    let house = house().await;
    let mut browser = Browser::of(&house);
    for target in ["/owa/", "/ecp/", "/exchange/ana/", "/OWA/", "/owa/auth/owaauth.dll"] {
        let answer = browser.get(target).await;
        assert_eq!(answer.status, 302, "{target}: {answer:?}");
        assert!(answer.header("Location").starts_with("/owa/auth/logon.aspx?url=%2F"), "{target}: {answer:?}");
    }
    for target in ["/owa/ev.owa?oeh=1", "/exchange/ana/Inbox/", "/owa/auth/logon.aspx"] {
        let answer = browser.script(target).await;
        assert_eq!((answer.status.as_u16(), answer.header("WWW-Authenticate")), (440, ""), "{target}: {answer:?}");
    }
    for forged in ["", "x", "AAAA", &"A".repeat(8000)] {
        browser.cookies.insert(LOGON.into(), forged.into());
        let answer = browser.get("/owa/").await;
        assert_eq!(answer.status, 302, "{answer:?}");
        assert_eq!(browser.cookies.get(LOGON), None, "what is no good is taken away");
    }
    assert_eq!(house.requests_behind(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn telephones_programs_and_whoever_sends_a_credential_go_on_as_before() {
    let house = house().await;
    let browser = Browser::of(&house);
    let sync = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=bruno&DeviceId=d&DeviceType=t";
    let answer = browser.client().await.ask(Method::POST, sync).basic("bruno", PASSWORD).send().await;
    assert_eq!((answer.status.as_u16(), answer.user()), (200, "bruno"), "{answer:?}");
    for (method, target) in [(Method::OPTIONS, "/Microsoft-Server-ActiveSync"), (Method::POST, "/EWS/Exchange.asmx")] {
        let answer = browser.client().await.ask(method, target).send().await;
        assert_eq!(answer.status, 401, "{target}: {answer:?}");
        assert!(answer.headers.get_all("WWW-Authenticate").iter().any(|offer| offer.as_bytes().starts_with(b"Basic")));
    }
    let answer = browser.client().await.get("/owa/").basic("ana", PASSWORD).send().await;
    assert_eq!((answer.status.as_u16(), answer.user()), (200, "ana"), "{answer:?}");
    let answer = browser.client().await.get("/owa/").basic("ana", "wrong").send().await;
    assert_eq!(answer.status, 401, "{answer:?}");
    let answer = house.client().await.get("/owa/").send().await;
    assert_eq!(answer.status, 401, "the other listener has no form: {answer:?}");
    let root = browser.client().await.get("/").send().await;
    assert_eq!((root.status.as_u16(), root.header("Location")), (302, "/owa/"), "{root:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_authentication_over_one_connection_is_not_asked_for_a_form() {
    let house = house().await;
    let mut client = Browser::of(&house).client().await;
    let handshake = crate::sign_in::ntlm("ana");
    let signed_in = crate::sign_in::sign_in(&mut client, &handshake, Method::GET, "/owa/", &[]).await;
    assert_eq!((signed_in.status.as_u16(), signed_in.user()), (200, "ana"), "{signed_in:?}");
    let next = client.get("/owa/").send().await;
    assert_eq!((next.status.as_u16(), next.user()), (200, "ana"), "{next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_gets_the_form_again_and_does_not_tell_whether_the_name_is_right() {
    let house = house().await;
    let mut pages = Vec::new();
    for user in ["ana", "nobody", "helena"] {
        let mut browser = Browser::of(&house);
        let answer = browser.log_on("/owa/?x=1", user, "wrong").await;
        assert_eq!((answer.status.as_u16(), answer.header("WWW-Authenticate")), (403, ""), "{user}: {answer:?}");
        assert_eq!(browser.cookies.get(LOGON), None, "{user}");
        assert_eq!(hidden(&answer, "destination"), "/owa/?x=1");
        assert!(
            answer.body.contains("role=\"alert\"")
                && answer.body.contains("The user name or the password is not right")
        );
        let page = answer.body.replace(&hidden(&answer, "token"), "").replace(&format!("value=\"{user}\""), "");
        pages.push(page.split("request ").next().expect("a first part").to_owned());
        let right = browser.fill_in(&answer, "ana", PASSWORD, "0").await;
        assert_eq!((right.status.as_u16(), right.header("Location")), (302, "/owa/?x=1"), "{right:?}");
    }
    assert!(pages.iter().all(|page| *page == pages[0]), "{pages:?}");
    for (user, password) in [("", PASSWORD), ("ana", ""), ("a\\b\\c", PASSWORD), ("ana", &"p".repeat(2000))] {
        let answer = Browser::of(&house).log_on("/owa/", user, password).await;
        assert_eq!(answer.status, 403, "{user:?}: {answer:?}");
    }
    assert_eq!(house.requests_behind(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_an_answer_does_not_tell_whether_there_is_such_a_name() {
    let house = house().await;
    for (user, password) in [("ana", "wrong"), ("nobody", "wrong"), ("a\\b\\c", "wrong"), ("ana", "")] {
        let mut browser = Browser::of(&house);
        let shown = browser.get("/owa/auth/logon.aspx").await;
        let began = Instant::now();
        assert_eq!(browser.fill_in(&shown, user, password, "0").await.status, 403);
        assert!(began.elapsed() >= Duration::from_millis(500), "{user}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_by_the_form_is_stopped_as_by_basic_and_the_owner_is_not() {
    let house = House::with("# logon form\nlimits.failed_logons_per_user = 3").await;
    let mut elsa = Browser::logged_on(&house, "elsa").await;
    let mut guesser = Browser { from: "127.0.0.77", ..Browser::of(&house) };
    let mut shown = guesser.get("/owa/auth/logon.aspx").await;
    for number in 0..3 {
        shown = guesser.fill_in(&shown, "elsa", &format!("guess {number}"), "0").await;
        assert_eq!(shown.status, 403, "{shown:?}");
    }
    record::line(&["WARN firstcas::event", "event=FC138", "3 logons of elsa have failed", "cure="]).await;
    for (user, password) in [("elsa", PASSWORD), ("CONTOSO\\elsa", "another")] {
        let stopped = guesser.fill_in(&shown, user, password, "0").await;
        assert_eq!(stopped.status, 503, "{stopped:?}");
        assert!(stopped.header("Retry-After").parse::<u32>().is_ok_and(|seconds| seconds > 500), "{stopped:?}");
        assert!(stopped.body.contains("Too many passwords were wrong"), "{stopped:?}");
    }
    let basic = guesser.client().await.get("/owa/").basic("elsa", PASSWORD).send().await;
    assert_eq!(basic.status, 503, "Basic counts with it");
    for from in ["127.0.0.1", "127.0.0.78"] {
        elsa.from = from;
        let page = elsa.get("/exchange/elsa/").await;
        assert_eq!((page.status.as_u16(), page.user()), (200, "elsa"), "the owner goes on, from {from}: {page:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_logged_on_is_familiar_by_the_directorys_name_too() {
    let house = House::with("# logon form\nlimits.failed_logons_per_user = 3").await;
    Browser::logged_on(&house, "carla.castro@contoso.com").await;
    let mut guesser = Browser { from: "127.0.0.77", ..Browser::of(&house) };
    let mut shown = guesser.get("/owa/auth/logon.aspx").await;
    for number in 0..3 {
        shown = guesser.fill_in(&shown, "carla", &format!("guess {number}"), "0").await;
    }
    assert_eq!(guesser.fill_in(&shown, "carla", PASSWORD, "0").await.status, 503);
    Browser::logged_on(&house, "carla").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_and_readers_of_published_calendars_are_not_asked_who_they_are() {
    let house = house().await;
    for target in ["/owa/healthcheck.htm", "/owa/calendar/1a@contoso.com/2b/calendar.html"] {
        let answer = Browser::of(&house).get(target).await;
        assert!(!answer.header("Location").contains("logon.aspx") && answer.status != 440, "{target}: {answer:?}");
        assert_ne!(answer.server(), "", "{target} is a server's to answer: {answer:?}");
    }
    assert_eq!(Browser::of(&house).get("/owa/x/healthcheck.htm").await.status, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_off_is_logged_off_even_where_the_cookie_was_copied() {
    let house = house().await;
    for target in [
        "/owa/auth/logoff.aspx?Cmd=logoff",
        "/owa/logoff.owa",
        "/exchange/ana/?Cmd=logoff",
        "/owa/ana@contoso.com/logoff.owa",
        "/owa/ana%40contoso.com/auth/logoff.aspx",
    ] {
        let mut browser = Browser::logged_on(&house, "ana").await;
        let copied = browser.cookies.clone();
        let image = [("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")];
        let kept_in = browser.send(Method::GET, target, &image, String::new()).await;
        assert_eq!(kept_in.status, 440, "an image logs nobody off: {kept_in:?}");
        assert_eq!(browser.get("/owa/").await.user(), "ana");
        let answer = browser.get(target).await;
        assert!(answer.status == 200 && answer.body.contains("You have signed out"), "{target}: {answer:?}");
        assert!(answer.body.contains("href=\"/owa/\""), "{answer:?}");
        assert_eq!(browser.cookies.get(LOGON), None);
        assert_eq!(browser.get("/owa/").await.status, 302);
        browser.cookies = copied;
        assert_eq!(browser.get("/owa/").await.status, 302, "{target}");
        assert_eq!(browser.log_on("/owa/", "ana", PASSWORD).await.status, 302);
        assert_eq!(browser.get("/owa/").await.user(), "ana", "and may come back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_on_anew_is_logged_off_as_who_they_were_before() {
    let house = house().await;
    let mut browser = Browser::logged_on(&house, "ana").await;
    let mut copied = Browser { cookies: browser.cookies.clone(), ..Browser::of(&house) };
    assert_eq!(copied.get("/owa/").await.user(), "ana");
    let shown = browser.get("/owa/auth/logon.aspx").await;
    assert_eq!(browser.fill_in(&shown, "ana", "wrong", "0").await.status, 403);
    assert_eq!(copied.get("/owa/").await.user(), "ana", "a failed logon ends nothing");
    assert_eq!(browser.fill_in(&shown, "elsa", PASSWORD, "0").await.status, 302);
    assert_eq!(copied.get("/owa/").await.status, 302);
    assert_eq!(browser.get("/exchange/elsa/").await.user(), "elsa");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logon_is_over_when_nothing_was_done_for_its_time_out() {
    let plan = Plan {
        further: "# logon form".into(),
        adjust: Some(|config| {
            config.logon_form.public_timeout = Duration::ZERO;
            config.logon_form.private_timeout = Duration::from_secs(8);
        }),
        ..Plan::default()
    };
    let house = House::planned(plan).await;
    let mut shared = Browser::of(&house);
    shared.log_on("/owa/", "ana", PASSWORD).await;
    harness::until("the public one is over", async || {
        let mut other = Browser { cookies: shared.cookies.clone(), ..Browser::of(&house) };
        other.get("/owa/").await.status == 302
    })
    .await;
    let sent = shared.get("/owa/").await;
    assert!(sent.header("Location").ends_with("&reason=3"), "{sent:?}");
    let shown = shared.get(sent.header("Location")).await;
    assert!(shown.body.contains("because nothing was done for a while"), "{shown:?}");

    let mut own = Browser::of(&house);
    own.log_on_at("/owa/", "ana", PASSWORD, "4").await;
    let first = own.cookies[LOGON].clone();
    harness::until("the cookie is renewed", async || {
        assert_eq!(own.script("/owa/ev.owa?ns=PendingRequest&UA=0").await.status, 200);
        assert_eq!(own.cookies[LOGON], first, "a page that waits for mail does nothing");
        assert_eq!(own.get("/owa/").await.status, 200);
        own.cookies[LOGON] != first
    })
    .await;
    // The first one ends, whatever was done with the second; and the second goes on.
    let mut old = Browser { cookies: [(LOGON.to_owned(), first)].into(), ..Browser::of(&house) };
    harness::until("the first is over", async || {
        assert_eq!(own.get("/owa/").await.status, 200, "somebody who does something stays");
        old.script("/owa/ev.owa?UA=0").await.status == 440
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_another_host_after_logging_on() {
    let house = house().await;
    for asked in
        ["https://evil.example/", "//evil.example/", "/\\evil.example", "/owa/auth/logoff.aspx", "/owa/\r\nX: y"]
    {
        let mut browser = Browser::of(&house);
        let target = format!("/owa/auth/logon.aspx?{}", form(&[("url", asked)], &[("reason", "0")]));
        let shown = browser.get(&target).await;
        assert_eq!(hidden(&shown, "destination"), "/owa/", "{asked:?}");
        let token = hidden(&shown, "token");
        let fields = [("username", "ana"), ("password", PASSWORD), ("token", &*token)];
        let answer = browser.post("/owa/auth.owa", form(&[("destination", asked)], &fields)).await;
        assert_eq!((answer.status.as_u16(), answer.header("Location")), (302, "/owa/"), "{asked:?}: {answer:?}");
        assert_eq!(answer.header("X"), "");
    }
    let mut browser = Browser::of(&house);
    let shown = browser.get("/owa/auth/logon.aspx?url=https%3A%2F%2Fmail.contoso.com%2Fecp%2F%3Fa%3Db&reason=0").await;
    assert_eq!(hidden(&shown, "destination"), "/ecp/?a=b", "as Exchange's own form is bookmarked");
    let shown = browser.get("/owa/auth/logon.aspx?url=/owa/%22%3E%3Cscript%3Ealert(1)%3C/script%3E").await;
    assert!(!shown.body.contains("<script"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_from_another_site_logs_nobody_on() {
    let house = house().await;
    for site in [
        &[("Sec-Fetch-Site", "cross-site")][..],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
    ] {
        let mut browser = Browser { site, ..Browser::of(&house) };
        let answer = browser.log_on("/owa/", "ana", PASSWORD).await;
        assert_eq!(answer.status, 403, "{site:?}: {answer:?}");
        assert!(answer.body.contains("Sign in again."), "{answer:?}");
        assert_eq!(browser.cookies.get(LOGON), None, "{site:?}");
    }
    let mut browser = Browser { site: &[], ..Browser::of(&house) };
    let fields = [("username", "ana"), ("password", PASSWORD)];
    let without = browser.post("/owa/auth/owaauth.dll", form(&fields, &[])).await;
    assert_eq!(without.status, 403, "a form of the attacker's own has no token: {without:?}");
    let attackers = Browser::of(&house).get("/owa/auth/logon.aspx").await;
    let answer = browser.fill_in(&attackers, "ana", PASSWORD, "0").await;
    assert_eq!(answer.status, 403, "nor a token of this browser's: {answer:?}");
    let answer = browser.fill_in(&answer, "ana", PASSWORD, "0").await;
    assert_eq!(answer.status, 302, "what is shown then is good: {answer:?}");
    let text = browser.send(Method::POST, "/owa/auth.owa", &[("Content-Type", "text/plain")], String::new()).await;
    assert_eq!(text.status, 400, "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_is_bounded() {
    let house = house().await;
    let mut browser = Browser::of(&house);
    let body = form(&[("username", &*"u".repeat(20_000))], &[]);
    let answer = browser.post("/owa/auth.owa", body).await;
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_see_neither_cookie_and_nobody_else_sees_the_page() {
    let house = house().await;
    let mut browser = Browser::logged_on(&house, "ana").await;
    browser.get("/owa/auth/logon.aspx").await;
    browser.cookies.insert("sessionid".into(), "1".into());
    assert_eq!(browser.cookies.len(), 3, "{:?}", browser.cookies.keys());
    let echo = browser.get("/owa/").await.body;
    assert!(echo.contains("\ncookie: sessionid=1\n") && !echo.contains("__Host-"), "{echo}");
    assert!(echo.contains("\nauthorization: Basic\n"), "{echo}");
    let page = browser.get("/owa/auth/logon.aspx").await;
    for (name, value) in [
        ("Cache-Control", "no-store"),
        ("X-Frame-Options", "DENY"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), value);
    }
    assert!(page.header("Content-Security-Policy").starts_with("default-src 'none'; style-src 'sha256-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_that_share_a_key_file_share_who_is_logged_on() {
    let plan = || Plan { further: "# logon form\nlogon_form.key_file = \"@FOLDER@/keys\"".into(), ..Plan::default() };
    let mut house = House::without_edge(&plan()).await;
    std::fs::write(house.folder.path().join("keys"), format!("{}=\n", "A".repeat(43))).expect("written");
    house.edge = Some(harness::start_edge(&house.contoso, &house.folder, plan()).await);
    let other = harness::start_edge(&house.contoso, &house.folder, plan()).await;
    let browser = Browser::logged_on(&house, "ana").await;
    let mut there = Browser { cookies: browser.cookies.clone(), ..Browser::at(&house, other.addresses()[1]) };
    assert_eq!(there.get("/owa/").await.user(), "ana");

    // A new key in front: old cookies open, and new ones are sealed by it.
    std::fs::write(house.folder.path().join("keys"), format!("{}E=\n{}=\n", "A".repeat(42), "A".repeat(43)))
        .expect("written");
    house.reload().await.expect("a good configuration");
    let mut old = Browser { cookies: browser.cookies.clone(), ..Browser::of(&house) };
    assert_eq!(old.get("/owa/").await.user(), "ana");
    let new = Browser::logged_on(&house, "ana").await;
    let mut there = Browser { cookies: new.cookies.clone(), ..Browser::at(&house, other.addresses()[1]) };
    assert_eq!(there.get("/owa/").await.status, 302, "the other edge does not know the new key yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_without_a_key_file_logs_nobody_off() {
    let house = house().await;
    let mut browser = Browser::logged_on(&house, "ana").await;
    house.reload().await.expect("a good configuration");
    assert_eq!(browser.get("/owa/").await.user(), "ana");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_edge_signs_in_by_its_own_account_the_cookie_alone_proves_who_somebody_is() {
    let plan = Plan {
        further: "# logon form".into(),
        adjust: Some(|config| {
            config.sign_in = Some(SignIn {
                by: vec![SignInBy::Delegation],
                keytab: None,
                account: None,
                pass_basic_on: false,
                timeout: Duration::from_secs(1),
                users_max: 1,
            });
        }),
        ..Plan::default()
    };
    let house = House::planned(plan).await;
    let mut carla = Browser::logged_on(&house, "CONTOSO\\carla").await;
    let page = carla.get("/owa/?by=delegation").await;
    assert!(page.status == 200 && page.body.contains("https://mail.madrid.contoso.com/owa"), "{page:?}");
    let line =
        record::line(&["firstcas::access", "credential=form", "rule=owa-redirect", "proven=carla@contoso.com"]).await;
    assert!(line.contains("user=carla@contoso.com") && line.contains("connection=shared"), "{line}");
    // Somebody else gets her name: another account, as its number says.
    let ldif = house.folder.path().join("contoso.ldif");
    let text = std::fs::read_to_string(&ldif).expect("the LDIF file");
    let name = "userPrincipalName: carla@contoso.com\n";
    assert!(text.contains(name));
    std::fs::write(&ldif, text.replace(name, &format!("{name}objectGUID: another-account!\n"))).expect("written");
    house.reload().await.expect("a good configuration");
    harness::until("the cookie is nobody's", async || {
        let mut same = Browser { cookies: carla.cookies.clone(), ..Browser::of(&house) };
        same.get("/owa/").await.status == 302
    })
    .await;
    let mut filipe = Browser::logged_on(&house, "filipe").await;
    assert_eq!(filipe.get("/owa/").await.status, 403);
    let mut ana = Browser::logged_on(&house, "ana").await;
    assert_ne!(ana.get("/owa/").await.user(), "ana", "no server gets a password that nobody has kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_has_become_wrong_is_asked_for_by_the_form() {
    let house = House::with("# logon form\ncache.proof_lifetime = \"1s\"").await;
    let mut carla = Browser::logged_on(&house, "carla").await;
    assert_eq!(carla.get("/owa/").await.status, 200);
    change_password(&house, "carla", "Another-1").await;
    let mut answer = None;
    harness::until("her password is wrong", async || {
        let mut same = Browser { cookies: carla.cookies.clone(), ..Browser::of(&house) };
        answer = Some(same.get("/owa/?x=1").await).filter(|answer| answer.status != 200);
        answer.is_some()
    })
    .await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.header("WWW-Authenticate")), (302, ""), "{answer:?}");
    assert_eq!(answer.header("Location"), "/owa/auth/logon.aspx?url=%2Fowa%2F%3Fx%3D1&reason=2");
    assert_eq!(carla.script("/owa/ev.owa").await.status, 440);
    assert_eq!(carla.cookies.get(LOGON), None);
    let shown = carla.get(answer.header("Location")).await;
    assert!(shown.body.contains("The user name or the password is not right"), "{shown:?}");
    assert_eq!(carla.fill_in(&shown, "carla", "Another-1", "0").await.status, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_the_password_no_more_leads_to_the_form_too() {
    let server = play(|_, mut edge| async move {
        let head = edge.head().await;
        assert!(head.to_ascii_lowercase().contains("authorization: basic "), "{head}");
        edge.send("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
            .await;
        edge.rest().await;
    })
    .await;
    let instead = vec![("ex03-opo.contoso.com:80", server)];
    let further = "# logon form\ncache.proof_lifetime = \"1s\"".into();
    let house = House::planned(Plan { further, instead, ..Plan::default() }).await;
    let mut duarte = Browser::logged_on(&house, "duarte").await;
    let answer = duarte.get("/exchange/duarte/").await;
    assert_eq!((answer.status.as_u16(), answer.header("WWW-Authenticate")), (403, ""), "{answer:?}");
    assert!(answer.body.contains("could not be signed in to for you"), "the password is right: {answer:?}");
    assert!(duarte.cookies.contains_key(LOGON), "what is not theirs ends no logon");
    change_password(&house, "duarte", "Another-1").await;
    let mut answer = None;
    harness::until("his password is wrong", async || {
        let got = duarte.get("/exchange/duarte/").await;
        answer = Some(got).filter(|answer| answer.status != 403);
        answer.is_some()
    })
    .await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.header("WWW-Authenticate")), (302, ""), "{answer:?}");
    assert_eq!(answer.header("Location"), "/owa/auth/logon.aspx?url=%2Fexchange%2Fduarte%2F&reason=2");
    assert_eq!(duarte.cookies.get(LOGON), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_password_challenges_nobody_who_has_logged_on() {
    let server = play(|_, mut edge| async move {
        edge.head().await;
        edge.send(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        edge.rest().await;
    })
    .await;
    let instead = vec![("ex03-opo.contoso.com:80", server)];
    let house = House::planned(Plan { further: "# logon form".into(), instead, ..Plan::default() }).await;
    let mut duarte = Browser::logged_on(&house, "duarte").await;
    for _ in 0..2 {
        let answer = duarte.get("/exchange/duarte/").await;
        let fields = ["WWW-Authenticate", "Proxy-Support"].map(|name| answer.header(name).to_owned());
        assert_eq!((answer.status.as_u16(), fields), (403, [String::new(), String::new()]), "{answer:?}");
        assert!(duarte.cookies.contains_key(LOGON), "the logon goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_balancer_that_ends_tls_the_form_is_there_for_https_only() {
    let house = House::with("# logon form\n# trusted form").await;
    let mut client = house.client().await;
    let answer = client.get("/owa/").header("X-Forwarded-Proto", "https").send().await;
    assert_eq!(answer.status, 302, "{answer:?}");
    let answer = client.get("/owa/").header("X-Forwarded-Proto", "http").send().await;
    assert_eq!(answer.status, 401, "{answer:?}");
}

async fn change_password(house: &House, user: &str, password: &str) {
    let ldif = house.folder.path().join("contoso.ldif");
    let text = std::fs::read_to_string(&ldif).expect("the LDIF file");
    let name = format!("userPrincipalName: {user}@contoso.com");
    let (before, after) = text.split_once(&name).expect("somebody");
    let (between, after) = after.split_once("userPassword: ").expect("their password");
    let rest = after.split_once('\n').expect("a line").1;
    let another = format!("{name}{between}userPassword: {}\n", ssha(password));
    std::fs::write(&ldif, format!("{before}{another}{rest}")).expect("written");
    house.reload().await.expect("a good configuration");
}

/// As an LDIF file has passwords: salted SHA-1.
fn ssha(password: &str) -> String {
    let salt = b"contoso!";
    let digest = Sha1::new().chain_update(password).chain_update(salt).finalize();
    format!("{{SSHA}}{}", BASE64_STANDARD.encode([&digest[..], salt].concat()))
}
