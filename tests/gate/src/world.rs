//! The world around the gate: clients, servers, and Pingora's pool of idle connections, without sockets. Each step of it is
//! one that may happen next; whatever must never happen is looked for at every step.
//!
//! What the edge does around the gate (`edge::client`, `edge::course`, the phases of `edge`) is done here as it is there.
//! The servers' own login state is the truth by which everything is judged; the gate sees only what they say.
//!
//! Some requests are errands: the edge signs in for a person, over connections of their ticket's, which lie in the same pool
//! as the shared ones and those of pinned clients.

use std::time::{Duration, Instant};

use crate::{
    dice::Dice,
    errand::{self, Errand, Habit, Verdict},
    identity::token::Leg,
    pin::{Answered, Bounds, Carries, Closed, Expect, Gate, KEYS_END, ORIGINS_MAX, PinNumber, SignIn},
    tickets::{ProvenBy, Tickets},
};

/// What must not happen, and did.
pub type Violation = &'static str;

const USERS: usize = 3;
const TRIES_MAX: u8 = 3;
const TICK: Duration = Duration::from_secs(5);

/// What is possible in one run.
#[derive(Clone, Copy)]
struct Weather {
    /// Nothing fails, nobody leaves in between: every sign-in must succeed and every connection be kept.
    calm: bool,
    /// Pingora's pool hands out connections of others.
    pool_errs: bool,
    bounds: Bounds,
    servers: usize,
    /// How many clients there are at a time.
    clients: usize,
    idle_max: usize,
    /// How many of eight requests the edge signs in for.
    errands: usize,
    /// Servers answer whoever they do not know, too, as nobody. Only where they say what they do with a sign-in, and do it,
    /// can the edge make sure that nobody is answered so who is somebody.
    lenient: bool,
}

/// How a server treats the login of its connections.
#[derive(Clone, Copy, PartialEq)]
enum Semantics {
    /// IIS: a new handshake replaces the old login; a request without credential ends one that is under way.
    Iis,
    /// `mod_auth_gssapi`: a handshake on a connection that is signed in is refused, and the login stays.
    Gssapi,
}

/// Whom a server takes a connection for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Login {
    Nobody,
    Challenged,
    SignedIn(usize),
}

/// An upstream connection. Its index is its number.
#[allow(clippy::struct_excessive_bools)] // facts that do not depend on each other
struct Connection {
    server: usize,
    /// Pingora's reuse key: the pin's number, or `SHARED`, and the server.
    group: u64,
    /// On the leash of this client.
    leash: Option<usize>,
    /// The server has it open.
    open: bool,
    /// The edge has shut it down; nothing can be sent over it.
    shut: bool,
    /// Pingora has dropped it.
    gone: bool,
    login: Login,
    /// What the server last said of the login.
    told: Login,
    last_user: Option<Rider>,
    /// A token went over it, or the server authenticated it.
    personal: bool,
}

const SHARED: u64 = KEYS_END;

/// Who a request is from, for the connection that it goes over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rider {
    /// A client connection.
    Client(usize),
    /// Whoever this ticket was got for, by whichever client connection.
    Ticket(usize),
}

/// How a server treats what the edge signs in for.
#[derive(Clone, Copy)]
struct Manners {
    /// It keeps the sign-in of a connection; else it asks with each request.
    keeps: bool,
    /// It says which, by `Persistent-Auth`.
    says_so: bool,
}

struct Client {
    here: bool,
    gate: Option<Gate>,
    pinned_at: Instant,
    /// Connections on the leash that the edge can shut down.
    held: Vec<usize>,
    /// The server it is signed in at, or signing in.
    bound: Option<usize>,
    stage: Stage,
    /// The connection whose challenge it has, and the request's user.
    challenge: Option<(usize, usize)>,
    /// Users that servers have authenticated for this client connection.
    last: Option<usize>,
    /// Who it is after its last message was accepted.
    is: Option<usize>,
    requests: u64,
    answers_after_expiry: u64,
    /// The edge knows that it must end.
    must_end: bool,
    /// There is a reason to turn it away.
    may_end: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Idle,
    Arrived(Request),
    Approached(Request, Expect),
    Found(Request, Expect, usize, bool),
    Sent(Request, usize, bool),
    Answered(Request, usize, bool, Answer),
}

#[derive(Clone, Copy, Debug)]
struct Request {
    brings: Brings,
    server: usize,
    idempotent: bool,
    /// Its body is at hand when it has to be sent again.
    may_repeat: bool,
    /// How often it may have been delivered, since a 401 last said that it was not served.
    deliveries: u8,
    /// The edge signs in for it.
    errand: Option<OnBehalf>,
}

/// The errand that a request is, once there is a ticket for it.
#[derive(Clone, Copy, Debug)]
struct OnBehalf {
    errand: Errand,
    ticket: usize,
    /// Pingora's reuse key.
    group: u64,
    sends_token: bool,
    answers: u8,
}

