//! Private properties of the built-in resource types: which there are, and text made into checked
//! values. Pure, so that the locker checks with it before a resource is made and the resource
//! monitor reads with it before one is started; both thus refuse the same things in the same words.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::valid_name;
use crate::objects::ResourceType;

/// The longest value of a property, in bytes: a resource must fit one packet to its monitor.
pub const VALUE_BYTES_MAX: usize = 8 * 1024;

/// How long an application may take to end after SIGTERM, where its owner does not say.
pub const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The longest stop timeout: one hour.
const STOP_TIMEOUT_MS_MAX: u64 = 3_600_000;

/// One property that a type knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Property {
    pub name: &'static str,
    pub required: bool,
    /// What it means, in one sentence.
    pub doc: &'static str,
    /// What holds where it is not given; none for required ones and for those without.
    pub default: Option<&'static str>,
}

const fn required(name: &'static str, doc: &'static str) -> Property {
    Property { name, required: true, doc, default: None }
}

const fn optional(
    name: &'static str,
    doc: &'static str,
    default: Option<&'static str>,
) -> Property {
    Property { name, required: false, doc, default }
}

const PHYSICAL_DISK: &[Property] =
    &[required("disk", "The LUN: iscsi://host:port/iqn/lun, or the path of a SCSI device.")];

const IP_ADDRESS: &[Property] = &[
    required("address", "IPv4 address with its prefix length, such as 10.0.0.5/24."),
    required("network", "The cluster network on whose interface the address appears."),
];

const GENERIC_APPLICATION: &[Property] = &[
    required(
        "command",
        "Program (absolute path, or a name found in PATH) and arguments; quotes and backslashes \
         as in a shell, but no shell runs it.",
    ),
    optional("directory", "Its working directory, absolute.", Some("/")),
    optional(
        "stop_timeout_ms",
        "Milliseconds between SIGTERM and SIGKILL when it is taken offline.",
        Some("5000"),
    ),
    optional("environment", "Further environment: NAME=VALUE, separated by semicolons.", None),
];

/// The properties of a type, in the order in which they are best shown.
#[must_use]
pub const fn schema(kind: ResourceType) -> &'static [Property] {
    match kind {
        ResourceType::PhysicalDisk => PHYSICAL_DISK,
        ResourceType::IpAddress => IP_ADDRESS,
        ResourceType::GenericApplication => GENERIC_APPLICATION,
    }
}

/// Properties that a type refuses, with the reason.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PropertyError {
    #[error("{kind} has no property '{name}'; it knows: {known}")]
    Unknown { kind: ResourceType, name: String, known: String },
    #[error("{kind} needs the property '{name}': {doc}")]
    Missing { kind: ResourceType, name: &'static str, doc: &'static str },
    #[error("property '{name}': {why}")]
    Value { name: &'static str, why: String },
}

/// Checked properties of a Physical Disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskProperties {
    pub disk: String,
}

/// Checked properties of an IP Address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressProperties {
    pub ip: Ipv4Addr,
    pub prefix: u8,
    pub network: String,
}

/// Checked properties of a Generic Application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApplicationProperties {
    pub program: String,
    pub arguments: Vec<String>,
    pub directory: PathBuf,
    pub stop_timeout: Duration,
    pub environment: Vec<(String, String)>,
}

/// Checked properties of any type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Properties {
    Disk(DiskProperties),
    Address(AddressProperties),
    Application(ApplicationProperties),
}

/// Checks properties without keeping the values.
///
/// # Errors
/// As [`parse`], in words.
pub fn validate(kind: ResourceType, properties: &BTreeMap<String, String>) -> Result<(), String> {
    parse(kind, properties).map(drop).map_err(|e| e.to_string())
}

/// Makes properties into checked values.
///
/// # Errors
/// A property that the type does not know (with those it knows), one that is missing, or a value
/// that makes no sense. Whether a named network exists is for who knows the networks.
pub fn parse(
    kind: ResourceType,
    properties: &BTreeMap<String, String>,
) -> Result<Properties, PropertyError> {
    check_names(kind, properties)?;
    let get = |name: &str| properties.get(name).map(String::as_str);
    Ok(match kind {
        ResourceType::PhysicalDisk => Properties::Disk(disk(get("disk").unwrap_or_default())?),
        ResourceType::IpAddress => Properties::Address(address(
            get("address").unwrap_or_default(),
            get("network").unwrap_or_default(),
        )?),
        ResourceType::GenericApplication => Properties::Application(application(
            get("command").unwrap_or_default(),
            get("directory"),
            get("stop_timeout_ms"),
            get("environment"),
        )?),
    })
}

