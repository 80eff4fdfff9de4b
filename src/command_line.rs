//! What the commands of `main.rs` do and print: results to standard output, what is wrong to standard error.

use std::{
    fmt::{Display, Write as _},
    io::{self, Write as _},
    iter,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    certificates::ListenerCertificates,
    check::{self, CheckError},
    client_keytab,
    config::{self, Config, values::duration_text},
    directory::{Directory as _, DirectoryError, Oddity, Tell},
    events::{self, Event, catalogue, whole_chain},
    explain::{self, Question, QuestionParts, Rules},
    logging,
    routing::topology::Topology,
    running::{self, StartError},
    upgrade::{self, UpgradeError, Upgraded},
};

/// Exit status of a command that was used wrongly; clap's own.
pub const USAGE: u8 = 2;

/// `firstcas run`: serves until told to stop, in the running process's place if it is an upgrade.
pub fn run(file: &Path, is_upgrade: bool) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(errors) => return fail(&mistakes(file, &errors.mistakes)),
    };
    let notes = match notes_of_kerberos(&config) {
        Ok(notes) => notes,
        Err(problem) => return fail(&problem),
    };
    logging::start(&config.log);
    for note in notes {
        log::warn!("{note}");
    }
    let ended = running::run(config, file, is_upgrade);
    events::tell_left_out();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Policy(errors)) => fail(&mistakes(file, &errors.mistakes)),
        Err(error) => fail(&whole_chain(&error)),
    }
}

/// `firstcas upgrade`: a new process takes the running one's place.
pub fn upgrade(file: &Path, binary: Option<&Path>) -> ExitCode {
    match upgrade::upgrade(file, binary) {
        Ok(Upgraded { serves, drains, for_at_most }) => {
            let longest = duration_text(for_at_most);
            let text =
                format!("process {serves} serves now\nprocess {drains} finishes what it has, for at most {longest}\n");
            say(&text, ExitCode::SUCCESS)
        }
        Err(UpgradeError::Config(errors)) => fail(&mistakes(file, &errors.mistakes)),
        Err(error) => fail(&format!("not upgraded: {}", whole_chain(&error))),
    }
}

/// `firstcas check`: reports every mistake, or what was found; of the whole directory, if wished.
pub fn check(file: &Path, directory: bool) -> ExitCode {
    let config = Config::load(file).map_err(|errors| mistakes(file, &errors.mistakes));
    let found = config.and_then(|config| {
        show(&notes_of_kerberos(&config)?);
        let text = configuration_summary(file, &config, directory);
        let of_directory = match (directory, &config.directory) {
            (true, _) => wait_for(whole_directory(file, &config))?,
            (false, config::Directory::Ldif(ldif)) => wait_for(ldif_summary(file, ldif, &config))?,
            (false, config::Directory::Ldap { forest, .. }) => {
                format!("directory  {}, not asked by this check; `check --directory` does\n", forest.servers)
            }
        };
        Ok(text + &of_directory)
    });
    match found {
        Ok(summary) => say(&summary, ExitCode::SUCCESS),
        Err(mistakes) => fail(&mistakes),
    }
}

/// `firstcas explain`: how a request would be decided. Fails if it would be refused.
pub fn explain(file: &Path, parts: QuestionParts<'_>) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(errors) => return fail(&mistakes(file, &errors.mistakes)),
    };
    match notes_of_kerberos(&config) {
        Ok(notes) => show(&notes),
        Err(problem) => return fail(&problem),
    }
    let question = match Question::new(parts, &config.routing) {
        Ok(question) => question,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let explained = wait_for(async {
        let directory = config.directory.open(&(Arc::new(drop) as Tell)).map_err(|error| whole_chain(&error))?;
        let reading = directory.topology().await.map_err(|error| whole_chain(&error))?;
        let topology = Topology::new(reading.parts);
        let policy = config.policy(&topology).map_err(|errors| mistakes(file, &errors.mistakes))?;
        let rules = Rules { topology: &topology, policy: &policy, config: &config };
        let explained = explain::explain(&question, &directory, rules).await;
        Ok(explained.map_err(|error| whole_chain(&error))?.with_oddities(&reading.oddities))
    });
    match explained {
        Ok(explanation) => {
            let status = if explanation.is_refusal() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            say(&explanation, status)
        }
        Err(problem) => fail(&problem),
    }
}

/// `firstcas events`: the catalogue, or one event of it.
pub fn events(event: Option<Event>, json: bool, markdown: bool) -> ExitCode {
    let text = match event {
        _ if markdown => catalogue::markdown(),
        Some(event) if json => catalogue::json(&[event]),
        None if json => catalogue::json(Event::ALL),
        Some(event) => catalogue::one(event),
        None => catalogue::list(),
    };
    say(&text, ExitCode::SUCCESS)
}

/// `firstcas man`: the manual pages of the command line, into a folder, or the first of them to standard output.
pub fn man(program: clap::Command, folder: Option<&Path>) -> ExitCode {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let page = |command: &clap::Command| clap_mangen::Man::new(command.clone()).section("8").manual("firstcas");
    let Some(folder) = folder else {
        let mut text = Vec::new();
        return match page(&program).render(&mut text) {
            Ok(()) => say(&String::from_utf8_lossy(&text), ExitCode::SUCCESS),
            Err(error) => fail(&error.to_string()),
        };
    };
    let written = iter::once(&program).chain(program.get_subcommands()).try_for_each(|command| {
        page(command).generate_to(folder)?;
        Ok::<_, io::Error>(())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("the manual pages cannot be written to {}: {error}", folder.display())),
    }
}