/// A request's credential.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Brings {
    Nothing,
    Basic(usize),
    /// The first message of a handshake.
    Begin(usize),
    /// A whole sign-in in one message (Kerberos).
    Ticket(usize),
    /// The answer to the challenge of a connection; `None`: to none.
    Answer(usize, Option<usize>),
    /// Somebody is proven, and the edge is to sign in for them.
    Proof(usize, ProvenBy),
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    says: Answered,
    served_as: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrives,
    Sends(usize),
    Proceeds(usize),
    Leaves(usize),
    /// The edge ends a client connection whose server connection is gone.
    IsEnded(usize),
    ServerCloses(usize),
    /// Pingora finds out that an idle connection is closed, or needs its place.
    Evicted(usize),
    /// The gate is told of a connection that Pingora has dropped.
    Noticed(usize),
    TimePasses,
    PasswordChanges(usize),
    /// A server gets a new key: what tickets there are for it are good no more.
    KeyChanges(usize),
    /// A ticket comes to its end, or is thrown out for others.
    TicketEnds(usize),
    /// A server's administrator changes how it treats sign-ins.
    MannersChange(usize),
}

/// One run.
pub struct World {
    dice: Dice,
    weather: Weather,
    tells: bool,
    now: Instant,
    semantics: [Semantics; 8],
    manners: [Manners; 8],
    habits: [Habit; 8],
    tickets: Tickets,
    connections: Vec<Connection>,
    clients: Vec<Client>,
    idle: Vec<usize>,
    notices: Vec<usize>,
    enabled: Vec<Step>,
}

/// Plays one run to its end. `tells`: every step is printed.
pub fn play(seed: u64, tells: bool) -> Result<Tally, Violation> {
    let mut world = World::new(seed, tells);
    let mut tally = Tally::default();
    for _ in 0..40 + world.dice.below(60) {
        world.step(&mut tally)?;
    }
    for client in 0..world.clients.len() {
        world.leave(client)?;
    }
    Ok(tally)
}

/// What happened, so that a simulation in which nothing does is noticed.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub steps: u64,
    pub answers: u64,
    pub sign_ins: u64,
    pub served_by_connection: u64,
    pub refused: u64,
    pub strangers: u64,
    pub errands: u64,
    pub errands_without_token: u64,
    pub errands_repeated: u64,
}

impl World {
    fn new(seed: u64, tells: bool) -> Self {
        let mut dice = Dice::new(seed);
        let calm = dice.one_in(4);
        let few = Bounds { lifetime: TICK * (2 + dice.small(3)), requests_max: 1 + u64::from(dice.small(4)) };
        let many = Bounds { lifetime: Duration::MAX, requests_max: u64::MAX };
        let is_wide = !calm && dice.one_in(4);
        let weather = Weather {
            calm,
            pool_errs: !calm && dice.one_in(8),
            bounds: if !calm && dice.one_in(3) { few } else { many },
            servers: if is_wide { ORIGINS_MAX + 2 } else { 1 + dice.below(3) },
            clients: if is_wide { 1 } else { 3 },
            idle_max: if calm || is_wide { usize::MAX } else { 2 + dice.below(6) },
            errands: if is_wide { 0 } else { [0, 2, 7][dice.below(3)] },
            lenient: dice.one_in(3),
        };
        let semantics = std::array::from_fn(|_| if dice.one_in(3) { Semantics::Gssapi } else { Semantics::Iis });
        let manners =
            std::array::from_fn(|_| Manners { keeps: dice.one_in(2), says_so: weather.lenient || dice.one_in(2) });
        let (habits, tickets) = ([Habit::Unknown; 8], Tickets::default());
        let (connections, clients, idle, notices, enabled) = (vec![], vec![], vec![], vec![], vec![]);
        let now = Instant::now();
        World {
            dice,
            weather,
            tells,
            now,
            semantics,
            manners,
            habits,
            tickets,
            connections,
            clients,
            idle,
            notices,
            enabled,
        }
    }

    /// Lets one of the things happen that may happen now.
    fn step(&mut self, tally: &mut Tally) -> Result<(), Violation> {
        tally.steps += 1;
        let mut enabled = std::mem::take(&mut self.enabled);
        enabled.clear();
        self.enable(&mut enabled);
        let step = enabled[self.dice.below(enabled.len())];
        self.enabled = enabled;
        self.tell(|| format!("{step:?}"));
        match step {
            Step::Arrives => self.clients.push(Client::new(self.now)),
            Step::Sends(client) => self.send(client)?,
            Step::Proceeds(client) => self.proceed(client, tally)?,
            Step::Leaves(client) | Step::IsEnded(client) => self.leave(client)?,
            Step::ServerCloses(connection) => self.connections[connection].open = false,
            Step::Evicted(connection) => {
                self.idle.retain(|idle| *idle != connection);
                self.drop_connection(connection);
            }
            Step::Noticed(index) => {
                let connection = self.notices.swap_remove(index);
                self.notice(connection);
            }
            Step::TimePasses => self.now += TICK,
            Step::PasswordChanges(user) => self.tickets.change_password(user),
            Step::KeyChanges(server) => self.tickets.change_key(server),
            Step::TicketEnds(ticket) => self.tickets.drop(ticket),
            Step::MannersChange(server) => self.manners[server].keeps ^= true,
        }
        self.check_bounds()
    }

