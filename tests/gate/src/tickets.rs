//! The tickets that the edge keeps for people it signs in for, and what the domain controllers know of their passwords.

use std::collections::HashMap;

use crate::{
    errand::{Mandate, Proof},
    pin::PinNumber,
};

/// Two of them have the same name, in two domains.
const PRINCIPALS: [&str; 3] = ["ana@CONTOSO.COM", "ana@FABRIKAM.COM", "bruno@CONTOSO.COM"];

/// By what a person is proven: a password, of which each is newer than the ones before, or nothing that is passed on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProvenBy {
    Password(u8),
    Delegation,
}

/// A ticket that was got once. Its index is what everything is judged by: the edge sees only its number.
pub struct Ticket {
    pub user: usize,
    pub number: PinNumber,
    by: ProvenBy,
    /// By server: the key that its service ticket is for.
    keys: [Option<u32>; 8],
}

#[derive(Default)]
pub struct Tickets {
    got: Vec<Ticket>,
    /// As `kerberos::tickets` keeps them.
    kept: HashMap<Mandate, usize>,
    passwords: [u8; PRINCIPALS.len()],
    /// By server: its key of today.
    keys: [u32; 8],
}

impl Tickets {
    /// The password that this user has now.
    pub fn password(&self, user: usize) -> u8 {
        self.passwords[user]
    }

    pub fn change_password(&mut self, user: usize) {
        self.passwords[user] = self.passwords[user].saturating_add(1);
    }

    pub fn change_key(&mut self, server: usize) {
        self.keys[server] += 1;
    }

    /// The kept ticket of somebody, or a fresh one (`true`); `None`: the password is not theirs any more.
    pub fn get(&mut self, user: usize, by: ProvenBy) -> Option<(usize, bool)> {
        let mandate = mandate(user, by);
        if let Some(ticket) = self.kept.get(&mandate) {
            return Some((*ticket, false));
        }
        if matches!(by, ProvenBy::Password(password) if password != self.passwords[user]) {
            return None;
        }
        let ticket = self.got.len();
        self.got.push(Ticket { user, by, number: PinNumber::next(), keys: [None; 8] });
        self.kept.insert(mandate, ticket);
        Some((ticket, true))
    }

    /// A ticket has come to its end, or its place is needed.
    pub fn drop(&mut self, ticket: usize) {
        let Ticket { user, by, .. } = self.got[ticket];
        let mandate = mandate(user, by);
        if self.kept.get(&mandate) == Some(&ticket) {
            self.kept.remove(&mandate);
        }
    }

    /// Whether the server can open a token made by this ticket.
    pub fn opens(&mut self, ticket: usize, server: usize) -> bool {
        let key = self.keys[server];
        *self.got[ticket].keys[server].get_or_insert(key) == key
    }

    pub fn ticket(&self, index: usize) -> &Ticket {
        &self.got[index]
    }

    pub fn count(&self) -> usize {
        self.got.len()
    }
}

impl Ticket {
    /// Whether it was got for this user, by this proof.
    pub fn is_of(&self, user: usize, by: ProvenBy) -> bool {
        (self.user, self.by) == (user, by)
    }
}

fn mandate(user: usize, by: ProvenBy) -> Mandate {
    let proof = match by {
        ProvenBy::Password(password) => Proof::Password([password; 32]),
        ProvenBy::Delegation => Proof::Delegation,
    };
    Mandate::new(PRINCIPALS[user], proof)
}
