//! `iscsi://host:port/target/lun`.

/// A logical unit of an iSCSI target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Url {
    /// `host:port`, an IPv6 address in brackets.
    pub portal: String,
    pub target: String,
    pub lun: u16,
}

/// Port of iSCSI targets.
const PORT: u16 = 3260;

impl Url {
    /// Parses what follows `iscsi://`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("iscsi://").ok_or("it does not begin with iscsi://")?;
        let mut parts = rest.split('/');
        let (portal, target, lun) = (parts.next(), parts.next(), parts.next());
        let (Some(portal), Some(target), Some(lun), None) = (portal, target, lun, parts.next())
        else {
            return Err("it has not the three parts host:port, target, lun".into());
        };
        if portal.is_empty() || portal.contains(['@', ' ', '%']) {
            return Err(format!("'{portal}' is no host:port"));
        }
        if !(target.starts_with("iqn.") || target.starts_with("eui.") || target.starts_with("naa."))
            || target.len() > 223
            || target.contains(|c: char| !c.is_ascii_graphic())
        {
            return Err(format!("'{target}' is no iSCSI name (iqn., eui. or naa.)"));
        }
        // 16383: the largest number of the flat addressing method (SAM-5 section 4.7).
        let lun = lun.parse().ok().filter(|&n: &u16| n < 16_384);
        let lun = lun.ok_or("the last part is no logical unit number (0 to 16383)")?;
        Ok(Self { portal: portal_with_port(portal)?, target: target.to_owned(), lun })
    }
}

fn portal_with_port(portal: &str) -> Result<String, String> {
    let after_host = match portal.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or("a bracket is not closed")?.1,
        None => portal.find(':').map_or("", |at| &portal[at..]),
    };
    match after_host.strip_prefix(':') {
        None if after_host.is_empty() => Ok(format!("{portal}:{PORT}")),
        Some(port) if port.parse::<u16>().is_ok_and(|p| p > 0) => Ok(portal.to_owned()),
        _ => Err(format!("'{portal}' has no valid port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        let url = Url::parse("iscsi://10.0.0.9/iqn.2026-11.test:q/1").unwrap();
        assert_eq!((url.portal.as_str(), url.lun), ("10.0.0.9:3260", 1));
        assert_eq!(url.target, "iqn.2026-11.test:q");
        let url = Url::parse("iscsi://[fd00::1]:3261/iqn.x:y/0").unwrap();
        assert_eq!(url.portal, "[fd00::1]:3261");
    }

    #[test]
    fn bad_names_say_why() {
        for (text, why) in [
            ("http://x", "does not begin"),
            ("iscsi://h:1/iqn.a", "three parts"),
            ("iscsi://h:1/iqn.a/1/2", "three parts"),
            ("iscsi:///iqn.a/1", "host:port"),
            ("iscsi://user%pw@h/iqn.a/1", "host:port"),
            ("iscsi://h:x/iqn.a/1", "port"),
            ("iscsi://h:0/iqn.a/1", "port"),
            ("iscsi://[::1/iqn.a/1", "bracket"),
            ("iscsi://h/disk/1", "iSCSI name"),
            ("iscsi://h/iqn.a b/1", "iSCSI name"),
            ("iscsi://h/iqn.a/-1", "logical unit number"),
            ("iscsi://h/iqn.a/70000", "logical unit number"),
        ] {
            let err = Url::parse(text).unwrap_err();
            assert!(err.contains(why), "{text}: {err}");
        }
    }
}
