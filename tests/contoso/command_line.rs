//! The stand-in organisation as a program: for `make run` and the load tests.

#[path = "mod.rs"]
mod contoso;

use std::{
    collections::HashMap,
    error::Error,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use contoso::{Contoso, control, pki::Pki};
use firstcas::directory::{Directory, DirectoryError, ldif};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Plays every server of the stand-in organisation Contoso on addresses of this machine.
#[derive(Parser)]
#[command(name = "contoso")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the demo's certificates if they are missing or old: CA, servers, and the edge's listener.
    Pki {
        /// Directory they are kept in.
        dir: PathBuf,
    },
    /// Runs the servers until SIGINT or SIGTERM.
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// The organisation's directory.
    #[arg(long, value_name = "FILE", default_value = "conf/contoso.ldif")]
    ldif: PathBuf,
    /// Directory of the certificates, which are made if missing.
    #[arg(long, value_name = "DIR", default_value = "state/demo")]
    pki: PathBuf,
    /// The edge's config: its [resolve] table says where each server listens. Nothing else of it is read.
    #[arg(
        short = 'c',
        long = "resolve",
        visible_alias = "config",
        value_name = "FILE",
        default_value = "conf/firstcas.toml"
    )]
    resolve: PathBuf,
    /// Address of the control port: `curl http://ADDRESS/` lists the servers and what can be done to them.
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// Keytab of a KDC's services `HTTP/<server>`: their tickets are taken.
    #[arg(long, value_name = "FILE")]
    keytab: Option<PathBuf>,
    /// How long an `ActiveSync` Ping is held.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    ping_hold: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Pki { dir } => Pki::load_or_make(&dir).map(drop).map_err(Into::into),
        Command::Run(options) => run(options).await,
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    let mut causes = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push_str(": ");
        causes.push_str(&error.to_string());
        cause = error.source();
    }
    eprintln!("contoso: {error}{causes}");
    ExitCode::FAILURE
}

async fn run(options: Run) -> Result<(), Box<dyn Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let pki = Pki::load_or_make(&options.pki)?;
    let addresses = resolve_table(&options.resolve)?;
    let directory = open_directory(&options.ldif)?;
    let contoso = Contoso::start(directory, &pki, |host, port| address_of(&addresses, host, port)).await?;
    contoso.hold_pings(Duration::from_secs(options.ping_hold));
    if let Some(keytab) = &options.keytab {
        contoso.use_keytab(&fs::read(keytab).map_err(|error| format!("{}: {error}", keytab.display()))?);
    }
    let contoso = Arc::new(contoso);
    for server in contoso.servers() {
        for (host_and_port, scheme, address) in server.endpoints() {
            println!("{:<10} {scheme}://{host_and_port} listens on {address}", server.name());
        }
    }
    if let Some(address) = options.control {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("the control port {address} cannot be opened ({error}); change --control"))?;
        println!("control    http://{}/", listener.local_addr()?);
        tokio::spawn(control::serve(listener, contoso));
    }
    println!("contoso is ready");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<Arc<dyn Directory>, DirectoryError> {
    Ok(Arc::new(ldif::open(path)?))
}

/// Reads the `[resolve]` table of an edge's config, hosts in lower case.
fn resolve_table(path: &Path) -> Result<HashMap<String, String>, String> {
    let in_file = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let text = fs::read_to_string(path).map_err(|error| in_file(&error))?;
    let config: toml::Table = text.parse().map_err(|error| in_file(&error))?;
    let Some(table) = config.get("resolve").and_then(toml::Value::as_table) else {
        return Err(in_file(&"no [resolve] table; it must say where each server listens"));
    };
    table
        .iter()
        .map(|(host, address)| match address.as_str() {
            Some(address) if address.parse::<SocketAddr>().is_ok() || address.parse::<IpAddr>().is_ok() => {
                Ok((host.to_lowercase(), address.to_owned()))
            }
            _ => Err(in_file(&format!("[resolve] \"{host}\" = {address} is neither \"ip:port\" nor \"ip\""))),
        })
        .collect()
}

/// The entry of `host:port`, else that of `host`; one without a port leaves the port as it is.
fn address_of(table: &HashMap<String, String>, host: &str, port: u16) -> Option<SocketAddr> {
    let host = host.to_lowercase();
    let address = table.get(&format!("{host}:{port}")).or_else(|| table.get(&host))?;
    address.parse().ok().or_else(|| Some(SocketAddr::new(address.parse().ok()?, port)))
}
