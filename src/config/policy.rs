//! The administrator's choices joined with what the directory says: [`Config::policy`].

use super::{Config, ConfigErrors, Mistake, mistake::closest, values::list};
use crate::routing::{
    Policy,
    topology::{SiteId, Topology},
};

impl Config {
    /// The routing policy: the administrator's choices, and the local site found in the topology. It is the one pinned
    /// by name, else the one whose subnet holds a listener's address, else the only one there is.
    ///
    /// # Errors
    /// The local site cannot be told, or the configuration names sites that the directory does not have; all of it at
    /// once.
    pub fn policy(&self, topology: &Topology) -> Result<Policy, ConfigErrors> {
        let mut mistakes: Vec<_> =
            self.sites.keys().filter_map(|name| named(name, &format!("sites.{name}"), topology).err()).collect();
        mistakes.sort_by(|one, other| one.place.cmp(&other.place));
        let local_site = match &self.routing.local_site {
            Some(name) => named(name, "routing.local_site", topology),
            None => self.by_address(topology),
        };
        match local_site {
            Ok(local_site) if mistakes.is_empty() => Ok(Policy {
                local_site,
                allow_http_internal_url: self.routing.allow_http_internal_url,
                allow_http_external_url: self.routing.allow_http_external_url,
                activesync_redirect_from: self.routing.activesync_redirect_from,
                serve_from_neighbour_site: self.routing.serve_from_neighbour_site,
            }),
            local_site => {
                mistakes.extend(local_site.err());
                Err(ConfigErrors { mistakes })
            }
        }
    }

    /// The site that the listeners' subnets name, or the only one there is. A wildcard address says nothing.
    fn by_address(&self, topology: &Topology) -> Result<SiteId, Mistake> {
        let mut sites: Vec<SiteId> = self
            .listeners
            .iter()
            .map(|listener| listener.address.ip())
            .filter(|address| !address.is_unspecified())
            .filter_map(|address| topology.site_of_address(address))
            .collect();
        sites.sort_unstable();
        sites.dedup();
        let problem = match *sites {
            [site] => return Ok(site),
            [] if topology.sites().len() == 1 => return Ok(SiteId(0)),
            [] => "no listener's address is in a subnet of an AD site, so the edge's own site is unknown".to_owned(),
            _ => {
                let names: Vec<_> = sites.iter().map(|&site| topology.site(site).name.as_str()).collect();
                format!("the listeners' addresses are in several AD sites: {}", list(&names))
            }
        };
        let cure = match topology.sites() {
            [] => "the directory has no AD site at all: check CN=Sites in its configuration container".to_owned(),
            _ => format!("set it to one of {}", list(&names(topology))),
        };
        Err(Mistake { place: "routing.local_site".to_owned(), problem, cure })
    }
}

fn named(name: &str, option: &str, topology: &Topology) -> Result<SiteId, Mistake> {
    topology.site_named(name).ok_or_else(|| Mistake {
        place: option.to_owned(),
        problem: format!("the directory has no AD site `{name}`"),
        cure: match closest(name, names(topology)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("it has {}", list(&names(topology))),
        },
    })
}

fn names(topology: &Topology) -> Vec<&str> {
    topology.sites().iter().map(|site| site.name.as_str()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)] // a test may fail by panicking
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{file, files::Surroundings},
        routing::topology::TopologyParts,
    };

    fn config(lines: &str) -> Config {
        let surroundings = Surroundings { working_directory: env!("CARGO_MANIFEST_DIR").into(), variable: |_| None };
        file::read(Path::new("f.toml"), &format!("directory.ldif = 'Cargo.toml'\n{lines}"), &surroundings).unwrap()
    }

    fn topology(sites: &[&str]) -> Topology {
        Topology::new(TopologyParts {
            sites: sites.iter().map(ToString::to_string).collect(),
            subnets: vec![
                ("10.1.0.0/16".parse().unwrap(), "Lisbon".to_owned()),
                ("10.2.0.0/16".parse().unwrap(), "Porto".to_owned()),
            ],
            ..TopologyParts::default()
        })
    }

    fn local_site(lines: &str, sites: &[&str]) -> Result<String, String> {
        let topology = topology(sites);
        let policy = config(lines).policy(&topology).map_err(|errors| errors.to_string())?;
        Ok(topology.site(policy.local_site).name.clone())
    }

    const BOTH: [&str; 2] = ["Lisbon", "Porto"];

    #[test]
    fn a_pinned_site_is_the_local_one_whatever_the_addresses_say() {
        let lines = "listener = [{ address = '10.1.0.1:80' }]\nrouting.local_site = 'PORTO'";
        assert_eq!(local_site(lines, &BOTH), Ok("Porto".to_owned()));
    }

    #[test]
    fn the_subnet_of_a_listener_names_the_local_site() {
        let lines = "listener = [{ address = '0.0.0.0:443' }, { address = '10.2.0.1:80' }]";
        assert_eq!(local_site(lines, &BOTH), Ok("Porto".to_owned()));
    }

    #[test]
    fn the_only_site_is_the_local_one() {
        assert_eq!(local_site("listener = [{ address = '0.0.0.0:443' }]", &["Faro"]), Ok("Faro".to_owned()));
    }

    #[test]
    fn a_local_site_that_cannot_be_told_is_asked_for_with_the_choice() {
        for (address, problem) in [
            ("'0.0.0.0:443'", "no listener's address is in a subnet of an AD site, so the edge's own site is unknown"),
            (
                "'10.1.0.1:1' }, { address = '10.2.0.1:1'",
                "the listeners' addresses are in several AD sites: Lisbon, Porto",
            ),
        ] {
            assert_eq!(
                local_site(&format!("listener = [{{ address = {address} }}]"), &BOTH),
                Err(format!("routing.local_site: {problem}; set it to one of Lisbon, Porto"))
            );
        }
        let empty = local_site("listener = [{ address = '0.0.0.0:443' }]", &[]).expect_err("no site");
        assert!(empty.contains("the directory has no AD site at all"), "{empty}");
    }

    #[test]
    fn every_site_that_the_directory_does_not_have_is_reported() {
        let lines = "listener = [{ address = '10.1.0.1:80' }]\nrouting.local_site = 'Lisbn'\nsites.Prto = {}\nsites.Madrid = {}";
        assert_eq!(
            local_site(lines, &BOTH),
            Err("sites.madrid: the directory has no AD site `madrid`; it has Lisbon, Porto\n\
                 sites.prto: the directory has no AD site `prto`; did you mean `Porto`?\n\
                 routing.local_site: the directory has no AD site `Lisbn`; did you mean `Lisbon`?"
                .to_owned())
        );
    }
}