    fn enable(&mut self, enabled: &mut Vec<Step>) {
        let here = self.clients.iter().filter(|client| client.here).count();
        if here < self.weather.clients {
            enabled.push(Step::Arrives);
        }
        let troubled = !self.weather.calm && self.dice.one_in(5);
        for (index, client) in self.clients.iter().enumerate().filter(|(_, client)| client.here) {
            match client.stage {
                Stage::Idle => enabled.extend([Step::Sends(index), Step::Sends(index)]),
                Stage::Arrived(_)
                | Stage::Approached(..)
                | Stage::Found(..)
                | Stage::Sent(..)
                | Stage::Answered(..) => enabled.extend([Step::Proceeds(index), Step::Proceeds(index)]),
            }
            if matches!(client.stage, Stage::Idle) && client.is_over() {
                enabled.push(Step::IsEnded(index));
            }
            let is_done = self.weather.calm && matches!(client.stage, Stage::Idle) && here == self.weather.clients;
            if troubled && self.dice.one_in(3) || is_done && self.dice.one_in(4) {
                enabled.push(Step::Leaves(index));
            }
        }
        enabled.extend((0..self.notices.len()).map(Step::Noticed));
        for (index, connection) in self.connections.iter().enumerate().filter(|(_, it)| !it.gone) {
            let is_idle = self.idle.contains(&index);
            if troubled && connection.open {
                enabled.push(Step::ServerCloses(index));
            }
            if is_idle && (troubled || !connection.open || connection.shut) {
                enabled.push(Step::Evicted(index));
            }
        }
        if troubled {
            enabled.push(Step::TimePasses);
            enabled.push(Step::PasswordChanges(self.dice.below(USERS)));
            enabled.push(Step::KeyChanges(self.dice.below(self.weather.servers)));
            if !self.weather.lenient {
                enabled.push(Step::MannersChange(self.dice.below(self.weather.servers)));
            }
            enabled.extend((0..self.tickets.count()).map(Step::TicketEnds));
        }
    }

    /// A client sends a request, and the edge finds out where it goes.
    fn send(&mut self, index: usize) -> Result<(), Violation> {
        let (calm, dice, client) = (self.weather.calm, &mut self.dice, &mut self.clients[index]);
        let user = dice.below(USERS);
        let brings = match (client.challenge, dice.below(8)) {
            _ if dice.below(8) < self.weather.errands => {
                Brings::Proof(user, proven_by(dice, self.tickets.password(user), calm))
            }
            (Some((connection, user)), 0..6) => Brings::Answer(user, Some(connection)),
            (_, 0..3) => Brings::Nothing,
            (_, 3..5) => Brings::Begin(user),
            (_, 5) if self.weather.clients > 1 => Brings::Ticket(user),
            (_, 6) if !calm && dice.one_in(4) => Brings::Answer(user, None),
            (_, _) => Brings::Basic(user),
        };
        let carries = brings.carries();
        if carries.pins() && client.gate.is_none() {
            client.gate = Some(Gate::new(self.now));
            client.pinned_at = self.now;
        }
        if calm && !brings.is_token() && carries.pins() {
            return Err("h: a client is pinned that has no need of it");
        }
        if let Some(gate) = &mut client.gate {
            gate.admit();
            client.requests += 1;
        }
        let bound = client.bound.filter(|_| carries != Carries::PerRequest);
        let astray = !calm && dice.one_in(5); // a new configuration, say
        let server = bound.filter(|_| !astray).unwrap_or_else(|| dice.below(self.weather.servers));
        let (idempotent, may_repeat) = (dice.one_in(2), !dice.one_in(4));
        let request = Request { brings, server, idempotent, may_repeat, deliveries: 0, errand: None };
        if brings.is_token() || calm && brings == Brings::Nothing {
            client.challenge = None;
        }
        let is_answered_here = dice.one_in(16); // a redirect, say
        if is_answered_here && !calm {
            return self.answer_itself(index);
        }
        client.stage = Stage::Arrived(request);
        Ok(())
    }

    fn proceed(&mut self, index: usize, tally: &mut Tally) -> Result<(), Violation> {
        match self.clients[index].stage {
            Stage::Idle => Ok(()),
            Stage::Arrived(request) => self.approach(index, request, tally),
            Stage::Approached(request, expect) => self.find(index, request, expect),
            Stage::Found(request, expect, connection, reused) => {
                self.connected(index, request, expect, connection, reused, tally)
            }
            Stage::Sent(request, connection, reused) => self.serve(index, request, connection, reused, tally),
            Stage::Answered(request, connection, reused, answer) => match request.errand {
                Some(it) => self.answered_for(index, (request, it), connection, reused, answer, tally),
                None => self.answered(index, request, connection, answer, tally),
            },
        }
    }