fn check_names(
    kind: ResourceType,
    properties: &BTreeMap<String, String>,
) -> Result<(), PropertyError> {
    let known = schema(kind);
    for (name, value) in properties {
        let Some(property) = known.iter().find(|p| p.name == name) else {
            let known = known.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
            return Err(PropertyError::Unknown { kind, name: name.clone(), known });
        };
        if value.len() > VALUE_BYTES_MAX {
            return Err(bad(property.name, format!("is longer than {VALUE_BYTES_MAX} bytes")));
        }
        if value.contains('\0') {
            return Err(bad(property.name, "contains a NUL byte"));
        }
    }
    match known.iter().find(|p| p.required && !properties.contains_key(p.name)) {
        Some(p) => Err(PropertyError::Missing { kind, name: p.name, doc: p.doc }),
        None => Ok(()),
    }
}

fn bad(name: &'static str, why: impl Into<String>) -> PropertyError {
    PropertyError::Value { name, why: why.into() }
}

fn disk(url: &str) -> Result<DiskProperties, PropertyError> {
    let iscsi = url.strip_prefix("iscsi://").is_some_and(|rest| {
        let parts: Vec<&str> = rest.split('/').collect();
        parts.len() == 3
            && parts.iter().all(|p| !p.is_empty())
            && parts[2].parse::<u16>().is_ok()
            && !rest.contains(char::is_whitespace)
    });
    if iscsi || (url.starts_with('/') && url.len() > 1) {
        return Ok(DiskProperties { disk: url.into() });
    }
    Err(bad("disk", format!("'{url}' is neither iscsi://host:port/iqn/lun nor an absolute path")))
}

fn address(text: &str, network: &str) -> Result<AddressProperties, PropertyError> {
    let Some((ip, prefix)) = text.split_once('/') else {
        return Err(bad(
            "address",
            format!("'{text}' has no prefix length; write it as in 10.0.0.5/24"),
        ));
    };
    let ip: Ipv4Addr =
        ip.parse().map_err(|_| bad("address", format!("'{ip}' is not an IPv4 address")))?;
    let prefix: u8 =
        prefix.parse().ok().filter(|p| (1..=32).contains(p)).ok_or_else(|| {
            bad("address", format!("prefix length '{prefix}' is outside 1 to 32"))
        })?;
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
        return Err(bad("address", format!("{ip} is not an address that a node can take over")));
    }
    if prefix < 31 {
        let host = u32::from(ip) & (u32::MAX >> prefix);
        if host == 0 || host == u32::MAX >> prefix {
            return Err(bad(
                "address",
                format!("{ip} is the network or broadcast address of its /{prefix} network"),
            ));
        }
    }
    if !valid_name(network) {
        return Err(bad("network", format!("'{network}' is not the name of a network")));
    }
    Ok(AddressProperties { ip, prefix, network: network.into() })
}

fn application(
    command: &str,
    directory: Option<&str>,
    stop_timeout_ms: Option<&str>,
    environment: Option<&str>,
) -> Result<ApplicationProperties, PropertyError> {
    let mut words = split_words(command).map_err(|why| bad("command", why))?.into_iter();
    let program = words.next().unwrap_or_default();
    if program.is_empty() {
        return Err(bad("command", "names no program"));
    }
    if program.contains('/') && !program.starts_with('/') {
        return Err(bad("command", format!("'{program}' is relative; give an absolute path")));
    }
    let directory = PathBuf::from(directory.unwrap_or("/"));
    if !directory.is_absolute() {
        return Err(bad("directory", format!("'{}' is not absolute", directory.display())));
    }
    let stop_timeout = match stop_timeout_ms {
        None => STOP_TIMEOUT_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|ms| *ms <= STOP_TIMEOUT_MS_MAX)
            .map(Duration::from_millis)
            .ok_or_else(|| {
                bad("stop_timeout_ms", format!("'{text}' is outside 0 to {STOP_TIMEOUT_MS_MAX}"))
            })?,
    };
    let environment = variables(environment.unwrap_or_default())?;
    Ok(ApplicationProperties {
        program,
        arguments: words.collect(),
        directory,
        stop_timeout,
        environment,
    })
}

fn variables(text: &str) -> Result<Vec<(String, String)>, PropertyError> {
    let mut out = Vec::new();
    for part in text.split(';').filter(|p| !p.trim().is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| bad("environment", format!("'{part}' is not NAME=VALUE")))?;
        let name = name.trim();
        let good = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !good {
            return Err(bad("environment", format!("'{name}' is not the name of a variable")));
        }
        if name.starts_with("WOLFPACK_") {
            return Err(bad("environment", format!("'{name}': names in WOLFPACK_ are ours")));
        }
        out.push((name.into(), value.into()));
    }
    Ok(out)
}