/// `firstcas completions`: a script for a shell, to standard output.
pub fn completions(mut program: clap::Command, shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, env!("CARGO_PKG_NAME"), &mut script);
    say(&String::from_utf8_lossy(&script), ExitCode::SUCCESS)
}

/// May start the program anew: nothing must have been written or opened yet.
fn notes_of_kerberos(config: &Config) -> Result<Vec<String>, String> {
    client_keytab::name_in_environment(config).map_err(|error| {
        format!("firstcas cannot be started anew with what Kerberos needs in its environment: {error}")
    })
}

fn show(notes: &[String]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}

/// What `check` says of a configuration without mistakes of its own; the directory may still show some. `of_directory`: what
/// comes next tells of signing in, too.
fn configuration_summary(file: &Path, config: &Config, of_directory: bool) -> String {
    let listeners: Vec<_> = config.listeners.iter().map(listener_text).collect();
    let mut text =
        format!("{}: configuration is good\nlisteners  {}\n", file.display(), listeners.join("\n           "));
    if let Some(sign_in) = config.sign_in.as_ref().filter(|_| !of_directory) {
        let (by, problem) = check::sign_in_summary(sign_in);
        let _ = writeln!(text, "sign-in    {}", by.join("\n           "));
        if let Some(problem) = problem {
            let _ = writeln!(text, "odd        {problem}");
        }
    }
    for problem in config.listeners.iter().flat_map(exposed_keys) {
        let _ = writeln!(text, "odd        {problem}");
    }
    text
}

async fn whole_directory(file: &Path, config: &Config) -> Result<String, String> {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let told = notices.clone();
    let tell: Tell = Arc::new(move |notice| told.lock().push(notice));
    let directory = config.directory.open(&tell).map_err(|error| unreadable(file, &error))?;
    match check::check(config, &directory, || notices.lock().drain(..).collect()).await {
        Ok(report) => Ok(report.to_string()),
        Err(CheckError::Directory(error)) => Err(unreadable(file, &error)),
        Err(CheckError::Policy(errors)) => Err(mistakes(file, &errors.mistakes)),
    }
}

/// Why the directory gives nothing to check.
fn unreadable(file: &Path, error: &DirectoryError) -> String {
    if let DirectoryError::Malformed { mistakes: several } = error {
        return mistakes(file, several);
    }
    mistakes(file, &[whole_chain(error)])
}

async fn ldif_summary(file: &Path, ldif: &Path, config: &Config) -> Result<String, String> {
    let of_directory = |error: DirectoryError| unreadable(file, &error);
    let directory = config.directory.open(&(Arc::new(drop) as Tell)).map_err(of_directory)?;
    let reading = directory.topology().await.map_err(of_directory)?;
    let mut oddities = reading.oddities;
    oddities.extend(directory.people_oddities(&reading.parts).unwrap_or_default());
    let topology = Topology::new(reading.parts);
    let policy = config.policy(&topology).map_err(|errors| mistakes(file, &errors.mistakes))?;

    let client_access = topology.servers().iter().filter(|server| server.client_access).count();
    let mut text = format!(
        "directory  {}: {}, {}, {client_access} of them Client Access Servers\nlocal site {}\n",
        ldif.display(),
        counted(topology.sites().len(), "site"),
        counted(topology.servers().len(), "server"),
        topology.site(policy.local_site).name,
    );
    for Oddity { dn, problem } in oddities {
        let _ = writeln!(text, "odd        {dn}: {problem}");
    }
    Ok(text)
}

fn listener_text(listener: &config::Listener) -> String {
    let certificates = listener.tls.as_ref().map(certificates_text).unwrap_or_default();
    if let Some(mail) = listener.mail {
        let plain = if mail.allow_plain_logon { "; a password may be sent without TLS" } else { "" };
        return format!("{}, {}{plain}{certificates}", listener.address, listener.speaks());
    }
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    let http2 = if listener.tls.as_ref().is_some_and(|tls| tls.http2) { " and HTTP/2" } else { "" };
    let redirect = listener.redirect_to_https.as_ref().map(|url| format!(", sends clients to {url}"));
    format!("{scheme}://{}{http2}{}{certificates}", listener.address, redirect.unwrap_or_default())
}

/// The listener's certificates, one a line.
fn certificates_text(tls: &config::ListenerTls) -> String {
    let line = |what: &dyn Display| format!("\n             {what}");
    match ListenerCertificates::load(tls) {
        Ok(loaded) => loaded.certificates().map(|certificate| line(certificate)).collect(),
        Err(error) => line(&error), // it was good when the configuration was read
    }
}

/// Keys that others may read too. No mistake: mounted secrets of containers, and Debian's group `ssl-cert`, are like that.
fn exposed_keys(listener: &config::Listener) -> Vec<String> {
    let certificates = listener.tls.iter().flat_map(|tls| &tls.certificates);
    let exposed = certificates.filter_map(|files| {
        let whom = config::files::other_readers(&files.key)?;
        Some(format!("the private key {} may be read by {whom}; chmod 600 keeps it to its owner", files.key.display()))
    });
    exposed.collect()
}

/// The headline and one line for each mistake.
fn mistakes(file: &Path, mistakes: &[impl ToString]) -> String {
    let headline = format!("{}: {}", file.display(), counted(mistakes.len(), "mistake"));
    mistakes.iter().fold(headline, |text, mistake| text + "\n  " + &mistake.to_string())
}

fn counted(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Writes a result; one that cannot be written is a failure.
fn say(result: &impl Display, status: ExitCode) -> ExitCode {
    match write!(io::stdout(), "{result}") {
        Ok(()) => status,
        Err(error) => fail(&format!("standard output cannot be written to: {error}")),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn wait_for<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("no runtime: {error}"))?.block_on(work)
}