    /// `upstream_peer`
    fn approach(&mut self, index: usize, mut request: Request, tally: &mut Tally) -> Result<(), Violation> {
        if let Brings::Proof(user, by) = request.brings {
            if request.errand.is_none() {
                let Some((ticket, is_fresh)) = self.tickets.get(user, by) else { return self.answer_itself(index) };
                if !self.tickets.ticket(ticket).is_of(user, by) {
                    return Err("i: a person is signed in for by the ticket of another person or proof");
                }
                let errand = Errand::new(self.tickets.ticket(ticket).number, is_fresh);
                request.errand = Some(OnBehalf { errand, ticket, group: SHARED, sends_token: false, answers: 0 });
            }
            if let Some(it) = &mut request.errand {
                let habit = self.habits[request.server];
                it.group = match it.errand.needs_new_connection(habit, request.may_repeat) {
                    true => PinNumber::next().group_key(),
                    false => it.errand.group_key(SHARED),
                };
            }
            self.clients[index].stage = Stage::Approached(request, Expect::New);
            return Ok(());
        }
        let client = &mut self.clients[index];
        let Some(gate) = &client.gate else {
            client.stage = Stage::Approached(request, Expect::New);
            return Ok(());
        };
        match gate.approach(origin(gate.number().group_key(), request.server), request.brings.carries()) {
            Ok(expect) => client.stage = Stage::Approached(request, expect),
            Err(closed) => {
                self.tell(|| format!("  refused: {closed}"));
                tally.refused += 1;
                let has_reason = match closed {
                    Closed::Lost => self.clients[index].may_end,
                    Closed::Astray => !self.weather.calm && matches!(request.brings, Brings::Answer(..)),
                    Closed::Reopen | Closed::Stranger => false,
                };
                if !has_reason {
                    return Err("h: a request is refused without a reason");
                }
                self.leave(index)?;
            }
        }
        Ok(())
    }

    /// Pingora takes an idle connection, or opens one.
    fn find(&mut self, index: usize, request: Request, expect: Expect) -> Result<(), Violation> {
        let gate = self.clients[index].gate.as_ref().filter(|_| request.errand.is_none());
        let pin = gate.map(|gate| gate.number().group_key());
        let group = match request.errand {
            Some(it) => it.group,
            None => pin.unwrap_or(SHARED),
        };
        if self.weather.pool_errs && pin.is_some() && !self.idle.is_empty() && self.dice.one_in(4) {
            let other = self.idle.swap_remove(self.dice.below(self.idle.len()));
            self.clients[index].stage = Stage::Found(request, expect, other, true);
            return Ok(());
        }
        let its_own = |it: &Connection| it.group == group && it.server == request.server;
        let start = self.dice.below(self.idle.len().max(1));
        let order = (0..self.idle.len()).map(|at| (at + start) % self.idle.len());
        let at = order.into_iter().find(|at| its_own(&self.connections[self.idle[*at]]));
        if let Some(at) = at {
            let connection = self.idle.swap_remove(at);
            let it = &self.connections[connection];
            if !it.shut && (it.open || self.dice.one_in(2)) {
                self.clients[index].stage = Stage::Found(request, expect, connection, true);
                return Ok(());
            }
            self.drop_connection(connection); // it is seen to be closed
        }
        if !self.weather.calm && self.dice.one_in(24) {
            return self.leave(index); // the server does not accept connections
        }
        let has_one = self.connections.iter().any(|it| its_own(it) && !it.gone && it.open && !it.shut);
        if self.weather.calm && pin.is_some() && has_one {
            return Err("h: a second connection of one client to one server is opened");
        }
        let connection = self.connections.len();
        let is_leashed = pin.is_some() && expect == Expect::New;
        if is_leashed {
            self.shut_what_is_not_owned(index);
            self.clients[index].held.push(connection);
        }
        let leash = is_leashed.then_some(index);
        self.connections.push(Connection::new(request.server, group, leash));
        self.clients[index].stage = Stage::Found(request, expect, connection, false);
        Ok(())
    }

