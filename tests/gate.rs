//! The gate in a simulated world. Some thousand interleavings here, in passing; `make test` plays a million of them,
//! optimised (`tests/gate/`), and then breaks the gate on purpose (`tests/gate_mutants`).

use firstcas::{
    edge::{errand, pin},
    identity,
};

#[path = "gate/src/dice.rs"]
mod dice;
#[path = "gate/src/simulation.rs"]
mod simulation;
#[path = "gate/src/tickets.rs"]
mod tickets;
#[path = "gate/src/world.rs"]
mod world;

#[test]
fn nobody_ever_rides_another_persons_connection() {
    assert_eq!(simulation::play(10_000), Ok(()));
}
