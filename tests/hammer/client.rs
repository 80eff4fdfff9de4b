//! What a client does with one connection, by the throw of the dice, and how it judges what comes back.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use fastrand::Rng;

use super::{
    Shared, Ways,
    belief::{Belief, Carries, Named, WrongName},
    connection::{Answer, Connection, Over},
    people::Person,
    registry::{Meeting, WrongConnection},
    tally,
};
use crate::{
    contoso::tickets::Ticket,
    windows_client::{Form, Handshake, kerberos, raw_kerberos},
};

/// One connection of a client, from its first request to its end.
pub async fn visit(shared: &Shared, client: u64, turn: u64) {
    let number = shared.next_connection();
    let Ok(connection) = Connection::open(shared.plan.address).await else {
        shared.tally().count("connections refused");
        tokio::time::sleep(Duration::from_millis(10)).await; // whatever is there has no room
        return;
    };
    shared.tally().count(tally::CONNECTIONS);
    let seed = blake3::hash(&[shared.plan.seed, client, turn].map(u64::to_le_bytes).concat());
    let seed = seed.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes);
    let mut visitor = Visitor {
        shared,
        rng: Rng::with_seed(seed),
        number,
        connection,
        belief: Belief::default(),
        requests: 0,
        history: Vec::new(),
    };
    let end = visitor.live().await;
    let what = match end {
        Err(End::Lost(Over::Closed)) => "connections that the other end closed",
        Err(End::Lost(Over::Silent)) => {
            shared.tally().except("no answer before the deadline", &visitor.story());
            return;
        }
        Err(End::Lost(Over::Unreadable)) => {
            shared.tally().except("an answer that is no HTTP", &visitor.story());
            return;
        }
        Err(End::LeftInMidLeg) => "connections left in the middle of a handshake",
        Err(End::LeftInMidRequest) => "connections left in the middle of a request",
        Ok(()) => "connections left in good order",
    };
    shared.tally().count(what);
    if shared.plan.rough && visitor.rng.u8(..3) == 0 {
        shared.tally().count("connections reset by their client");
        visitor.connection.reset();
    }
}

struct Visitor<'s> {
    shared: &'s Shared,
    rng: Rng,
    /// The client connection's.
    number: u64,
    connection: Connection,
    belief: Belief,
    requests: u64,
    /// What was asked and answered, for the story of an exception.
    history: Vec<String>,
}

/// Why a client does nothing more with a connection.
enum End {
    Lost(Over),
    LeftInMidLeg,
    LeftInMidRequest,
}

/// Where a request goes.
#[derive(Clone)]
struct Place {
    method: &'static str,
    /// Up to the request's own part.
    target: String,
    anchor: Option<String>,
    cookie: Option<String>,
    /// The request's own part, if it repeats another's.
    own: Option<String>,
}

/// A request that has been put together.
struct Asked {
    carries: Carries,
    bytes: Vec<u8>,
    /// How its echo begins and ends, if it asks for one.
    echo: Option<(String, String)>,
    sent: Instant,
}

