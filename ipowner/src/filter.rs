//! The filter that makes a lease real: packets of an owned address pass only while its lease
//! element lives, and the kernel alone lets it die.
//!
//! Two tables of one name, because the ARP family has sets of its own:
//!
//! | table | set | holds | rule |
//! |---|---|---|---|
//! | `inet` | `owned` | what is, or lately was, the cluster's here | in or out, not in `leased`: drop |
//! | `inet` | `leased` | those with a lease, each with its timeout | |
//! | `arp` | `owned`, `leased` | the same | sent with such a sender address without lease: drop |
//! | `arp` | `homes` | address and interface | a reply through another interface: drop |
//!
//! The rules are written once by `nft`; elements are renewed by netlink directly. Elements outlive
//! every process: that is what they are for.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::IpError;
use crate::channel::{Channel, Ends};
use crate::nft::{self, Element, Family, Key, Place, Step};

/// The longest lease that is given to the kernel. A wrong number in the caller's hands must not
/// keep an address open for hours.
pub const LEASE_MAX: Duration = Duration::from_secs(60);

/// The shortest lease that is given to the kernel. Below one tick of the kernel (10 ms at 100 Hz)
/// a timeout becomes zero, and zero means *for ever*; so what is left is given up instead.
pub const LEASE_MIN: Duration = Duration::from_millis(20);

/// How long an address stays shut after it was given up: longer than any life time that a renewal
/// which raced the removal can have given it (see [`IpOwner::renew`](crate::IpOwner::renew)).
const LINGER: Duration = LEASE_MAX.saturating_add(Duration::from_secs(10));

/// Where nft is installed; the search path of a daemon need not name them.
const NFT: [&str; 5] =
    ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft", "/usr/bin/nft", "/bin/nft"];

/// How a lease that runs is made longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// Adding the element again gives it the new time (Linux 6.12 and later).
    Extend,
    /// The element is deleted and added in one transaction (every kernel). A packet that is looked
    /// up on another processor in the microsecond of the change may be lost.
    Replace,
}

/// The two tables of a node.
#[derive(Debug)]
pub(crate) struct Filter {
    table: String,
    channel: Channel,
    renewal: Option<Renewal>,
}

impl Filter {
    pub(crate) fn open(table: &str) -> Result<Self, IpError> {
        if !valid_table(table) {
            return Err(IpError::TableName { table: table.into() });
        }
        let channel = Channel::open(netlink_sys::protocols::NETLINK_NETFILTER, "nftables netlink")?;
        Ok(Self { table: table.into(), channel, renewal: None })
    }

    /// Uses this way of renewal instead of finding out.
    pub(crate) fn set_renewal(&mut self, renewal: Renewal) {
        self.renewal = Some(renewal);
    }

    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Writes tables, sets and rules; what the sets hold stays.
    pub(crate) fn prepare(&self) -> Result<(), IpError> {
        run_nft(&NFT, &script(&self.table))
    }

    /// Shuts an address until it has a lease.
    pub(crate) fn own(&mut self, ip: Ipv4Addr, interface: &str) -> Result<(), IpError> {
        let table = self.table.clone();
        let home = place(Family::Arp, &table, "homes");
        let mut steps = replaced(&table, ip, None);
        steps.push(Step::Add(home, Key::address_at(ip, interface), None));
        self.commit("shutting an address in the filter", &steps)
    }

    /// Forgets an address: lease and home at once, ownership after [`LINGER`]. Idempotent.
    pub(crate) fn disown(&mut self, ip: Ipv4Addr, interface: &str) -> Result<(), IpError> {
        let table = self.table.clone();
        let home = place(Family::Arp, &table, "homes");
        let key = Key::address_at(ip, interface);
        let mut steps = absent(&table, ip).to_vec();
        steps.extend(replaced(&table, ip, Some(LINGER)));
        steps.push(Step::Add(home, key.clone(), None));
        steps.push(Step::Delete(home, key));
        self.commit("taking an address out of the filter", &steps)
    }

    /// Opens an address for `remaining`, at most [`LEASE_MAX`]; below [`LEASE_MIN`] it is shut.
    pub(crate) fn lease(&mut self, ip: Ipv4Addr, remaining: Duration) -> Result<(), IpError> {
        if remaining < LEASE_MIN {
            self.unlease(ip)?;
            let given_ms = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
            return Err(IpError::LeaseTooShort { given_ms });
        }
        let remaining = remaining.min(LEASE_MAX);
        let renewal = self.renewal()?;
        let table = self.table.clone();
        let steps: Vec<_> = both(&table, "leased")
            .into_iter()
            .flat_map(|place| renew(renewal, place, &Key::address(ip), remaining))
            .collect();
        self.commit("renewing the lease of an address", &steps)
    }

