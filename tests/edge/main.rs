//! The edge as its clients and servers meet it: real sockets, all of Contoso, no part replaced.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on says why and fails

mod connections;
#[path = "../contoso/mod.rs"]
mod contoso;
mod harness;
mod routing;
