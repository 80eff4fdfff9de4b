//! Errands: requests for which the edge signs in itself, for a person, with a Kerberos ticket of theirs (RFC 4559). When
//! a token goes with one, and what follows from the answer. A pure state machine, without sockets or clock.
//!
//! The tickets of a [`Mandate`] have a number of their own ([`PinNumber`]), which is part of the key under which Pingora
//! reuses connections, as it is for a pinned client. So whatever a server takes such a connection for, it is this person
//! and this proof. A changed password, or a ticket that was got anew, has another number, and the old connections die idle.
//!
//! Some servers take the whole connection for whoever signed in over it, some ask with every request; which, is learned
//! ([`Habit`]):
//!
//! | what the server does | so it |
//! |---|---|
//! | says `Persistent-Auth: true` | keeps |
//! | says `Persistent-Auth: false` | asks |
//! | answers a request without token otherwise than by 401 | keeps |
//! | answers a request without token by 401 | asks, if it had not kept before, or does so twice |
//! | answers a token by 401, over a connection that was used | may have come to keep, unless it says what it does |
//!
//! and a request is sent, and perhaps sent again (a 401 proves that it was not served), so:
//!
//! | connection | habit | goes | a 401 is followed by |
//! |---|---|---|---|
//! | new | any | a token | a ticket got anew, if this one was kept; else the end |
//! | reused | asks | a token | a token, over a new one |
//! | (new) | unknown or keeps, and the request cannot be repeated | a token, [over a new one](Errand::needs_new_connection) | the same |
//! | reused | unknown or keeps | nothing | a token, over a new one |
//!
//! One leg is all there is: a challenge that goes on is a 401 like others. A request is sent three times at most, and no
//! 401 reaches the client, who has proved who they are. A connection is used again only if it is signed in for all that is
//! known ([`may_keep`]).

use std::fmt;

use super::pin::{Answered, KEYS_END, PinNumber};

/// In whose name the edge signs in, and what entitles it. Tickets are kept by it: for another mandate there are others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mandate {
    principal: Box<str>,
    proof: Proof,
}

/// What entitles the edge to sign in for somebody.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Their password: a keyed hash of it, under a key that dies with the process.
    Password([u8; 32]),
    /// They are proven, and the domain controllers let the edge's account sign in for them.
    Delegation,
}

/// What a server does with a connection that somebody has signed in over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Habit {
    /// Not seen yet.
    #[default]
    Unknown,
    /// It is theirs from then on.
    Keeps,
    /// Every request has to sign in.
    Asks,
    /// The same, and its answers say so. Should it come to do otherwise, they will say that.
    SaysItAsks,
}

/// One request that the edge signs in for.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Clone, Copy, Debug)]
pub struct Errand {
    number: PinNumber,
    /// The ticket was got for this request, or just before: getting another leads nowhere.
    is_fresh: bool,
    /// A 401 has asked for a token.
    is_asked: bool,
    /// A token went with it.
    sent: bool,
    /// Over a connection that had been used.
    reused: bool,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the client's.
    Served,
    /// The request is sent again, with a token this time.
    AgainWithToken,
    /// The request is sent again, with a ticket got anew and thus over other connections ([`Errand::renewed`]). What was
    /// kept for the mandate is thrown away: the server's key may have changed.
    AgainWithTicket,
    /// The server does not take the ticket, or cannot be asked again.
    Refused,
}

impl Mandate {
    /// `principal` has its realm with it: there may be others of that name elsewhere.
    pub fn new(principal: &str, proof: Proof) -> Self {
        Mandate { principal: principal.into(), proof }
    }

    /// Who it is.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// What entitles the edge.
    pub fn proof(&self) -> Proof {
        self.proof
    }
}

/// Nothing of the hash: it stands for a password.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proof::Password(_) => "Password",
            Proof::Delegation => "Delegation",
        })
    }
}

impl Habit {
    /// Whether a token goes with a request over a connection that is, or is not, `reused`.
    pub fn sends_token(self, reused: bool, may_repeat: bool) -> bool {
        !reused
            || match self {
                Habit::Keeps => false,
                Habit::Unknown => !may_repeat,
                Habit::Asks | Habit::SaysItAsks => true,
            }
    }

