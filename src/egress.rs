//! Calls to addresses that somebody else has named: a guard, so that none of them reaches what only this machine should reach.
//!
//! Refused are this machine itself, its link (where clouds hand out credentials), and whatever stands for no machine, unless
//! `egress.allow` names a network that holds the address. Private networks are not refused: an installation has its own GitLab there.
//!
//! A name is looked up once, by [`Egress`] itself, and the connection goes to what was looked up and found allowed: a name that
//! has another address a moment later gains nothing by it. An address in a URL is not looked up by anybody, so [`Client::to`] checks
//! it before each call. Redirects are not followed and proxies not used, since both would go elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::config::IpNetwork;

/// Addresses outside the link at which clouds hand out credentials.
const METADATA: [IpAddr; 7] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Which addresses may be called, and whose certificates are trusted there.
#[derive(Debug, Clone)]
pub struct Egress {
    allow: Arc<[IpNetwork]>,
    trusted: Vec<reqwest::Certificate>,
}

/// An address that may not be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is this machine, its link or no machine's address, and egress.allow does not name it")]
pub struct Refused(pub String);

impl Egress {
    /// `allow`: networks that may be called although they would be refused.
    pub fn new(allow: &[IpNetwork]) -> Self {
        Self { allow: allow.into(), trusted: Vec::new() }
    }

    /// Trusts the certificates of a PEM file (`egress.ca`) beside the system's.
    ///
    /// # Errors
    /// When that file cannot be used.
    pub fn trusting(mut self, ca: &Path) -> Result<Self, String> {
        let shown = ca.display();
        let pem = std::fs::read(ca).map_err(|error| format!("egress.ca ({shown}) cannot be read: {error}"))?;
        self.trusted = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if self.trusted.is_empty() {
            return Err(format!("egress.ca ({shown}) holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"));
        }
        Ok(self)
    }

    /// Whether this machine itself may be called, so that TLS may be done without.
    pub fn allows_loopback(&self) -> bool {
        self.allows(Ipv4Addr::LOCALHOST.into()) || self.allows(Ipv6Addr::LOCALHOST.into())
    }

    /// Checks a URL before it is called: an address in it; a name is checked when it is looked up.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(Refused("a URL without a host".into())),
        };
        if self.allows(address) { Ok(()) } else { Err(Refused(address.to_string())) }
    }

    fn build(&self, builder: reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
        let builder = builder
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(self.clone()))
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")));
        let builder = match self.trusted.as_slice() {
            [] => builder,
            trusted => builder.tls_certs_merge(trusted.iter().cloned()),
        };
        builder.build().map_err(|error| format!("TLS cannot be set up: {}", why(&error)))
    }

    fn allows(&self, address: IpAddr) -> bool {
        !within_reach_of_this_machine_alone(address) || self.allow.iter().any(|network| network.contains(address))
    }
}

/// A client that calls only what is allowed, for URLs that were checked. It is made with the first call: an installation that calls
/// nobody needs neither its memory nor certificates.
pub struct Client {
    egress: Egress,
    configure: fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    made: OnceLock<reqwest::Client>,
}

impl Client {
    /// One that goes through this guard.
    pub fn new(egress: Egress, configure: fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Self {
        Self { egress, configure, made: OnceLock::new() }
    }

    /// The client for a URL.
    ///
    /// # Errors
    /// When that may not be called, or TLS cannot be set up.
    pub fn to(&self, url: &Url) -> Result<&reqwest::Client, String> {
        self.egress.check(url).map_err(|refused| refused.to_string())?;
        match self.made.get() {
            Some(client) => Ok(client),
            None => {
                let client = self.egress.build((self.configure)(reqwest::Client::builder()))?;
                Ok(self.made.get_or_init(|| client))
            }
        }
    }
}

/// Why a call came to nothing, with all causes; the address is left out.
pub fn why(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time" } else { "not reached" }.to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> = found.iter().copied().filter(|found| this.allows(found.ip())).collect();
            match found.first() {
                Some(first) if allowed.is_empty() => Err(Refused(format!("{} ({})", name.as_str(), first.ip())).into()),
                Some(_) | None => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

fn within_reach_of_this_machine_alone(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                // "This network": Linux takes 0.0.0.0 for itself.
                || address.octets()[0] == 0
                || METADATA.contains(&address.into())
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || carried(address).is_some_and(|inner| within_reach_of_this_machine_alone(inner.into()))
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: by translation (64:ff9b::/96, 64:ff9b:1::/48), 6to4 (2002::/16), or as `::a.b.c.d`.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        (0x64, 0xff9b, 0 | 1, _, _, _) | (0, 0, 0, 0, 0, 0) => Some(of(g, h)),
        (0x2002, ..) => Some(of(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(allow: &[&str]) -> Egress {
        Egress::new(&allow.iter().map(|text| text.parse().expect("a network")).collect::<Vec<_>>())
    }

    #[test]
    fn what_only_this_machine_should_reach_is_refused_in_every_spelling() {
        let none = egress(&[]);
        for refused in [
            "http://127.0.0.1",
            "http://127.9.9.9:1",
            "http://2130706433",
            "http://0x7f.1",
            "http://[::1]",
            "http://[::ffff:127.0.0.1]",
            "http://[::127.0.0.1]",
            "http://[64:ff9b::169.254.169.254]",
            "http://[2002:7f00:1::]",
            "http://169.254.169.254",
            "http://[fe80::1]",
            "http://[fd00:ec2::254]",
            "http://[fd20:ce::254]",
            "http://192.0.0.192",
            "http://[64:ff9b:1::169.254.169.254]",
            "http://100.100.100.200",
            "http://[::ffff:168.63.129.16]",
            "http://0.0.0.0",
            "http://0.1.2.3",
            "http://[::]",
            "http://224.0.0.1",
            "http://[ff02::1]",
            "http://255.255.255.255",
        ] {
            assert!(none.check(&refused.parse().expect("a URL")).is_err(), "{refused}");
        }
        for taken in
            ["https://10.0.0.1", "https://192.168.1.1", "https://8.8.8.8", "https://[2001:db8::1]", "https://[fd00::1]"]
        {
            assert_eq!(none.check(&taken.parse().expect("a URL")), Ok(()), "{taken}");
        }
        let local = egress(&["127.0.0.0/8"]);
        assert_eq!(local.check(&"http://127.0.0.1:1".parse().expect("a URL")), Ok(()));
        assert!(local.check(&"http://[::1]".parse().expect("a URL")).is_err());
        assert!(local.allows_loopback() && egress(&["::1"]).allows_loopback() && !none.allows_loopback());
    }

    #[tokio::test]
    async fn a_name_is_checked_by_what_it_is_looked_up_to() {
        let look = async |egress: Egress, name: &str| {
            let found = egress.resolve(name.parse().expect("a name")).await;
            found.map(Iterator::collect::<Vec<_>>).map_err(|error| error.to_string())
        };
        let error = look(egress(&[]), "localhost").await.expect_err("refused");
        assert!(error.contains("localhost (") && error.contains("egress.allow"), "{error}");
        let found = look(egress(&["127.0.0.0/8"]), "localhost").await.expect("addresses");
        assert!(!found.is_empty() && found.iter().all(|found| found.is_ipv4()), "{found:?}");
        // The client asks it too.
        let client = Client::new(egress(&[]), |builder| builder);
        let url: Url = "http://localhost:1/".parse().expect("a URL");
        let error = client.to(&url).expect("a client").get(url).send().await.expect_err("refused");
        assert!(why(&error).contains("egress.allow"), "{error:?}");
    }
}
