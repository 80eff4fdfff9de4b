//! The edge as its clients and servers meet it: real sockets, all of Contoso, no part replaced.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on says why and fails

mod abuse;
mod admin;
mod balancers;
mod certificates;
mod connections;
#[path = "../contoso/mod.rs"]
mod contoso;
mod directory;
mod dovecot;
mod drain;
mod faults;
mod form;
mod gate;
#[path = "../hammer/mod.rs"]
mod hammer;
mod harness;
mod health;
mod hygiene;
mod isolation;
#[path = "../kdc/mod.rs"]
mod kdc;
#[path = "../directory/line.rs"]
mod line;
mod load;
mod logging;
mod mail;
mod mail_servers;
mod malformed;
mod on_behalf;
#[allow(dead_code)] // its TLS is for tests/directory.rs
#[path = "../openldap/mod.rs"]
mod openldap;
mod process;
mod record;
mod reload;
mod routing;
mod sign_in;
mod sizes;
mod streaming;
mod tls;
mod tracing;
mod upgrade;
mod waiting;
#[path = "../windows_client/mod.rs"]
mod windows_client;
mod wire;