    /// Shuts an address now. Idempotent.
    pub(crate) fn unlease(&mut self, ip: Ipv4Addr) -> Result<(), IpError> {
        let table = self.table.clone();
        let steps = absent(&table, ip);
        self.commit("ending the lease of an address", &steps)
    }

    /// What is left of the lease of an address: of the shorter of the two elements.
    pub(crate) fn lease_left(&mut self, ip: Ipv4Addr) -> Result<Option<Duration>, IpError> {
        let table = self.table.clone();
        let mut least = LEASE_MAX;
        for place in both(&table, "leased") {
            let Some(element) = self.get(place, &Key::address(ip))? else { return Ok(None) };
            least = least.min(element.left.unwrap_or(LEASE_MAX));
        }
        Ok(Some(least))
    }

    /// All owned addresses and their interfaces, as the kernel knows them.
    pub(crate) fn homes(&mut self) -> Result<Vec<(Ipv4Addr, String)>, IpError> {
        let table = self.table.clone();
        let home = place(Family::Arp, &table, "homes");
        let found = self
            .channel
            .dump(|seq| nft::list(seq, home), |frame, found| found.extend(nft::read(frame)))?;
        let elements: Vec<Element> = found.map_err(|e| self.explain("reading the filter", e))?;
        let mut homes = Vec::new();
        for element in elements {
            let Some((ip, Some(interface))) = element.key.read() else {
                return Err(IpError::Garbled { what: "an owned address of the filter" });
            };
            homes.push((ip, interface));
        }
        homes.sort();
        Ok(homes)
    }

    /// Finds out, with an element that is no address of anybody (0.0.0.0/8) and that differs from
    /// process to process, whether adding again extends.
    pub(crate) fn renewal(&mut self) -> Result<Renewal, IpError> {
        if let Some(known) = self.renewal {
            return Ok(known);
        }
        let [_, b, c, d] = std::process::id().to_be_bytes();
        let key = Key::address(Ipv4Addr::new(0, b, c, d));
        let table = self.table.clone();
        let place = place(Family::Inet, &table, "leased");
        let what = "finding out how the kernel renews leases";
        let short = Duration::from_secs(2);
        let add = |time| [Step::Add(place, key.clone(), Some(time))];
        self.commit(what, &add(short))?;
        self.commit(what, &add(LEASE_MAX))?;
        let left = self.get(place, &key)?.and_then(|e| e.left).unwrap_or_default();
        self.commit(what, &[add(short)[0].clone(), Step::Delete(place, key.clone())])?;
        let renewal = if left > short { Renewal::Extend } else { Renewal::Replace };
        tracing::debug!(?renewal, "how this kernel renews the lease of an address");
        self.renewal = Some(renewal);
        Ok(renewal)
    }

    fn get(&mut self, place: Place<'_>, key: &Key) -> Result<Option<Element>, IpError> {
        let mut found = Vec::new();
        let answer = self.channel.ask(
            Ends::Acks(1),
            |seq| nft::get(seq, place, key),
            |frame| found.extend(nft::read(frame)),
        )?;
        match answer {
            Ok(()) => Ok(found.into_iter().find(|e| e.key == *key)),
            // The set is there but not the element, or the set is not there: tell them apart.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                self.homes()?;
                Ok(None)
            }
            Err(e) => Err(self.explain("reading a lease", e)),
        }
    }

    fn commit(&mut self, what: &'static str, steps: &[Step<'_>]) -> Result<(), IpError> {
        let acks = u32::try_from(steps.len()).expect("a handful of steps");
        let answer =
            self.channel.ask(Ends::Acks(acks), |seq| nft::transaction(seq, steps), |_| ())?;
        answer.map_err(|e| self.explain(what, e))
    }

    /// Every transaction is made so that its elements exist: what is missing is the table or set.
    fn explain(&self, what: &'static str, e: io::Error) -> IpError {
        match e.raw_os_error() {
            Some(libc::ENOENT) => IpError::NoFilter { table: self.table.clone() },
            _ => IpError::kernel(what, e),
        }
    }
}

fn place<'a>(family: Family, table: &'a str, set: &'a str) -> Place<'a> {
    Place { family, table, set }
}

fn both<'a>(table: &'a str, set: &'a str) -> [Place<'a>; 2] {
    [place(Family::Inet, table, set), place(Family::Arp, table, set)]
}