    /// `connected_to_upstream`, and the sending of the request.
    fn connected(
        &mut self,
        index: usize,
        mut request: Request,
        expect: Expect,
        connection: usize,
        reused: bool,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        let client = &mut self.clients[index];
        let mut rider = Rider::Client(index);
        if let Some(it) = &mut request.errand {
            let habit = self.habits[request.server];
            it.sends_token = it.errand.connected(reused, habit, request.may_repeat);
            rider = Rider::Ticket(it.ticket);
            if !reused && !it.sends_token {
                return Err("i: nobody signs in over a new connection");
            }
            if self.weather.calm && reused && it.sends_token && habit == Habit::Keeps && it.answers == 0 {
                return Err("h: a token is sent where none is needed");
            }
        } else if let Some(gate) = &mut client.gate {
            let which = client.held.contains(&connection).then_some(connection as u64);
            let passed = gate.connected(origin(gate.number().group_key(), request.server), expect, reused, which);
            self.shut_what_is_not_owned(index);
            if let Err(closed) = passed {
                self.tell(|| format!("  closed: {closed}"));
                self.drop_connection(connection);
                if closed == Closed::Reopen {
                    self.clients[index].stage = Stage::Arrived(request);
                    return Ok(());
                }
                tally.strangers += 1;
                return if self.weather.pool_errs { self.leave(index) } else { Err("h: a stranger in Pingora's pool") };
            }
        }
        request.deliveries += 1;
        let (is_pinned, it) = (self.clients[index].gate.is_some(), &mut self.connections[connection]);
        if request.deliveries > 1 && (is_pinned || !request.idempotent) {
            return Err("e: a request may have been delivered twice");
        }
        if it.personal && it.last_user != Some(rider) {
            return Err("a: a connection that somebody authenticated, or tried to, is used by somebody else");
        }
        let is_token = request.brings.is_token() || request.errand.is_some_and(|it| it.sends_token);
        if it.group == SHARED && is_token {
            return Err("b: a shared connection carries a credential that is bound to the connection");
        }
        if matches!(request.brings, Brings::Answer(_, Some(challenged)) if challenged != connection) {
            return Err("d: the answer to a challenge goes to a connection that did not give the challenge");
        }
        it.personal |= is_token;
        it.last_user = Some(rider);
        self.clients[index].stage = Stage::Sent(request, connection, reused);
        Ok(())
    }

    /// The server answers, if it still can.
    fn serve(
        &mut self,
        index: usize,
        request: Request,
        connection: usize,
        reused: bool,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        let it = &self.connections[connection];
        if !it.open || it.shut {
            let is_pinned = self.clients[index].gate.is_some();
            self.drop_connection(connection);
            if !is_pinned && reused && request.idempotent {
                self.clients[index].stage = Stage::Arrived(request); // as `error_while_proxy` does
                return Ok(());
            }
            return self.leave(index);
        }
        let answer = match request.errand {
            Some(it) => self.judged_for(it, request.server, connection),
            None => self.judged_by_server(index, request, connection)?,
        };
        if answer.says.closes {
            self.connections[connection].open = false;
        }
        tally.sign_ins += u64::from(request.brings.is_token() && answer.served_as.is_some());
        tally.served_by_connection += u64::from(request.brings == Brings::Nothing && answer.served_as.is_some());
        self.tell(|| format!("  connection {connection}: {answer:?}"));
        self.clients[index].stage = Stage::Answered(request, connection, reused, answer);
        Ok(())
    }

    /// What a server does with a request, and what it says of it.
    fn judged_by_server(&mut self, index: usize, request: Request, connection: usize) -> Result<Answer, Violation> {
        let semantics = self.semantics[request.server];
        let (calm, dice, it) = (self.weather.calm, &mut self.dice, &mut self.connections[connection]);
        let fails = !calm && dice.one_in(8);
        let unasked = !calm && dice.one_in(8);
        let (challenge, closes) = (Answered { status: 401, token: Some(None), ..Answered::default() }, false);
        let refusal = Answered { token: None, ..challenge };
        let success = Answered { status: if calm { 200 } else { [200, 302, 403, 500][dice.below(4)] }, ..refusal };
        let is_signed_in = matches!(it.login, Login::SignedIn(_));
        let (login, mut says, served_as) = match request.brings {
            Brings::Proof(..) => return Err("nobody is proven to the server itself"),
            Brings::Nothing => match it.login {
                Login::SignedIn(user) => (it.login, success, Some(user)),
                Login::Challenged if semantics == Semantics::Gssapi => (it.login, refusal, None),
                Login::Nobody | Login::Challenged if unasked => (Login::Challenged, challenge, None),
                Login::Nobody | Login::Challenged if dice.one_in(2) => (Login::Nobody, success, None),
                Login::Nobody | Login::Challenged => (Login::Nobody, refusal, None),
            },
            Brings::Basic(_) if fails => (it.login, refusal, None),
            // The server takes the whole connection for that user, and says so.
            Brings::Basic(user) if unasked => {
                let persistent = dice.one_in(2).then_some(true);
                let token = persistent.is_none().then_some(None);
                (Login::SignedIn(user), Answered { persistent, token, ..success }, Some(user))
            }
            Brings::Basic(user) => (it.login, success, Some(user)),
            _ if is_signed_in && semantics == Semantics::Gssapi => (it.login, refusal, None),
            Brings::Begin(_) => (Login::Challenged, challenge, None),
            Brings::Ticket(_) if fails => (Login::Nobody, refusal, None),
            Brings::Answer(..) if it.login == Login::Challenged && fails && unasked => (it.login, challenge, None),
            Brings::Answer(_, from) if from != Some(connection) || it.login != Login::Challenged || fails => {
                if calm {
                    return Err("h: a handshake fails although nothing went wrong");
                }
                (Login::Nobody, refusal, None)
            }
            Brings::Ticket(user) | Brings::Answer(user, _) => {
                let persistent = dice.one_in(2).then_some(true);
                (Login::SignedIn(user), Answered { persistent, ..success }, Some(user))
            }
        };
        says.closes = closes || !calm && dice.one_in(12);
        it.login = login;
        it.personal |= login != Login::Nobody;
        let client = &mut self.clients[index];
        match (request.brings, served_as) {
            (Brings::Nothing, Some(user)) if client.last != Some(user) => {
                return Err("c: a request without credential is served as somebody who did not sign in here");
            }
            (Brings::Nothing, user) if calm && client.is.is_some() && client.is != user => {
                return Err("h: somebody who signed in is not served as who they are");
            }
            (Brings::Nothing, _) | (_, None) => {}
            (_, Some(user)) => {
                if login == Login::SignedIn(user) && !matches!(request.brings, Brings::Basic(_)) || says.pins() {
                    client.last = Some(user);
                }
                client.is = if request.brings.is_token() { Some(user) } else { client.is };
            }
        }
        if says.status == 401 {
            client.is = None;
        }
        Ok(Answer { says, served_as })
    }

