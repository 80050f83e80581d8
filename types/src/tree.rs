//! The tree: keys with typed values, beside the typed objects of the cluster database.
//!
//! Like the cluster registry of MSCS (MS-CMRP 2.2.3): keys are paths such as
//! `Groups/web/Parameters`, each with named values of a type. Changes come as transactions: all or
//! nothing, and only if their preconditions hold. This module is the words, their bounds and the
//! check of the bounds; the database manager carries transactions out.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Seq;

/// Parts of a key path at most.
pub const KEY_DEPTH_MAX: usize = 16;
/// Bytes of a whole key path at most.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of one part of a path, or of the name of a value, at most.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of the content of a value at most.
pub const VALUE_BYTES_MAX: usize = 256 << 10;
/// Strings of one [`TreeValue::MultiSz`] at most.
pub const STRINGS_MAX: usize = 4096;
/// Operations, and preconditions, of one transaction at most.
pub const STEPS_MAX: usize = 1024;
/// Bytes of all contents of one transaction at most, so that it fits into one message.
pub const TRANSACTION_BYTES_MAX: usize = 512 << 10;
/// Keys and values of the whole tree together at most.
pub const ENTRIES_MAX: usize = 100_000;
/// Bytes of the whole tree (names and contents) at most.
pub const TREE_BYTES_MAX: usize = 128 << 20;

/// A typed value. The types are those of the registry that clusters keep (REG_DWORD and so on).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeValue {
    Dword(u32),
    Qword(u64),
    Sz(String),
    MultiSz(Vec<String>),
    Binary(Bytes),
}

/// Bytes; hexadecimal digits in people's formats (JSON).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Bytes {
    /// Parses pairs of hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
            .collect::<Option<_>>()?;
        let (pairs, rest) = digits.as_chunks::<2>();
        rest.is_empty().then(|| Self(pairs.iter().map(|[a, b]| a << 4 | b).collect()))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            Self::parse(&text)
                .ok_or_else(|| serde::de::Error::custom("expected pairs of hexadecimal digits"))
        } else {
            Vec::deserialize(deserializer).map(Self)
        }
    }
}

impl TreeValue {
    /// The type's name as commands take it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Dword(_) => "dword",
            Self::Qword(_) => "qword",
            Self::Sz(_) => "sz",
            Self::MultiSz(_) => "multi-sz",
            Self::Binary(_) => "binary",
        }
    }

    /// Bytes of the content, for the bounds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dword(_) => 4,
            Self::Qword(_) => 8,
            Self::Sz(s) => s.len(),
            Self::MultiSz(all) => all.iter().map(|s| s.len() + 1).sum(),
            Self::Binary(b) => b.0.len(),
        }
    }

    /// Reads a value of the named type from a command's words (several for `multi-sz`).
    ///
    /// # Errors
    /// An unknown type, or words that are no such value, in words.
    pub fn parse(kind: &str, words: &[String]) -> Result<Self, String> {
        let one = || match words {
            [only] => Ok(only.as_str()),
            _ => Err(format!("a value of type {kind} is one word, not {}", words.len())),
        };
        let no_number = |max: u64| format!("a {kind} is a whole number from 0 to {max}");
        match kind {
            "dword" => one()?.parse().map(Self::Dword).map_err(|_| no_number(u32::MAX.into())),
            "qword" => one()?.parse().map(Self::Qword).map_err(|_| no_number(u64::MAX)),
            "sz" => Ok(Self::Sz(one()?.to_owned())),
            "multi-sz" => Ok(Self::MultiSz(words.to_vec())),
            "binary" => Bytes::parse(one()?)
                .map(Self::Binary)
                .ok_or_else(|| "a binary value is pairs of hexadecimal digits".into()),
            _ => Err(format!(
                "'{kind}' is no type of values: there are dword, qword, sz, multi-sz and binary"
            )),
        }
    }
}