    /// What an answer teaches; `sent`: to a request with a token, `reused`: over a connection that had been used.
    #[must_use]
    pub fn learned(self, sent: bool, reused: bool, answer: Answered) -> Habit {
        match (answer.persistent, sent, answer.status) {
            (None, false, 401) if self == Habit::Keeps => Habit::Unknown, // a sign-in may end with its ticket
            (None, true, 401) if self == Habit::Asks && reused => Habit::Unknown, // one that keeps may refuse a token there
            (Some(false), _, _) => Habit::SaysItAsks,
            (None, false, 401) => Habit::Asks,
            (Some(true), _, _) | (None, false, _) => Habit::Keeps,
            (None, true, _) => self,
        }
    }
}

impl Errand {
    /// By the ticket of this number; `is_fresh`: it was got just now.
    pub fn new(number: PinNumber, is_fresh: bool) -> Self {
        Errand { number, is_fresh, is_asked: false, sent: false, reused: false }
    }

    /// The part of Pingora's reuse key that keeps its connections apart from all others. `shared`: that of the shared
    /// connections to the same server, which stands for the way in which the server is trusted.
    pub fn group_key(&self, shared: u64) -> u64 {
        const NUMBER_BITS: u32 = 40; // nobody ever counts so far
        shared << NUMBER_BITS & !KEYS_END | self.number.group_key()
    }

    /// Whether it must not go over a connection that is signed in already: some servers refuse a token there (mod_auth_gssapi
    /// 1.6), and this request will, or may, have to bring one. A sign-in may end at any time, and so a body that cannot be
    /// sent again does not rely on one.
    pub fn needs_new_connection(&self, habit: Habit, may_repeat: bool) -> bool {
        self.is_asked || !may_repeat && matches!(habit, Habit::Unknown | Habit::Keeps)
    }

    /// Pingora has found a connection. Returns whether a token goes with the request; `may_repeat`: its body will be at
    /// hand if it is not served.
    pub fn connected(&mut self, reused: bool, habit: Habit, may_repeat: bool) -> bool {
        self.reused = reused;
        self.sent = self.is_asked || habit.sends_token(reused, may_repeat);
        self.sent
    }

    /// The server has answered; `may_repeat`: the request's body is at hand, all of it.
    pub fn answered(&mut self, answer: Answered, may_repeat: bool) -> Verdict {
        match (answer.status, self.sent) {
            (401, _) if !may_repeat => Verdict::Refused,
            // Either it wants a token, or it refuses one on a connection that is signed in already.
            (401, sent) if !sent || self.reused && !self.is_asked => {
                self.is_asked = true;
                Verdict::AgainWithToken
            }
            (401, _) if self.is_fresh => Verdict::Refused,
            (401, _) => Verdict::AgainWithTicket,
            _ => Verdict::Served,
        }
    }

    /// Goes on by a ticket that was got anew, and has a number that no other had.
    pub fn renewed(&mut self, number: PinNumber) {
        (self.number, self.is_fresh) = (number, true);
    }

    /// Whether a token went with it last.
    pub fn sent_token(&self) -> bool {
        self.sent
    }

    /// Whether it went over a connection that had been used.
    pub fn is_on_reused(&self) -> bool {
        self.reused
    }
}