/// Splits a line into words as a POSIX shell quotes them: blanks separate; '...' is literal; in
/// "..." a backslash protects `"`, `\`, `$` and a back quote; elsewhere it protects any character.
/// Nothing is expanded: `$HOME` and `*` stay as they are.
///
/// # Errors
/// A quote that is not closed, or a backslash at the end.
pub fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            '\\' => {
                let next = chars.next().ok_or("ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    let open = || format!("a quote {quote} is not closed");
    loop {
        let c = chars.next().ok_or_else(open)?;
        if c == quote {
            return Ok(());
        }
        if c == '\\' && quote == '"' {
            let next = chars.next().ok_or_else(open)?;
            if !matches!(next, '"' | '\\' | '$' | '`') {
                word.push('\\');
            }
            word.push(next);
        } else {
            word.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn props(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.into(), v.into())).collect()
    }

    fn refused(kind: ResourceType, pairs: &[(&str, &str)]) -> String {
        validate(kind, &props(pairs)).unwrap_err()
    }

    #[test]
    fn good_properties_become_values() {
        let p = props(&[("address", "10.0.0.5/24"), ("network", "public")]);
        assert_eq!(
            parse(ResourceType::IpAddress, &p),
            Ok(Properties::Address(AddressProperties {
                ip: Ipv4Addr::new(10, 0, 0, 5),
                prefix: 24,
                network: "public".into()
            }))
        );
        let p = props(&[
            ("command", "/bin/sh -c 'echo \"a b\"' x\\ y"),
            ("environment", "A=1;B=x=y; C="),
            ("stop_timeout_ms", "250"),
        ]);
        let Ok(Properties::Application(app)) = parse(ResourceType::GenericApplication, &p) else {
            panic!("refused");
        };
        assert_eq!(app.arguments, ["-c", "echo \"a b\"", "x y"]);
        assert_eq!(app.stop_timeout, Duration::from_millis(250));
        let want = [("A", "1"), ("B", "x=y"), ("C", "")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(app.environment, want);
        let p = props(&[("disk", "iscsi://10.0.0.9:3260/iqn.2026-11.test:d/1")]);
        assert!(parse(ResourceType::PhysicalDisk, &p).is_ok());
    }

    #[test]
    fn unknown_and_missing_ones_are_named() {
        let err = refused(ResourceType::IpAddress, &[("adress", "10.0.0.5/24")]);
        assert_eq!(err, "ip-address has no property 'adress'; it knows: address, network");
        let err = refused(ResourceType::IpAddress, &[("address", "10.0.0.5/24")]);
        assert!(err.contains("needs the property 'network'"), "{err}");
    }

    #[test]
    fn senseless_values_are_refused_in_words() {
        let ip = |a| refused(ResourceType::IpAddress, &[("address", a), ("network", "public")]);
        assert!(ip("10.0.0.5").contains("no prefix length"));
        assert!(ip("10.0.0.5/33").contains("outside 1 to 32"));
        assert!(ip("10.0.0.256/24").contains("not an IPv4 address"));
        assert!(ip("10.0.0.0/24").contains("network or broadcast"));
        assert!(ip("10.0.0.255/24").contains("network or broadcast"));
        assert!(ip("224.0.0.1/24").contains("take over"));
        let app = |k, v| {
            let given = [("command", "/bin/true"), (k, v)];
            refused(ResourceType::GenericApplication, &given)
        };
        assert!(app("command", "'x").contains("not closed"));
        assert!(app("command", " ").contains("names no program"));
        assert!(app("command", "bin/x").contains("relative"));
        assert!(app("stop_timeout_ms", "-1").contains("outside"));
        assert!(app("environment", "1A=x").contains("not the name"));
        assert!(app("environment", "WOLFPACK_NODE=x").contains("ours"));
        assert!(app("environment", "A").contains("NAME=VALUE"));
        assert!(app("directory", "tmp").contains("absolute"));
        for url in ["", "iscsi://h/iqn", "iscsi://h/iqn/x", "sda", "/"] {
            assert!(refused(ResourceType::PhysicalDisk, &[("disk", url)]).contains("neither"));
        }
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        assert!(refused(ResourceType::PhysicalDisk, &[("disk", &long)]).contains("longer"));
    }

    #[test]
    fn words_split_like_a_shell() {
        let words = |s: &str| split_words(s).unwrap();
        assert_eq!(words("a  b\tc"), ["a", "b", "c"]);
        assert_eq!(words("a'b c'd \"\" ''"), ["ab cd", "", ""]);
        assert_eq!(words(r#""a\"b\\c\n" \$x *"#), [r#"a"b\c\n"#, "$x", "*"]);
        assert!(words("").is_empty());
        assert!(split_words("a\\").is_err());
        assert!(split_words("\"a\\").is_err());
    }
}