/// The value with its type, shortened where it is long: for refusals and people.
impl fmt::Display for TreeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        let text = match self {
            Self::Dword(n) => return write!(f, "dword {n}"),
            Self::Qword(n) => return write!(f, "qword {n}"),
            Self::Sz(s) => format!("'{}'", s.escape_debug()),
            Self::MultiSz(all) => format!("{all:?}"),
            Self::Binary(b) => Bytes(b.0.iter().copied().take(SHOWN).collect()).to_string(),
        };
        let shown: String = text.chars().take(SHOWN).collect();
        let more = if shown.len() < text.len() || self.bytes() > text.len() { "..." } else { "" };
        write!(f, "{} {shown}{more}", self.kind())
    }
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precondition {
    KeyExists {
        key: String,
    },
    KeyAbsent {
        key: String,
    },
    ValueEquals {
        key: String,
        name: String,
        value: TreeValue,
    },
    /// The key may be absent too.
    ValueAbsent {
        key: String,
        name: String,
    },
    /// Neither the key's values nor its set of subkeys were changed by an update after `since`.
    Unchanged {
        key: String,
        since: Seq,
    },
}

/// One change of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeOp {
    /// Makes the key and all keys above it; one that exists stays as it is.
    CreateKey { key: String },
    /// Deletes the key with its values; with `subkeys`, all below it too (else it must have none).
    DeleteKey { key: String, subkeys: bool },
    /// Sets a value; the key is made, if need be.
    SetValue { key: String, name: String, value: TreeValue },
    /// Deletes a value that exists.
    DeleteValue { key: String, name: String },
}

impl TreeOp {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::CreateKey { key }
            | Self::DeleteKey { key, .. }
            | Self::SetValue { key, .. }
            | Self::DeleteValue { key, .. } => key,
        }
    }
}

/// Several changes of the tree as one: all or nothing, and only if every precondition holds.
/// The operations are carried out in order, each on what the ones before it left.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Transaction {
    #[serde(default)]
    pub preconditions: Vec<Precondition>,
    pub ops: Vec<TreeOp>,
}

impl Transaction {
    /// Whether it keeps the bounds of this module, whatever the tree holds.
    ///
    /// # Errors
    /// Which bound it breaks, in words.
    pub fn check_bounds(&self) -> Result<(), String> {
        if self.ops.is_empty() {
            return Err("a transaction changes something: it has at least one operation".into());
        }
        if self.ops.len() > STEPS_MAX || self.preconditions.len() > STEPS_MAX {
            return Err(format!(
                "a transaction has at most {STEPS_MAX} operations and preconditions"
            ));
        }
        let mut bytes = 0;
        for op in &self.ops {
            check_key(op.key())?;
            match op {
                TreeOp::SetValue { key, name, value } => {
                    check_value(name, value)?;
                    bytes += key.len() + name.len() + value.bytes();
                }
                TreeOp::DeleteValue { key, name } => {
                    check_name(name)?;
                    bytes += key.len() + name.len();
                }
                TreeOp::CreateKey { key } | TreeOp::DeleteKey { key, .. } => bytes += key.len(),
            }
        }
        for precondition in &self.preconditions {
            match precondition {
                Precondition::KeyExists { key }
                | Precondition::KeyAbsent { key }
                | Precondition::Unchanged { key, .. } => {
                    check_key(key)?;
                    bytes += key.len();
                }
                Precondition::ValueEquals { key, name, value } => {
                    check_key(key)?;
                    check_value(name, value)?;
                    bytes += key.len() + name.len() + value.bytes();
                }
                Precondition::ValueAbsent { key, name } => {
                    check_key(key)?;
                    check_name(name)?;
                    bytes += key.len() + name.len();
                }
            }
        }
        if bytes > TRANSACTION_BYTES_MAX {
            return Err(format!(
                "the transaction has {bytes} bytes, and at most {TRANSACTION_BYTES_MAX} go at once"
            ));
        }
        Ok(())
    }
}

