//! Which addresses may be connected to. Strangers name them, and our processes stand where strangers do not: beside databases, metadata
//! services and other tenants' machines. So only addresses of the public Internet are good, unless an administrator names a network or a
//! host. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// What an administrator may say about addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRules {
    /// Allowed with every port, whatever they are.
    pub networks: Vec<IpNet>,
    /// Names that are allowed with every address and port, in lower case.
    pub hosts: Vec<String>,
    /// The ports of public addresses.
    pub ports: Vec<u16>,
}

impl Default for AddressRules {
    fn default() -> Self {
        Self { networks: Vec::new(), hosts: Vec::new(), ports: vec![80, 443] }
    }
}

/// Why a URL is not fetched. The text follows the field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("is no http:// or https:// URL")]
    Scheme,
    #[error("holds a user name or a password, which are not sent on")]
    Credentials,
}

/// The host and port of a URL that may be fetched if its address may.
pub(crate) fn target(url: &Url) -> Result<(Host<&str>, u16), UrlError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials);
    }
    match (url.host(), url.port_or_known_default()) {
        (Some(host), Some(port)) => Ok((host, port)),
        _ => Err(UrlError::Scheme),
    }
}

impl AddressRules {
    /// Every address and port: for what nobody but the administrator names.
    pub fn anywhere() -> Self {
        let networks = vec![IpNet::V4(v4([0, 0, 0, 0], 0)), IpNet::V6(v6([0; 8], 0))];
        Self { networks, ..Self::default() }
    }

    /// Whether `address`, to which `host` led, may be connected to.
    pub fn allow(&self, host: &Host<&str>, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_named = match host {
            Host::Domain(name) => self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name.trim_end_matches('.'))),
            Host::Ipv4(_) | Host::Ipv6(_) => false,
        };
        is_named || self.networks.iter().any(|network| network.contains(&ip)) || (self.ports.contains(&address.port()) && is_public(ip))
    }
}

/// IPv4 networks that are nobody's on the public Internet (IANA's special-purpose registry), and one address that is.
const SPECIAL_V4: [Ipv4Net; 17] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    // Shared by the customers of a carrier.
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    // Link-local: metadata services of clouds.
    v4([169, 254, 0, 0], 16),
    // Public by its number, and inside by its use: Azure's host.
    v4([168, 63, 129, 16], 32),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    // The relays of 6to4.
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
    v4([255, 255, 255, 255], 32),
];

/// What is allotted of IPv6 to the public Internet: everything outside is special.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// The special networks within it.
const SPECIAL_V6: [Ipv6Net; 3] = [
    // Of the IETF's protocols, Teredo among them.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];
/// Networks whose addresses stand for IPv4 addresses that are written in them.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

const fn v4(address: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(address[0], address[1], address[2], address[3]), prefix)
}

const fn v6(address: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = address;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Whether it is the address of one machine on the public Internet.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !SPECIAL_V4.iter().any(|network| network.contains(&ip)),
        IpAddr::V6(ip) => match written_v4(ip) {
            Some(inner) => is_public(IpAddr::V4(inner)),
            None => GLOBAL_V6.contains(&ip) && !SPECIAL_V6.iter().any(|network| network.contains(&ip)),
        },
    }
}

/// The IPv4 address that traffic to this one ends at.
fn written_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = ip.octets();
    let at = |start: usize| Ipv4Addr::new(octets[start], octets[start + 1], octets[start + 2], octets[start + 3]);
    if NAT64.contains(&ip) {
        Some(at(12))
    } else if SIX_TO_FOUR.contains(&ip) {
        Some(at(2))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(rules: &AddressRules, address: &str) -> bool {
        let address: SocketAddr = address.parse().unwrap();
        let host = match address.ip() {
            IpAddr::V4(ip) => Host::Ipv4(ip),
            IpAddr::V6(ip) => Host::Ipv6(ip),
        };
        rules.allow(&host, address)
    }

    #[test]
    fn addresses_of_the_inside_are_refused_in_every_spelling() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
            let IpAddr::V4(v4) = ip.parse().unwrap() else { panic!("{ip}") };
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for spelled in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                // Teredo, whose server and client are hidden in it.
                Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !high, !low),
            ] {
                assert!(!is_public(IpAddr::V6(spelled)), "{ip} as {spelled}");
            }
        }
        for ip in [
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "ff0e::1",
            "2001:db8::1",
            "2001:20::1",
            "3fff::1",
            "100::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn addresses_of_the_public_internet_are_allowed() {
        for ip in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn ports_are_held_and_named_networks_are_free_of_all_rules() {
        let rules = AddressRules::default();
        assert!(is_allowed(&rules, "1.1.1.1:443") && is_allowed(&rules, "[2606:4700::1111]:80"));
        assert!(!is_allowed(&rules, "1.1.1.1:22") && !is_allowed(&rules, "127.0.0.1:80"));
        let rules = AddressRules { networks: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], ..rules };
        assert!(is_allowed(&rules, "127.0.0.1:9000") && is_allowed(&rules, "[::ffff:127.0.0.1]:9000") && is_allowed(&rules, "[fd00::1]:1"));
        assert!(!is_allowed(&rules, "10.0.0.1:80") && !is_allowed(&rules, "[::1]:80"));
        let rules = AddressRules { hosts: vec!["minio.storage.svc".to_owned()], ..AddressRules::default() };
        let inside = "10.1.2.3:9000".parse().unwrap();
        assert!(rules.allow(&Host::Domain("MinIO.storage.svc."), inside));
        assert!(!rules.allow(&Host::Domain("evil-minio.storage.svc"), inside) && !rules.allow(&Host::Domain("storage.svc"), inside));
    }

    #[test]
    fn urls_with_other_schemes_or_credentials_are_refused_and_disguised_addresses_are_seen_through() {
        let refused = |url: &str| target(&Url::parse(url).unwrap()).unwrap_err();
        for url in ["ftp://a.example/", "file:///etc/passwd", "gopher://a.example/", "data:,x"] {
            assert_eq!(refused(url), UrlError::Scheme, "{url}");
        }
        for url in ["http://user@a.example/", "http://user:password@a.example/", "http://:password@a.example/"] {
            assert_eq!(refused(url), UrlError::Credentials, "{url}");
        }
        for url in
            ["http://127.1/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.0.0.1./", "http://①②⑦.⓪.⓪.①/"]
        {
            let url = Url::parse(url).unwrap();
            assert_eq!(target(&url), Ok((Host::Ipv4(Ipv4Addr::LOCALHOST), 80)), "{url}");
        }
    }
}
