//! What has changed at a server since it was last asked.
//!
//! A domain controller numbers its changes ([MS-ADTS] 3.1.1.1.9): `highestCommittedUSN` of its root entry is the newest
//! number, `uSNChanged` of an entry the number of its last change there. The numbers are each server's own, so a position
//! is kept for each. `OpenLDAP` stamps entries in place of that, with `entryCSN`.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use parking_lot::Mutex;

use super::{
    filter::of_classes,
    link::{Base, Failure, Link, Search, Size},
};
use crate::directory::{
    forest::News,
    schema::{attribute, topology_classes},
};

/// How far each server was read.
#[derive(Default)]
pub(super) struct Positions(Mutex<HashMap<String, Mark>>);

/// A position in a server's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    Usn(u64),
    Csn(String),
}

impl Positions {
    /// What has changed at this server, and from now on has been seen.
    pub(super) async fn look(&self, mut link: Link, patience: Duration) -> Result<News, Failure> {
        let root = link.root(&[HIGHEST_USN, DS_SERVICE_NAME], patience).await?;
        let server = root.text(DS_SERVICE_NAME).unwrap_or(&link.server).to_owned();
        let known = self.0.lock().get(&server).cloned();
        let now = match root.text(HIGHEST_USN).map(str::parse) {
            Some(Ok(usn)) => Mark::Usn(usn),
            Some(Err(_)) | None => match &known {
                Some(known) => known.clone(),
                None => Mark::Csn(newest_csn(&mut link, patience * EVERYBODY_PATIENCE).await?),
            },
        };
        let (news, now) = match (known, now) {
            (Some(Mark::Usn(then)), Mark::Usn(now)) if then <= now => {
                let news = if then == now {
                    News::default()
                } else {
                    since_usn(&mut link, then, patience * PAGES_PATIENCE).await?
                };
                (news, Mark::Usn(now))
            }
            (Some(Mark::Csn(then)), Mark::Csn(_)) => {
                let (news, newest) = since_csn(&mut link, &then, patience * PAGES_PATIENCE).await?;
                (news, Mark::Csn(newest.unwrap_or(then)))
            }
            // Another server, or one that was set back: what it changed before nobody can tell. Of the very first one
            // there is nothing to miss.
            (_, now) => (News { may_have_missed: !self.0.lock().is_empty(), topology: true, ..News::default() }, now),
        };
        let mut positions = self.0.lock();
        if positions.len() >= SERVERS_MAX {
            positions.clear();
        }
        positions.insert(server, now);
        Ok(news)
    }
}

async fn since_usn(link: &mut Link, then: u64, patience: Duration) -> Result<News, Failure> {
    let first = then.saturating_add(1);
    let organisation = of_classes(&topology_classes());
    let people = format!("(&(uSNChanged>={first})(|(sAMAccountName=*)(proxyAddresses=*)))");
    let organisation = format!("(&(uSNChanged>={first}){organisation})");
    Ok(news(link, people, organisation, patience).await?.0)
}

async fn since_csn(link: &mut Link, then: &str, patience: Duration) -> Result<(News, Option<String>), Failure> {
    let newer = format!("(entryCSN>={then})(!(entryCSN={then}))");
    let people = format!("(&{newer}(|(sAMAccountName=*)(proxyAddresses=*)))");
    let organisation = format!("(&{newer}{})", of_classes(&topology_classes()));
    news(link, people, organisation, patience).await
}

/// The news, and the newest stamp among them.
async fn news(
    link: &mut Link,
    people: String,
    organisation: String,
    patience: Duration,
) -> Result<(News, Option<String>), Failure> {
    let organisation = Search {
        operation: "a search for changes of the organisation",
        base: Base::Configuration,
        filter: organisation,
        attributes: &[ENTRY_CSN],
        size: Size::AllUpTo(CHANGES_MAX),
    };
    let organisation = link.search(&organisation, patience).await?;
    let people = Search {
        operation: "a search for changed people",
        base: Base::Users,
        filter: people,
        attributes: &OF_CHANGES,
        size: Size::AllUpTo(CHANGES_MAX),
    };
    let people = link.search(&people, patience).await?;
    let newest =
        organisation.iter().chain(&people).filter_map(|record| record.text(ENTRY_CSN)).max().map(str::to_owned);
    let may_have_missed = people.len() > CHANGES_MAX;
    Ok((News { people, may_have_missed, topology: !organisation.is_empty() }, newest))
}

/// The newest stamp of a server that has no numbers.
async fn newest_csn(link: &mut Link, patience: Duration) -> Result<String, Failure> {
    let all = Search {
        operation: "a search for the newest change",
        base: Base::Users,
        filter: "(entryCSN=*)".to_owned(),
        attributes: &[ENTRY_CSN],
        size: Size::AllUpTo(ENTRIES_MAX),
    };
    let records = link.search(&all, patience).await?;
    Ok(records.iter().filter_map(|record| record.text(ENTRY_CSN)).max().unwrap_or(NO_CSN).to_owned())
}

static OF_CHANGES: LazyLock<Vec<&'static str>> = LazyLock::new(|| [attribute::OF_PEOPLE, &[ENTRY_CSN]].concat());

/// More than any forest has.
const SERVERS_MAX: usize = 10_000;
const HIGHEST_USN: &str = "highestCommittedUSN";
/// Names the domain controller, whatever address it was reached at.
const DS_SERVICE_NAME: &str = "dsServiceName";
const ENTRY_CSN: &str = "entryCSN";
const NO_CSN: &str = "19700101000000.000000Z#000000#000#000000";
/// More than any OpenLDAP with Exchange's names in it; beyond, it is watched from some entry on that is not the newest.
const ENTRIES_MAX: usize = 1_000_000;
/// Changes on several pages may take so many times the time of a single search, and everybody so many times.
const PAGES_PATIENCE: u32 = 3;
const EVERYBODY_PATIENCE: u32 = 20;
/// People who may change between two looks and still be taken over one by one; more than that, and everybody is looked up
/// again at the next use.
const CHANGES_MAX: usize = 2_000;