    /// What a server does with a request that the edge signs in for, and what it says of it. Whoever asks has to be known.
    fn judged_for(&mut self, it: OnBehalf, server: usize, connection: usize) -> Answer {
        let (calm, user, manners) = (self.weather.calm, self.tickets.ticket(it.ticket).user, self.manners[server]);
        let is_opened = it.sends_token && self.tickets.opens(it.ticket, server);
        let (dice, on) = (&mut self.dice, &mut self.connections[connection]);
        let closes = !calm && dice.one_in(12);
        let leg = (!calm && dice.one_in(4)).then_some(None);
        let refusal = Answered { status: 401, token: leg, closes, ..Answered::default() };
        let persistent = manners.says_so.then_some(manners.keeps);
        let success = Answered { status: if calm { 200 } else { [200, 302, 403, 500][dice.below(4)] }, ..refusal };
        let success = Answered { token: None, persistent: persistent.filter(|_| it.sends_token), ..success };
        if !calm && dice.one_in(12) {
            let busy = Answered { status: 503, token: None, ..refusal };
            return Answer { says: busy, served_as: None }; // before it looked who asks
        }
        if !manners.keeps || !calm && !self.weather.lenient && dice.one_in(24) {
            on.login = Login::Nobody;
        }
        let keeps_old = on.login != Login::Nobody && self.semantics[server] == Semantics::Gssapi;
        let served_as = match (it.sends_token, on.login) {
            (true, _) if is_opened && !keeps_old && (calm || !dice.one_in(12)) => Some(user),
            (false, Login::SignedIn(user)) => Some(user),
            (true, _) | (false, Login::Nobody | Login::Challenged) => None,
        };
        match served_as {
            Some(user) if manners.keeps => on.login = Login::SignedIn(user),
            None if it.sends_token && !keeps_old => on.login = Login::Nobody,
            Some(_) | None => {}
        }
        on.personal |= on.login != Login::Nobody;
        let is_served = served_as.is_some() || self.weather.lenient && !it.sends_token;
        Answer { says: if is_served { success } else { refusal }, served_as }
    }

    /// An errand has been answered.
    fn answered_for(
        &mut self,
        index: usize,
        (mut request, mut it): (Request, OnBehalf),
        connection: usize,
        reused: bool,
        Answer { says, served_as }: Answer,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        let user = self.tickets.ticket(it.ticket).user;
        tally.errands += 1;
        tally.errands_without_token += u64::from(served_as.is_some() && !it.sends_token);
        it.answers += 1;
        if it.answers > TRIES_MAX {
            return Err("g: a request is sent too often");
        }
        if says.status < 400 && served_as != Some(user) {
            return Err("i: a person is answered as somebody else");
        }
        self.habits[request.server] = self.habits[request.server].learned(it.sends_token, reused, says);
        let verdict = it.errand.answered(says, request.may_repeat);
        self.tell(|| format!("  {verdict:?}"));
        if errand::may_keep(reused, says) && !says.closes {
            self.keep(connection);
        } else {
            self.connections[connection].shut = true;
            self.drop_connection(connection);
        }
        match verdict {
            Verdict::Served if says.status == 401 => return Err("i: a person who is proven gets a 401"),
            Verdict::Refused if says.status != 401 || self.weather.calm => {
                return Err("h: a person is refused without a reason");
            }
            Verdict::Served | Verdict::Refused => return self.answer_itself(index),
            Verdict::AgainWithToken | Verdict::AgainWithTicket if says.status != 401 || !request.may_repeat => {
                return Err("e: a request is sent again that was served, or whose body is gone");
            }
            Verdict::AgainWithToken => {}
            Verdict::AgainWithTicket => {
                self.tickets.drop(it.ticket);
                let Brings::Proof(user, by) = request.brings else { return Err("an errand without a proof") };
                let Some((ticket, _)) = self.tickets.get(user, by) else { return self.answer_itself(index) };
                it.ticket = ticket;
                it.errand.renewed(self.tickets.ticket(ticket).number);
            }
        }
        tally.errands_repeated += 1;
        (request.errand, request.deliveries) = (Some(it), 0);
        self.clients[index].stage = Stage::Arrived(request);
        Ok(())
    }