impl Visitor<'_> {
    async fn live(&mut self) -> Result<(), End> {
        // Some never sign in: whoever else does must not change what they are.
        let signs_in = self.rng.u8(..100) < 60;
        for _ in 0..self.rng.u8(1..=12) {
            if self.rng.u8(..8) == 0 {
                tokio::time::sleep(Duration::from_millis(self.rng.u64(1..=30))).await;
            }
            if signs_in { self.sign_in_or_go_on().await? } else { self.share().await? }
        }
        Ok(())
    }

    /// What may go over a shared connection.
    async fn share(&mut self) -> Result<(), End> {
        if self.chance(10) {
            let two = [self.shareable(), self.shareable()];
            return self.pipeline(two).await;
        }
        let asked = self.shareable();
        self.exchange(asked).await.map(drop)
    }

    async fn sign_in_or_go_on(&mut self) -> Result<(), End> {
        let dice = self.rng.u8(..100);
        let person = self.somebody();
        let signed_in = self.belief.user().is_some();
        match (self.shared.plan.ways, dice) {
            (_, 0..=1) if self.shared.plan.rough => self.leave_asking(&person).await,
            (Ways::All, 2..=15) => self.share().await,
            (Ways::All, 16..=25) if signed_in => {
                let two = [self.without_credential(), self.shareable()];
                self.pipeline(two).await
            }
            (Ways::All, 26..=34) | (Ways::Ntlm, 26..=49) if signed_in => self.ntlm(&person).await,
            (Ways::All, 35..=40) | (Ways::Kerberos, 26..=49) if signed_in => self.kerberos(&person).await,
            (_, _) if signed_in => {
                let asked = self.without_credential();
                self.exchange(asked).await.map(drop)
            }
            (Ways::All, 16..=78) | (Ways::Ntlm, _) => self.ntlm(&person).await,
            (Ways::All | Ways::Kerberos, _) => self.kerberos(&person).await,
        }
    }

    async fn kerberos(&mut self, person: &Person) -> Result<(), End> {
        let place = self.place(Some(person));
        let asked = self.with_ticket(person, &place);
        self.exchange(asked).await.map(drop)
    }

    async fn ntlm(&mut self, person: &Person) -> Result<(), End> {
        let name = &person.name;
        let name = match self.rng.u8(..3) {
            0 => name.clone(),
            1 => format!("{name}@contoso.com"),
            _ => format!("CONTOSO\\{name}"),
        };
        let form = self.rng.choice([Form::Ntlm, Form::Negotiate, Form::Spnego]).unwrap_or(Form::Ntlm);
        let right = self.rng.u8(..20) != 0;
        let handshake = Handshake::ntlm(&name).form(form).password(if right { "Pass-word1" } else { "wrong" });
        let mut place = self.place(Some(person));
        // A client repeats its request with each message. One that does not is let in, but not believed by the edge.
        if self.rng.u8(..10) != 0 {
            place.own = Some(format!("{}.{}", self.number, self.requests + 1));
        }
        let first = self.compose(Carries::FirstLeg, Some(&handshake.first()), &place);
        let answer = self.exchange(first).await?;
        let scheme = if form == Form::Ntlm { "NTLM " } else { "Negotiate " };
        let challenge = answer.values("WWW-Authenticate").find(|value| value.starts_with(scheme)).map(str::to_owned);
        let Some(challenge) = challenge.filter(|_| answer.status == 401) else {
            self.shared.tally().count("handshakes without a challenge");
            return Ok(());
        };
        if self.shared.plan.rough {
            match self.rng.u8(..100) {
                0..=4 => return Err(End::LeftInMidLeg),
                5..=9 => {
                    self.shared.tally().count("handshakes abandoned");
                    return Ok(());
                }
                10..=13 => {
                    self.shared.tally().count("handshakes interrupted by another request");
                    self.share().await?;
                }
                14..=17 => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => {}
            }
        }
        let carries = Carries::LastLeg { user: person.name.clone(), right };
        let last = self.compose(carries, Some(&handshake.answer(&challenge)), &place);
        if self.chance(6) {
            let next = self.without_credential();
            return self.pipeline([last, next]).await;
        }
        self.exchange(last).await.map(drop)
    }

    /// Sends something and does not wait for what comes of it.
    async fn leave_asking(&mut self, person: &Person) -> Result<(), End> {
        let place = self.place(Some(person));
        let asked = match self.rng.u8(..3) {
            0 if self.shared.plan.ways != Ways::Ntlm => self.with_ticket(person, &place),
            1 => self.compose(Carries::FirstLeg, Some(&Handshake::ntlm(&person.name).first()), &place),
            _ => self.without_credential(),
        };
        let part = self.rng.usize(1..=asked.bytes.len());
        self.connection.send(&asked.bytes[..part]).await?;
        Err(End::LeftInMidRequest)
    }

    async fn exchange(&mut self, asked: Asked) -> Result<Answer, End> {
        self.connection.send(&asked.bytes).await?;
        let answer = self.connection.answer().await?;
        self.judge(&asked, &answer);
        if answer.closes() { Err(End::Lost(Over::Closed)) } else { Ok(answer) }
    }

    async fn pipeline(&mut self, both: [Asked; 2]) -> Result<(), End> {
        self.shared.tally().count("pipelined pairs of requests");
        let bytes = both.each_ref().map(|asked| asked.bytes.as_slice()).concat();
        self.connection.send(&bytes).await?;
        for asked in both {
            let answer = self.connection.answer().await?;
            self.judge(&asked, &answer);
            if answer.closes() {
                return Err(End::Lost(Over::Closed));
            }
        }
        Ok(())
    }

    fn judge(&mut self, asked: &Asked, answer: &Answer) {
        let has_token = |value: &str| value.contains(' ') && !value.starts_with("Basic");
        let token = answer.values("WWW-Authenticate").any(has_token);
        let named = match answer.field("X-Contoso-User") {
            None => Named::ByTheProxy,
            Some("-") => Named::Nobody { challenged: answer.status == 401 && token },
            Some(user) => Named::User(user),
        };
        let before = self.belief.user().map(str::to_owned);
        let verdict = self.belief.judge(&asked.carries, answer.status, named);
        let told_bound = token || answer.field("Persistent-Auth").is_some();
        let meeting = Meeting { client: self.number, bound: self.belief.is_bound(), sent: asked.sent, told_bound };
        let connection = answer.field("X-Contoso-Connection");
        let met = connection.map_or(Ok(()), |connection| self.shared.registry().meet(connection, meeting));
        if told_bound {
            self.belief.was_told_bound();
        }
        self.keep_cookie(&asked.carries, answer);

        let server = answer.field("X-Contoso-Server").unwrap_or("-");
        let over = connection.unwrap_or("-");
        self.history.push(format!("{:?} {} {named:?} by {server} over {over}", asked.carries, answer.status));
        let story = || format!("client connection {}: {}", self.number, self.history.join("; "));
        let mut tally = self.shared.tally();
        match verdict {
            Ok(()) => tally.count(&kind(&asked.carries, named, answer.status)),
            Err(WrongName::SomebodyElses) => tally.except(tally::SOMEBODY_ELSES, &story()),
            Err(WrongName::SomebodysOfBefore) => tally.except(tally::OF_BEFORE, &story()),
        }
        if matches!((&asked.carries, named), (Carries::Nothing, Named::Nobody { .. })) && before.is_some() {
            tally.count("times nobody was signed in where somebody was expected");
        }
        match met {
            Ok(()) => {}
            Err(WrongConnection::OfAnother) => tally.except("over a connection of another client", &story()),
            Err(WrongConnection::FromThePool) => tally.except("a connection both shared and signed in over", &story()),
            Err(WrongConnection::AfterItsEnd) => tally.except("over a shared connection that was bound", &story()),
        }
        if let (Some((begin, end)), true, true) = (&asked.echo, answer.is_whole, connection.is_some()) {
            let body = String::from_utf8_lossy(&answer.body);
            if !body.starts_with(begin) {
                tally.except(tally::NOT_MINE, &format!("{begin:?} was answered {body:?}"));
            } else if !body.contains(end) && !body.contains("\nbody: not read") {
                tally.except("a body that arrived otherwise", &format!("{end:?} was answered {body:?}"));
            }
        }
    }

    fn keep_cookie(&self, carries: &Carries, answer: &Answer) {
        let user = match carries {
            Carries::LastLeg { user, .. } | Carries::Ticket(user) => Some(user.as_str()),
            Carries::Nothing | Carries::Basic(_) | Carries::WrongBasic | Carries::FirstLeg => self.belief.user(),
        };
        let cookie = answer.values("Set-Cookie").find(|cookie| cookie.starts_with("firstcas-affinity="));
        if let (Some(user), Some(cookie)) = (user, cookie) {
            let cookie = cookie.split(';').next().unwrap_or(cookie);
            self.shared.cookies().insert(user.to_owned(), cookie.to_owned());
        }
    }

    /// A request without a credential, or with one that is its own.
    fn shareable(&mut self) -> Asked {
        if self.shared.plan.ways == Ways::All && self.rng.u8(..100) < 65 {
            let person = self.somebody();
            let place = self.place(Some(&person));
            let right = self.rng.u8(..20) != 0;
            let password = if right { "Pass-word1" } else { "wrong" };
            let credential = BASE64_STANDARD.encode(format!("{}:{password}", person.name));
            let carries = if right { Carries::Basic(person.name) } else { Carries::WrongBasic };
            return self.compose(carries, Some(&format!("Basic {credential}")), &place);
        }
        self.without_credential()
    }

    fn without_credential(&mut self) -> Asked {
        let place = self.place(None);
        self.compose(Carries::Nothing, None, &place)
    }

    fn with_ticket(&mut self, person: &Person, place: &Place) -> Asked {
        let ticket = Ticket::of(&person.name);
        let token = if self.rng.bool() { kerberos(&ticket) } else { raw_kerberos(&ticket) };
        self.compose(Carries::Ticket(person.name.clone()), Some(&token), place)
    }

    fn compose(&mut self, carries: Carries, authorization: Option<&str>, place: &Place) -> Asked {
        self.requests += 1;
        let own = place.own.clone().unwrap_or_else(|| format!("{}.{}", self.number, self.requests));
        let target = format!("{}n={own}", place.target);
        let mut text = format!("{} {target} HTTP/1.1\r\nHost: mail.contoso.com\r\n", place.method);
        for (name, value) in [
            ("Authorization", authorization),
            ("X-AnchorMailbox", place.anchor.as_deref()),
            ("Cookie", place.cookie.as_deref()),
        ] {
            if let Some(value) = value {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        let echo = self.rng.u8(..4) == 0;
        if echo {
            text.push_str("X-Contoso-Echo: 1\r\n");
        }
        if self.shared.plan.rough {
            text.push_str(self.steering(&carries));
        }
        let body = self.body(place.method);
        let mut bytes = text.into_bytes();
        let chunked = body.len() > 1 && self.rng.u8(..3) == 0;
        if chunked {
            let (one, other) = body.split_at(self.rng.usize(1..body.len()));
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in [one, other, b""] {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
        } else {
            if place.method == "POST" {
                bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
            }
            bytes.extend(b"\r\n");
            bytes.extend(&body);
        }
        let echo = echo.then(|| (format!("{} {target} ", place.method), format!("\nbody: {} bytes", body.len())));
        Asked { carries, bytes, echo, sent: Instant::now() }
    }

    /// How the server shall misbehave.
    fn steering(&mut self, carries: &Carries) -> &'static str {
        match self.rng.u16(..1000) {
            0..=9 => "X-Contoso-Reset: before\r\n",
            10..=19 => "X-Contoso-Reset: mid\r\n",
            20..=39 => "X-Contoso-Reset: after\r\n",
            40..=64 => "X-Contoso-Close: 1\r\n",
            65..=94 => "X-Contoso-Hold-Ms: 10\r\n",
            95..=104 if !carries.is_bound() => "X-Contoso-Unasked-Token: 1\r\n",
            105..=114 if !carries.is_bound() => "X-Contoso-Unasked-Persistence: 1\r\n",
            _ => "",
        }
    }

    fn body(&mut self, method: &str) -> Vec<u8> {
        let length = match (method, self.rng.u8(..10)) {
            ("GET", _) | (_, 0..=3) => 0,
            (_, 4..=8) => self.rng.usize(1..=1024),
            (_, _) => self.rng.usize(1024..=100 * 1024),
        };
        vec![b'x'; length]
    }

    /// `about`: whose mailbox the request names, if it names one.
    fn place(&mut self, about: Option<&Person>) -> Place {
        let cookie = about.filter(|_| self.rng.bool());
        let cookie = cookie.and_then(|person| self.shared.cookies().get(&person.name).cloned());
        let plain = |method, path: &str| Place { method, target: format!("{path}?"), anchor: None, cookie, own: None };
        match (self.rng.u8(..4), about) {
            (0, Some(Person { name, .. })) => {
                let query = format!("Cmd=Sync&User={name}&DeviceId=d&DeviceType=t");
                Place { target: format!("{ACTIVESYNC}?{query}&"), ..plain("POST", "") }
            }
            (1, Some(Person { name, .. })) => {
                Place { anchor: Some(format!("{name}@contoso.com")), ..plain("POST", EWS) }
            }
            (2, _) => plain("POST", EWS),
            (_, _) => plain("GET", OWA),
        }
    }

    fn somebody(&mut self) -> Person {
        let people = &self.shared.plan.people;
        people[self.rng.usize(..people.len())].clone()
    }

    /// Whether to do something rough, in so many of a hundred times.
    fn chance(&mut self, percent: u8) -> bool {
        self.shared.plan.rough && self.rng.u8(..100) < percent
    }

    fn story(&self) -> String {
        format!("client connection {}, {:?}: {}", self.number, self.belief, self.history.join("; "))
    }
}

fn kind(carries: &Carries, named: Named<'_>, status: u16) -> String {
    match (named, carries) {
        (Named::ByTheProxy, _) => format!("answers of the proxy itself, status {status}"),
        (Named::Nobody { .. }, _) => tally::NOBODY.to_owned(),
        (Named::User(_), Carries::Nothing) => tally::ON_SIGNED_IN.to_owned(),
        (Named::User(_), Carries::Basic(_) | Carries::WrongBasic) => tally::BASIC.to_owned(),
        (Named::User(_), Carries::FirstLeg | Carries::LastLeg { .. }) => tally::NTLM.to_owned(),
        (Named::User(_), Carries::Ticket(_)) => tally::KERBEROS.to_owned(),
    }
}

impl From<Over> for End {
    fn from(over: Over) -> Self {
        End::Lost(over)
    }
}

// The last part is the hammer's own, by which its lines are told from others in a log.
const OWA: &str = "/owa/hammer";
const EWS: &str = "/EWS/hammer";
const ACTIVESYNC: &str = "/Microsoft-Server-ActiveSync/hammer";
