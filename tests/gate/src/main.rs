//! Plays the simulation of the gate, optimised, and without anything of Pingora: `pin.rs` and `errand.rs` are compiled by
//! themselves.

mod dice;
mod simulation;
mod tickets;
mod world;

#[path = "../../../src/edge/pin.rs"]
#[allow(dead_code)] // the edge uses all of it
mod pin;

#[path = "../../../src/edge/errand.rs"]
#[allow(dead_code)]
mod errand;

/// What the gate uses of the project's `identity`, without the parsers that make it large. `tests/gate.rs` plays the same
/// simulation with the real one.
#[allow(dead_code)] // so does the gate
mod identity {
    pub enum Credential {
        None,
        Basic {},
        Bearer,
        ConnectionBound(Token),
        Unreadable(()),
    }

    pub struct Token {
        pub leg: token::Leg,
    }

    pub mod token {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Leg {
            First,
            Next,
        }

        pub enum Challenge {
            PerRequest,
            Offer,
            Token(Option<super::ntlm::Challenge>),
        }
    }

    pub mod ntlm {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Challenge;
    }
}

fn main() -> std::process::ExitCode {
    let runs = std::env::args().nth(1).and_then(|runs| runs.parse().ok()).unwrap_or(1_000_000);
    match simulation::play(runs) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            std::process::ExitCode::FAILURE
        }
    }
}
