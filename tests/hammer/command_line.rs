//! The isolation hammer as a program, for any proxy in front of contoso.

#[path = "../contoso/mod.rs"]
mod contoso;
#[path = "mod.rs"]
mod hammer;
#[path = "../windows_client/mod.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used)] // a test's part, and this is a test
mod windows_client;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use hammer::{Plan, people, tally::Least};

/// Strikes a proxy with many clients that sign in by Windows authentication, and counts answers in the wrong name.
#[derive(Parser)]
#[command(name = "hammer")]
#[allow(clippy::struct_excessive_bools)] // switches, each on its own
struct CommandLine {
    /// Where the proxy listens, for plain http.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "print_ldif")]
    address: Option<SocketAddr>,
    /// For how long.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
    /// Clients at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 40)]
    clients: u64,
    /// Repeats the clients' choices. Default: another one each time.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Which credentials are used.
    #[arg(long, value_enum, default_value_t = Ways::All)]
    ways: Ways,
    /// Break connections on both sides, pipeline requests, let servers say what nobody asked for.
    #[arg(long)]
    rough: bool,
    /// Only people whose mailboxes are at Lisbon.
    #[arg(long)]
    one_site: bool,
    /// Print one line, `ANSWERS SIGN-INS WRONG-NAMES OTHER-EXCEPTIONS`, instead of the whole tally.
    #[arg(long)]
    brief: bool,
    /// Print the entries that the directory must have besides conf/contoso.ldif, and do nothing else.
    #[arg(long)]
    print_ldif: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ways {
    All,
    Ntlm,
    Kerberos,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = CommandLine::parse();
    let Some(address) = options.address.filter(|_| !options.print_ldif) else {
        print!("{}", people::ldif());
        return ExitCode::SUCCESS;
    };
    let lasts = Duration::from_secs(options.seconds);
    let plan = Plan {
        address,
        seed: options.seed.unwrap_or_else(|| fastrand::u64(..)),
        lasts,
        lasts_at_most: lasts,
        clients: options.clients,
        people: if options.one_site { people::at_lisbon() } else { people::all() },
        ways: match options.ways {
            Ways::All => hammer::Ways::All,
            Ways::Ntlm => hammer::Ways::Ntlm,
            Ways::Kerberos => hammer::Ways::Kerberos,
        },
        rough: options.rough,
        least: Least::default(),
    };
    let tally = hammer::run(plan).await;
    if options.brief {
        let wrong = tally.wrong_names();
        let others: u64 = tally.exceptions().values().sum::<u64>() - wrong;
        println!("{} {} {wrong} {others}", tally.answers(), tally.sign_ins());
    } else {
        print!("{tally}");
    }
    if tally.exceptions().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
