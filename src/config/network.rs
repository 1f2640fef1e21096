//! Networks, as they are written in `auth.feed_networks`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its leading bits count. An IPv4 network that is written as IPv6 (`::ffff:…`) is an
/// IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    address: IpAddr,
    prefix: u8,
}

impl IpNetwork {
    /// Whether the network holds the address (an IPv4 address written as IPv6 counts as IPv4).
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.prefix) == Some(self.address)
    }
}

impl FromStr for IpNetwork {
    type Err = String;

    /// Refused is also an address with bits beyond the prefix: whoever writes 10.1.2.3/8 may mean one machine, and would let in
    /// sixteen million.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a network such as 10.0.0.0/8 or ::1/128");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let written: IpAddr = address.parse().map_err(|_| wrong())?;
        let address = written.to_canonical();
        let spare = bits(written) - bits(address);
        let prefix = match prefix {
            None => bits(address),
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                prefix.parse::<u8>().ok().and_then(|prefix| prefix.checked_sub(spare)).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        match masked(address, prefix) {
            None => Err(wrong()),
            Some(first) if first == address => Ok(Self { address, prefix }),
            Some(first) => Err(format!(
                "\"{text}\" has bits beyond its prefix; the network is {first}/{prefix}, the one address {address}"
            )),
        }
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with only its leading bits. None: it has fewer than that.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let beyond = u32::from(bits(address).checked_sub(prefix)?);
    Some(match address {
        IpAddr::V4(address) => (address & Ipv4Addr::from(u32::MAX.checked_shl(beyond).unwrap_or(0))).into(),
        IpAddr::V6(address) => (address & Ipv6Addr::from(u128::MAX.checked_shl(beyond).unwrap_or(0))).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().expect("a network")
    }

    fn holds(of: &str, address: &str) -> bool {
        network(of).contains(address.parse().expect("an address"))
    }

    #[test]
    fn networks_hold_addresses() {
        for (of, inside, outside) in [
            ("127.0.0.0/8", "127.1.2.3", "128.0.0.1"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
            ("::/0", "2001:db8::1", "8.8.8.8"),
            ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
            ("::1", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ] {
            assert!(holds(of, inside), "{of} {inside}");
            assert!(!holds(of, outside), "{of} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "/", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "::ffff:10.0.0.0/95", "localhost", "10.0"]
        {
            assert!(text.parse::<IpNetwork>().is_err(), "{text}");
        }
        let error = "10.1.2.3/8".parse::<IpNetwork>().expect_err("bits beyond the prefix");
        assert!(error.contains("the network is 10.0.0.0/8"), "{error}");
    }

    proptest! {
        #[test]
        fn a_network_holds_what_shares_its_prefix(a in any::<u32>(), b in any::<u32>(), prefix in 0u8..=32) {
            let first = IpAddr::V4((a & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into());
            let shared = (a ^ b).leading_zeros() >= u32::from(prefix);
            prop_assert_eq!(network(&format!("{first}/{prefix}")).contains(IpAddr::V4(b.into())), shared);
        }

        #[test]
        fn nothing_makes_it_panic(text in "[0-9a-f:./]{0,24}", address in any::<u128>()) {
            if let Ok(network) = text.parse::<IpNetwork>() {
                network.contains(IpAddr::V6(address.into()));
                prop_assert_eq!(network.to_string().parse::<IpNetwork>(), Ok(network));
            }
        }
    }
}