/// Whether this can be a key: 1 to [`KEY_DEPTH_MAX`] parts, separated by `/`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_key(key: &str) -> Result<(), String> {
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("a key has at most {KEY_BYTES_MAX} bytes, not {}", key.len()));
    }
    if key.is_empty() {
        return Err("a key has at least one part, like 'Groups/web'".into());
    }
    if key.split('/').count() > KEY_DEPTH_MAX {
        return Err(format!("key '{}' has more than {KEY_DEPTH_MAX} parts", key.escape_debug()));
    }
    let part_is_bad =
        |p: &str| p.is_empty() || p.len() > NAME_BYTES_MAX || p.chars().any(char::is_control);
    if key.split('/').any(part_is_bad) {
        return Err(format!(
            "'{}' is no key: parts of 1 to {NAME_BYTES_MAX} bytes without control characters, \
             separated by single '/', like 'Groups/web'",
            key.escape_debug()
        ));
    }
    Ok(())
}

/// Whether this can name a value. The empty name is the key's default value.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        return Err(format!(
            "'{shown}' cannot name a value: at most {NAME_BYTES_MAX} bytes, no control characters"
        ));
    }
    Ok(())
}

/// Whether name and value keep their bounds.
///
/// # Errors
/// Which one does not, in words.
pub fn check_value(name: &str, value: &TreeValue) -> Result<(), String> {
    check_name(name)?;
    let strings = if let TreeValue::MultiSz(all) = value { all.len() } else { 0 };
    if value.bytes() > VALUE_BYTES_MAX || strings > STRINGS_MAX {
        return Err(format!(
            "value '{name}' is too large: {VALUE_BYTES_MAX} bytes and {STRINGS_MAX} strings fit"
        ));
    }
    Ok(())
}

/// A key as readers see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TreeKey {
    /// Empty: the root.
    pub key: String,
    /// The update that changed its values or its set of subkeys last.
    pub changed: u64,
    pub values: Vec<TreeEntry>,
    /// Names of the keys directly below, in order.
    pub subkeys: Vec<String>,
    /// Made from an object (a group, a resource and its private properties): changed through that
    /// object's own commands only.
    pub of_object: bool,
}

/// A value as readers see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TreeEntry {
    pub name: String,
    pub value: TreeValue,
    /// The update that set it last.
    pub changed: u64,
}

/// Bytes of a string in JSON, with its quotes, at most.
fn json_string(s: &str) -> usize {
    let escaped = |c: u8| if c < 0x20 { 6 } else { 1 + usize::from(matches!(c, b'"' | b'\\')) };
    2 + s.bytes().map(escaped).sum::<usize>()
}

impl TreeEntry {
    /// Bytes of the entry in JSON at most: replies are bounded lines.
    #[must_use]
    pub fn json_bytes(&self) -> usize {
        let value = match &self.value {
            TreeValue::Dword(_) | TreeValue::Qword(_) => 20,
            TreeValue::Sz(s) => json_string(s),
            TreeValue::MultiSz(all) => all.iter().map(|s| json_string(s) + 1).sum(),
            TreeValue::Binary(b) => 2 * b.0.len() + 2,
        };
        80 + json_string(&self.name) + value
    }
}

impl TreeKey {
    /// Bytes of the key in JSON at most: replies are bounded lines.
    #[must_use]
    pub fn json_bytes(&self) -> usize {
        let values: usize = self.values.iter().map(|v| v.json_bytes() + 1).sum();
        let subkeys: usize = self.subkeys.iter().map(|s| json_string(s) + 1).sum();
        120 + json_string(&self.key) + values + subkeys
    }
}

/// One change of the tree, for those who watch it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TreeChange {
    /// The update that made it.
    pub seq: u64,
    pub key: String,
    pub what: TreeChangeKind,
}

/// What changed at a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeChangeKind {
    KeyCreated,
    KeyDeleted,
    ValueSet {
        name: String,
        value: TreeValue,
    },
    ValueDeleted {
        name: String,
    },
    /// The tree was replaced as a whole (a snapshot): what changed in between is not known; read
    /// again.
    Replaced,
}