    /// The client has its answer, and the gate, if there is one, was not asked for it.
    fn answer_itself(&mut self, index: usize) -> Result<(), Violation> {
        let (bounds, client) = (self.weather.bounds, &mut self.clients[index]);
        client.stage = Stage::Idle;
        client.answers_after_expiry += u64::from(client.is_expired(self.now, bounds));
        let has_expired = client.gate.as_ref().is_some_and(|gate| gate.has_expired(self.now, bounds));
        if has_expired { self.leave(index) } else { Ok(()) }
    }

    /// `response_filter`, and what follows.
    fn answered(
        &mut self,
        index: usize,
        request: Request,
        connection: usize,
        answer: Answer,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        tally.answers += 1;
        let (carries, says, bounds) = (request.brings.carries(), answer.says, self.weather.bounds);
        self.hear(index, request, connection, says);
        if !self.weather.calm && !self.connections[connection].open && self.dice.one_in(4) {
            self.drop_connection(connection);
            self.notices.retain(|notice| *notice != connection);
            self.notice(connection); // the bad news is faster than the answer
        }
        let client = &mut self.clients[index];
        let must_end = client.must_end;
        let ends = if let Some(gate) = &mut client.gate {
            let origin = origin(gate.number().group_key(), request.server);
            match gate.answered(origin, carries, 0, says) {
                SignIn::Unchanged => {}
                SignIn::Challenged | SignIn::Accepted { .. } => client.bound = Some(request.server),
                SignIn::Rejected => client.bound = None,
            }
            gate.ends(origin, says, self.now, bounds)
        } else {
            self.connections[connection].shut |= says.pins(); // `isolate`
            says.pins()
        };
        let is_expired = client.is_expired(self.now, bounds);
        client.answers_after_expiry += u64::from(is_expired);
        if is_expired && self.connections[connection].told != Login::Challenged && !ends {
            return Err("g: a client that signs in no more is served beyond its lifetime or number of requests");
        }
        self.shut_what_is_not_owned(index);
        if must_end && !ends {
            return Err("f: a client connection outlives the connection that it was signed in over");
        }
        let (is_told, it) = (self.clients[index].gate.is_some(), &self.connections[connection]);
        if is_told && says.closes && it.told != Login::Nobody && !ends {
            return Err("f: a client is not told that its connection ends");
        }
        if self.weather.calm && ends {
            return Err("h: a client connection ends without a reason");
        }
        if matches!(request.brings, Brings::Begin(_) | Brings::Answer(..)) && says.token.is_some() {
            let user = request.brings.user();
            self.clients[index].challenge = Some((connection, user));
        }
        self.clients[index].stage = Stage::Idle;
        if says.closes {
            self.drop_connection(connection);
        } else {
            self.keep(connection);
        }
        if ends { self.leave(index) } else { Ok(()) }
    }

    /// Pingora keeps a connection for the next request.
    fn keep(&mut self, connection: usize) {
        if !it_lives(&self.connections[connection]) {
            return self.drop_connection(connection);
        }
        self.idle.push(connection);
        if self.idle.len() > self.weather.idle_max {
            let oldest = self.idle.remove(0);
            self.drop_connection(oldest);
        }
    }

    /// What an answer says to whoever listens to it alone, by rules of this file's own.
    fn hear(&mut self, index: usize, request: Request, connection: usize, says: Answered) {
        let told = match says.status {
            401 if says.token.is_some() => Login::Challenged,
            401 => Login::Nobody,
            _ if request.brings.is_token() || says.token.is_some() || says.persistent == Some(true) => {
                Login::SignedIn(0)
            }
            _ => self.connections[connection].told,
        };
        if told != Login::Nobody && self.clients[index].gate.is_some() {
            let others = self.connections.iter_mut().filter(|it| it.leash == Some(index));
            others.for_each(|it| it.told = Login::Nobody);
        }
        self.connections[connection].told = told;
    }

    /// Pingora drops a connection. Its tracer tells the gate, sooner or later.
    fn drop_connection(&mut self, connection: usize) {
        let it = &mut self.connections[connection];
        if std::mem::replace(&mut it.gone, true) {
            return;
        }
        if let Some(index) = it.leash {
            self.clients[index].may_end |= it.told != Login::Nobody;
            self.notices.push(connection);
        }
    }

