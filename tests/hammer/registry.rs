//! Which server connection each client connection has met: one that somebody signed in over is nobody else's.

use std::{collections::HashMap, time::Instant};

/// All connections of contoso's servers that were met, by `X-Contoso-Connection`.
#[derive(Debug, Default)]
pub struct Registry(HashMap<String, Met>);

#[derive(Debug, Default)]
struct Met {
    /// By a client that had nothing to do with a connection-bound credential.
    shared: bool,
    /// By this client, which had.
    owner: Option<u64>,
    /// Since when its answers have said that it is bound, though no credential was.
    ended: Option<Instant>,
}

/// An answer over a connection.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    /// The client connection, unique in the run.
    pub client: u64,
    /// Whether the client connection had to do with a connection-bound credential, this request's included.
    pub bound: bool,
    /// When the request left.
    pub sent: Instant,
    /// The answer says that the connection is bound.
    pub told_bound: bool,
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongConnection {
    /// Two clients met it, and one of them had signed in.
    OfAnother,
    /// It was shared before somebody signed in over it.
    FromThePool,
    /// It went on being shared after an answer that bound it.
    AfterItsEnd,
}

impl Registry {
    /// Notes an answer.
    ///
    /// # Errors
    /// It may not have come over that connection.
    pub fn meet(&mut self, connection: &str, meeting: Meeting) -> Result<(), WrongConnection> {
        let met = self.0.entry(connection.to_owned()).or_default();
        let verdict = match met.owner {
            Some(owner) if owner != meeting.client => Err(WrongConnection::OfAnother),
            None if meeting.bound && met.shared => Err(WrongConnection::FromThePool),
            // Two clients learn of their answers in any order; only what was sent afterwards came too late.
            _ if met.ended.is_some_and(|ended| ended < meeting.sent) => Err(WrongConnection::AfterItsEnd),
            Some(_) | None => Ok(()),
        };
        if meeting.bound {
            met.owner.get_or_insert(meeting.client);
        } else {
            met.shared = true;
            if meeting.told_bound {
                met.ended.get_or_insert_with(Instant::now);
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(client: u64, bound: bool) -> Meeting {
        Meeting { client, bound, sent: Instant::now(), told_bound: false }
    }

    #[test]
    fn a_connection_is_shared_or_somebodys() {
        let mut registry = Registry::default();
        for client in 0..3 {
            assert_eq!(registry.meet("1", meeting(client, false)), Ok(()));
        }
        assert_eq!(registry.meet("1", meeting(2, true)), Err(WrongConnection::FromThePool));
        for _ in 0..2 {
            assert_eq!(registry.meet("2", meeting(0, true)), Ok(()));
        }
        assert_eq!(registry.meet("2", meeting(1, true)), Err(WrongConnection::OfAnother));
        assert_eq!(registry.meet("2", meeting(1, false)), Err(WrongConnection::OfAnother));
    }

    #[test]
    fn a_shared_connection_that_an_answer_binds_is_met_no_more() {
        let mut registry = Registry::default();
        let early = meeting(1, false);
        assert_eq!(registry.meet("1", Meeting { told_bound: true, ..meeting(0, false) }), Ok(()));
        assert_eq!(registry.meet("1", early), Ok(()), "its request left before");
        assert_eq!(registry.meet("1", meeting(1, false)), Err(WrongConnection::AfterItsEnd));
    }
}