/// Ends both leases. Adding first makes deleting possible whether there was one or not; packets see
/// only the end.
fn absent(table: &str, ip: Ipv4Addr) -> [Step<'_>; 4] {
    let [inet, arp] = both(table, "leased");
    let key = Key::address(ip);
    [
        Step::Add(inet, key.clone(), Some(LEASE_MIN)),
        Step::Delete(inet, key.clone()),
        Step::Add(arp, key.clone(), Some(LEASE_MIN)),
        Step::Delete(arp, key),
    ]
}

/// Makes an address owned for ever or for a time, whatever it was.
fn replaced(table: &str, ip: Ipv4Addr, time: Option<Duration>) -> Vec<Step<'_>> {
    let key = Key::address(ip);
    both(table, "owned")
        .into_iter()
        .flat_map(|place| {
            let add = Step::Add(place, key.clone(), time);
            [add.clone(), Step::Delete(place, key.clone()), add]
        })
        .collect()
}

fn renew<'a>(renewal: Renewal, place: Place<'a>, key: &Key, time: Duration) -> Vec<Step<'a>> {
    let add = Step::Add(place, key.clone(), Some(time));
    match renewal {
        Renewal::Extend => vec![add],
        Renewal::Replace => vec![add.clone(), Step::Delete(place, key.clone()), add],
    }
}

/// The name is written into a script for `nft`: nothing may be hidden in it.
fn valid_table(name: &str) -> bool {
    (1..=31).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Tables, sets and rules, in one transaction: chains are emptied and filled again, sets keep what
/// they hold.
fn script(table: &str) -> String {
    format!(
        "\
table inet {table} {{
  set owned {{ type ipv4_addr; flags timeout; }}
  set leased {{ type ipv4_addr; flags timeout; }}
  chain input {{ type filter hook input priority 0; policy accept; }}
  chain output {{ type filter hook output priority 0; policy accept; }}
}}
table arp {table} {{
  set owned {{ type ipv4_addr; flags timeout; }}
  set leased {{ type ipv4_addr; flags timeout; }}
  set homes {{ type ipv4_addr . ifname; }}
  chain output {{ type filter hook output priority 0; policy accept; }}
}}
flush chain inet {table} input
flush chain inet {table} output
flush chain arp {table} output
add rule inet {table} input ip daddr @owned ip daddr != @leased drop
add rule inet {table} output ip saddr @owned ip saddr != @leased drop
add rule arp {table} output arp saddr ip @owned arp saddr ip != @leased drop
add rule arp {table} output arp operation reply arp saddr ip @owned \
arp saddr ip . oifname != @homes drop
"
    )
}

/// Feeds a script to the first of the programs that is there.
fn run_nft(programs: &[&str], script: &str) -> Result<(), IpError> {
    let what = "running nft";
    for program in programs {
        let spawned = Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(IpError::kernel(what, e)),
            Ok(child) => child,
        };
        // A script fits into a pipe: this does not block. An nft that has died is reported below.
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
        let output = child.wait_with_output().map_err(|e| IpError::kernel(what, e))?;
        if output.status.success() {
            return written.unwrap_or(Ok(())).map_err(|e| IpError::kernel(what, e));
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("Operation not permitted") {
            return Err(IpError::Permission { what });
        }
        let mut stderr: String = stderr.trim().chars().take(500).collect();
        if stderr.is_empty() {
            stderr = output.status.to_string();
        }
        return Err(IpError::NftRefused { stderr });
    }
    Err(IpError::NftMissing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_carry_commands() {
        for good in ["wolfpack", "w", "wolfpack_2"] {
            assert!(valid_table(good), "{good}");
        }
        for bad in ["", "2w", "W", "a b", "a;b", "a\n", "a{", &"a".repeat(32)] {
            assert!(!valid_table(bad), "{bad:?}");
            assert!(matches!(Filter::open(bad), Err(IpError::TableName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_nft_is_named() {
        let e = run_nft(&["/nonexistent/nft", "/nonexistent/too"], "").unwrap_err();
        assert!(matches!(e, IpError::NftMissing), "{e}");
    }

    #[test]
    fn a_program_that_refuses_is_quoted() {
        let e = run_nft(&["/nonexistent/nft", "/bin/false"], "").unwrap_err();
        assert!(matches!(&e, IpError::NftRefused { stderr } if stderr.contains('1')), "{e}");
    }

    #[test]
    fn ending_something_never_fails_for_its_absence() {
        let steps = absent("t", Ipv4Addr::new(10, 0, 0, 5));
        for pair in steps.chunks(2) {
            let [Step::Add(at, key, Some(time)), Step::Delete(from, gone)] = pair else {
                panic!("{pair:?}")
            };
            assert_eq!((at, key), (from, gone));
            assert!(*time >= LEASE_MIN, "zero would mean for ever");
        }
    }
}