    /// `Watch::on_disconnected`
    fn notice(&mut self, connection: usize) {
        let it = &self.connections[connection];
        let Some(client) = it.leash.map(|index| &mut self.clients[index]) else { return };
        client.may_end |= it.told != Login::Nobody;
        let Some(gate) = &mut client.gate else { return };
        client.must_end |= it.told != Login::Nobody;
        client.held.retain(|held| *held != connection);
        gate.lost(connection as u64);
    }

    fn shut_what_is_not_owned(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(gate) = &client.gate else { return };
        let connections = &mut self.connections;
        client.held.retain(|held| {
            let is_owned = gate.owns(*held as u64);
            let it = &mut connections[*held];
            client.may_end |= !is_owned && it.told != Login::Nobody;
            it.shut |= !is_owned;
            is_owned
        });
    }

    /// The client connection ends, by whichever side. Its gate is dropped, and what it held is shut down.
    fn leave(&mut self, index: usize) -> Result<(), Violation> {
        let client = &mut self.clients[index];
        if !client.here {
            return Ok(());
        }
        client.here = false;
        let (group, stage) = (client.gate.take().map(|gate| gate.number().group_key()), client.stage);
        client.held.drain(..).for_each(|held| self.connections[held].shut = true);
        if let Stage::Found(_, _, busy, _) | Stage::Sent(_, busy, _) | Stage::Answered(_, busy, ..) = stage {
            self.drop_connection(busy);
        }
        self.clients[index].stage = Stage::Idle;
        let is_left_open = |it: &Connection| Some(it.group) == group && !it.shut && !it.gone;
        if self.connections.iter().any(is_left_open) {
            return Err("f: a client is gone, and a connection of its own is still open");
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), Violation> {
        for (index, client) in self.clients.iter().enumerate().filter(|(_, client)| client.here) {
            let is_open = |it: &&Connection| it.leash == Some(index) && !it.gone && !it.shut;
            let is_opening = matches!(client.stage, Stage::Found(..));
            if self.connections.iter().filter(is_open).count() > ORIGINS_MAX + usize::from(is_opening) {
                return Err("g: a client has more connections than it may");
            }
            if client.held.len() > ORIGINS_MAX + usize::from(is_opening) {
                return Err("g: more connections of a client are held than it may have");
            }
            // A challenge, and then the answer to what the client says to it.
            if client.answers_after_expiry > 2 {
                return Err("g: a client is served beyond its lifetime or number of requests");
            }
        }
        Ok(())
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{}", what());
        }
    }
}

impl Connection {
    fn new(server: usize, group: u64, leash: Option<usize>) -> Self {
        let (login, told, last_user, personal) = (Login::Nobody, Login::Nobody, None, false);
        Connection { server, group, leash, open: true, shut: false, gone: false, login, told, last_user, personal }
    }
}

impl Client {
    fn new(now: Instant) -> Self {
        Client {
            here: true,
            gate: None,
            pinned_at: now,
            held: Vec::new(),
            bound: None,
            stage: Stage::Idle,
            challenge: None,
            last: None,
            is: None,
            requests: 0,
            answers_after_expiry: 0,
            must_end: false,
            may_end: false,
        }
    }

    fn is_over(&self) -> bool {
        self.gate.as_ref().is_some_and(Gate::is_over)
    }

    fn is_expired(&self, now: Instant, bounds: Bounds) -> bool {
        let is_old = now.duration_since(self.pinned_at) >= bounds.lifetime;
        self.gate.is_some() && (is_old || self.requests >= bounds.requests_max)
    }
}

impl Brings {
    fn carries(self) -> Carries {
        match self {
            Brings::Nothing => Carries::Nothing,
            Brings::Basic(_) | Brings::Proof(..) => Carries::PerRequest,
            Brings::Begin(_) | Brings::Ticket(_) => Carries::Token(Leg::First),
            Brings::Answer(..) => Carries::Token(Leg::Next),
        }
    }

    fn is_token(self) -> bool {
        matches!(self, Brings::Begin(_) | Brings::Ticket(_) | Brings::Answer(..))
    }

    fn user(self) -> usize {
        match self {
            Brings::Nothing => 0,
            Brings::Basic(user)
            | Brings::Begin(user)
            | Brings::Ticket(user)
            | Brings::Answer(user, _)
            | Brings::Proof(user, _) => user,
        }
    }
}

/// The password of now, or by chance the one before, which the directory's cache still holds for right.
fn proven_by(dice: &mut Dice, password: u8, calm: bool) -> ProvenBy {
    match dice.below(4) {
        0 => ProvenBy::Delegation,
        1 if !calm => ProvenBy::Password(password.saturating_sub(1)),
        _ => ProvenBy::Password(password),
    }
}

fn origin(group: u64, server: usize) -> u64 {
    group << 3 | server as u64
}

fn it_lives(connection: &Connection) -> bool {
    !connection.shut && !connection.gone
}
