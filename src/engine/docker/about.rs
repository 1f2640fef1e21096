//! What the engine says of itself, for whoever checks an installation.

use super::{Docker, QUESTION};
use crate::engine::Result;

/// What the engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its version, such as `20.10.24`.
    pub version: String,
    /// Whether containers go on while it is restarted.
    pub live_restore: bool,
    /// Whether it has the logging driver from which output is read.
    pub keeps_logs: bool,
    /// Limits of containers that it or its kernel does not enforce.
    pub unlimited: Vec<&'static str>,
}

impl Docker {
    /// Asks the engine what it is.
    ///
    /// # Errors
    /// When it is not reached.
    pub async fn about(&self) -> Result<About> {
        const DOING: &str = "ask what it is";
        let client = self.client(DOING)?;
        let said = self.ask(QUESTION, client.info()).await.map_err(|failure| failure.sort(DOING, ""))?;
        let drivers = said.plugins.and_then(|plugins| plugins.log).unwrap_or_default();
        let limits = [("memory", said.memory_limit), ("cpus", said.cpu_cfs_quota), ("pids", said.pids_limit)];
        Ok(About {
            version: said.server_version.unwrap_or_default(),
            live_restore: said.live_restore_enabled.unwrap_or_default(),
            keeps_logs: drivers.iter().any(|driver| driver == "json-file"),
            unlimited: limits.into_iter().filter(|(_, has)| *has == Some(false)).map(|(name, _)| name).collect(),
        })
    }

    /// Whether the engine has a network of this name or id.
    ///
    /// # Errors
    /// When it is not reached.
    pub async fn has_network(&self, name: &str) -> Result<bool> {
        const DOING: &str = "look for a network";
        let client = self.client(DOING)?;
        match self.ask(QUESTION, client.inspect_network(name, None)).await {
            Ok(_) => Ok(true),
            Err(super::Failure::Answer { status: 404, .. }) => Ok(false),
            Err(failure) => Err(failure.sort(DOING, "")),
        }
    }
}