/// Whether a connection may be used again, for the same mandate. Not after a 401: whatever it is now, it is not signed in.
/// And a new one not after an error that the server may have found before it looked who asks, because the next request
/// counts on the sign-in.
pub fn may_keep(reused: bool, answer: Answered) -> bool {
    let is_signed_in = reused || answer.pins() || answer.status < 400;
    answer.status != 401 && is_signed_in
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const OK: Answered = Answered { status: 200, token: None, persistent: None, closes: false, offers_windows: false };
    const REFUSAL: Answered = Answered { status: 401, offers_windows: true, ..OK };
    const LEG: Answered = Answered { token: Some(None), ..REFUSAL };
    const ANSWERS: [Answered; 7] = [
        OK,
        REFUSAL,
        LEG,
        Answered { persistent: Some(true), ..OK },
        Answered { persistent: Some(false), ..OK },
        Answered { status: 403, ..OK },
        Answered { status: 503, ..OK },
    ];
    const HABITS: [Habit; 4] = [Habit::Unknown, Habit::Keeps, Habit::Asks, Habit::SaysItAsks];

    fn errand(is_fresh: bool) -> Errand {
        Errand::new(PinNumber::next(), is_fresh)
    }

    /// Every course that an errand can take from here on; `tries`: how often it has been sent.
    fn all_courses(errand: Errand, tries: usize) {
        assert!(tries < 3, "a fourth time: {errand:?}");
        for reused in [false, true] {
            for habit in HABITS {
                for may_repeat in [false, true] {
                    for answer in ANSWERS {
                        let mut errand = errand;
                        let sent = errand.connected(reused, habit, may_repeat);
                        assert!(sent || reused, "nobody is signed in over a new connection: {errand:?}");
                        let verdict = errand.answered(answer, may_repeat);
                        let is_refused = answer.status == 401;
                        assert_eq!(verdict == Verdict::Served, !is_refused, "{errand:?} {answer:?}");
                        assert!(!(is_refused && may_keep(reused, answer)), "{errand:?} {answer:?}");
                        match verdict {
                            Verdict::Served | Verdict::Refused => continue,
                            Verdict::AgainWithToken => {
                                assert!(errand.needs_new_connection(habit, may_repeat), "{errand:?}");
                            }
                            Verdict::AgainWithTicket => {
                                let before = errand.group_key(KEYS_END);
                                errand.renewed(PinNumber::next());
                                assert_ne!(
                                    errand.group_key(KEYS_END),
                                    before,
                                    "the old connections are not used again"
                                );
                            }
                        }
                        assert!(may_repeat, "a body that is gone is not sent again: {errand:?}");
                        all_courses(errand, tries + 1);
                    }
                }
            }
        }
    }

    #[test]
    fn every_errand_ends_after_three_tries_and_no_401_is_the_clients() {
        all_courses(errand(false), 0);
        all_courses(errand(true), 0);
    }

    #[test]
    fn where_the_sign_in_is_kept_one_token_is_enough() {
        let mut errand = errand(true);
        assert!(errand.connected(false, Habit::Keeps, true));
        assert!(!errand.connected(true, Habit::Keeps, true));
        assert!(!errand.connected(true, Habit::Keeps, false));
    }

    #[test]
    fn where_nothing_is_known_a_request_that_may_be_repeated_finds_out() {
        assert!(!errand(true).connected(true, Habit::Unknown, true));
        assert!(errand(true).connected(true, Habit::Unknown, false), "one that may not takes no risk");
    }

    #[test]
    fn a_token_that_is_not_asked_each_time_goes_over_a_new_connection() {
        let mut errand = errand(true);
        assert!(errand.needs_new_connection(Habit::Unknown, false) && errand.needs_new_connection(Habit::Keeps, false));
        for (habit, may_repeat) in
            [(Habit::Unknown, true), (Habit::Keeps, true), (Habit::Asks, false), (Habit::SaysItAsks, false)]
        {
            assert!(!errand.needs_new_connection(habit, may_repeat), "{habit:?}");
        }
        errand.connected(true, Habit::Keeps, true);
        errand.answered(REFUSAL, true);
        assert!(errand.needs_new_connection(Habit::Keeps, true), "it has asked");
    }

    #[test]
    fn a_server_that_asks_gets_a_token_with_each_request() {
        assert!(errand(true).connected(true, Habit::Asks, true));
        let mut errand = errand(true);
        errand.connected(true, Habit::Keeps, true);
        assert_eq!(errand.answered(REFUSAL, true), Verdict::AgainWithToken);
        assert!(errand.connected(true, Habit::Keeps, true), "it has asked, whatever its habit is");
        assert_eq!(errand.answered(OK, true), Verdict::Served);
    }

    #[test]
    fn a_token_that_is_refused_on_a_used_connection_is_not_the_tickets_fault_yet() {
        for is_fresh in [false, true] {
            let mut errand = errand(is_fresh);
            assert!(errand.connected(true, Habit::Asks, true));
            assert_eq!(errand.answered(REFUSAL, true), Verdict::AgainWithToken);
            assert!(errand.connected(false, Habit::Unknown, true));
            let verdict = if is_fresh { Verdict::Refused } else { Verdict::AgainWithTicket };
            assert_eq!(errand.answered(REFUSAL, true), verdict);
        }
    }

    #[test]
    fn a_ticket_that_a_server_does_not_take_is_got_anew_once() {
        for refusal in [REFUSAL, LEG] {
            let mut errand = errand(false);
            errand.connected(false, Habit::Unknown, true);
            assert_eq!(errand.answered(refusal, true), Verdict::AgainWithTicket);
            errand.renewed(PinNumber::next());
            errand.connected(false, Habit::Unknown, true);
            assert_eq!(errand.answered(refusal, true), Verdict::Refused);
        }
    }

    #[test]
    fn a_ticket_got_just_now_is_not_got_anew() {
        let mut errand = errand(true);
        errand.connected(false, Habit::Unknown, true);
        assert_eq!(errand.answered(REFUSAL, true), Verdict::Refused);
    }

    #[test]
    fn what_a_server_does_shows_its_habit() {
        let persistent = Answered { persistent: Some(true), ..OK };
        let asks = Answered { persistent: Some(false), ..OK };
        for before in HABITS {
            let token_on_new = |answer| before.learned(true, false, answer);
            assert_eq!(token_on_new(OK), before, "a token that is taken says nothing of the next request");
            assert_eq!(token_on_new(REFUSAL), before);
            let token_on_used = if before == Habit::Asks { Habit::Unknown } else { before };
            assert_eq!(before.learned(true, true, REFUSAL), token_on_used);
            for sent in [false, true] {
                assert_eq!(before.learned(sent, true, persistent), Habit::Keeps);
                assert_eq!(before.learned(sent, true, asks), Habit::SaysItAsks);
            }
            assert_eq!(before.learned(false, true, OK), Habit::Keeps);
            assert_eq!(before.learned(false, true, Answered { status: 403, ..OK }), Habit::Keeps);
            let once = before.learned(false, true, REFUSAL);
            assert_eq!(once, if before == Habit::Keeps { Habit::Unknown } else { Habit::Asks });
            assert_eq!(once.learned(false, true, REFUSAL), Habit::Asks);
        }
    }

    #[test]
    fn a_connection_is_kept_if_it_is_signed_in() {
        let busy = Answered { status: 503, ..OK };
        assert!(may_keep(false, OK) && may_keep(true, OK) && may_keep(true, busy));
        assert!(!may_keep(false, busy), "it may have been too busy to look who asks");
        assert!(
            may_keep(false, Answered { persistent: Some(true), ..busy })
                && may_keep(false, Answered { token: Some(None), ..busy })
        );
        assert!(!may_keep(false, REFUSAL) && !may_keep(true, REFUSAL) && !may_keep(true, LEG));
    }

    #[test]
    fn no_two_mandates_share_a_number() {
        let principals = ["ana@CONTOSO.COM", "ana@FABRIKAM.COM", "bruno@CONTOSO.COM"];
        let proofs = [Proof::Delegation, Proof::Password([0; 32]), Proof::Password([1; 32])];
        let mut kept = HashMap::new();
        for principal in principals {
            for proof in proofs {
                kept.entry(Mandate::new(principal, proof)).or_insert_with(PinNumber::next);
            }
        }
        let numbers: std::collections::HashSet<_> = kept.values().collect();
        assert_eq!(numbers.len(), principals.len() * proofs.len());
    }

    #[test]
    fn connections_are_kept_apart_by_the_ticket_and_by_the_way_their_server_is_trusted() {
        let (one, other) = (errand(true), errand(true));
        let ways = [KEYS_END, KEYS_END | 1, u64::MAX];
        let keys = ways.iter().flat_map(|way| [one.group_key(*way), other.group_key(*way)]);
        let keys: std::collections::HashSet<_> = keys.chain(ways).collect();
        assert_eq!(keys.len(), 9, "none of them is that of shared connections either");
    }

    #[test]
    fn a_mandate_is_told_without_its_proof() {
        let told = format!("{:?}", Mandate::new("ana@CONTOSO.COM", Proof::Password([77; 32])));
        assert!(told.contains("ana@CONTOSO.COM") && !told.contains("77"), "{told}");
    }
}
