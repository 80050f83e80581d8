//! `wolfpack database`: the tree of keys and typed values that programs keep in the cluster.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use wolfpack_client::Client;
use wolfpack_types::Seq;
use wolfpack_types::api::{Reply, Request};
use wolfpack_types::tree::{Precondition, Transaction, TreeOp, TreeValue};

use crate::args::Args;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::render;
use crate::run::ask;

const TYPES: [&str; 5] = ["sz", "dword", "qword", "multi-sz", "binary"];

#[derive(Subcommand, Debug)]
pub(crate) enum Database {
    /// Shows a key with its values, or one value
    Get {
        /// Like Programs/mail; without it the root
        #[arg(default_value = "")]
        key: String,
        /// One value of the key; an empty name is the key's default value
        name: Option<String>,
    },
    /// Lists the keys below a key
    List {
        #[arg(default_value = "")]
        key: String,
        /// All of them, not only those directly below
        #[arg(long, short)]
        recursive: bool,
    },
    /// Sets a value; the key is made if need be
    Set {
        key: String,
        name: String,
        /// Several words for multi-sz, pairs of hexadecimal digits for binary
        #[arg(required = true)]
        value: Vec<String>,
        #[arg(long = "type", value_name = "TYPE", default_value = "sz",
              value_parser = clap::builder::PossibleValuesParser::new(TYPES))]
        kind: String,
        /// Only if the value is this one now (of the same type; repeat it for multi-sz)
        #[arg(long, value_name = "VALUE", conflicts_with = "if_absent")]
        if_value: Vec<String>,
        /// Only if there is no such value yet
        #[arg(long)]
        if_absent: bool,
        #[command(flatten)]
        unchanged: Unchanged,
    },
    /// Makes a key without values
    Create {
        key: String,
        /// Only if there is no such key yet
        #[arg(long)]
        if_absent: bool,
    },
    /// Deletes a value, or a key with its values
    Delete {
        key: String,
        /// The value; without it the key
        name: Option<String>,
        /// The keys below it too
        #[arg(long, short, conflicts_with = "name")]
        recursive: bool,
        #[command(flatten)]
        unchanged: Unchanged,
    },
    /// Shows changes as they happen, until it is interrupted
    Watch {
        #[arg(default_value = "")]
        key: String,
        /// The keys below it too
        #[arg(long, short)]
        recursive: bool,
    },
    /// Identities and names of all objects, those lately deleted too
    Objects,
    /// Writes a consistent copy of the cluster database to a new file on this node
    Backup { file: PathBuf },
    /// Begins the cluster anew from a backup: what was changed since is lost on all nodes
    Restore {
        file: PathBuf,
        /// Nodes of which you know that they are switched off, all but this one
        #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
        dead: Vec<String>,
        /// The backup is of another cluster, and that is meant
        #[arg(long)]
        foreign: bool,
    },
}

/// A condition of every change.
#[derive(ClapArgs, Clone, Copy, Debug)]
pub(crate) struct Unchanged {
    /// Only if the key was not changed by an update later than this one
    #[arg(long, value_name = "UPDATE")]
    if_unchanged_since: Option<u64>,
}

impl Unchanged {
    fn condition(self, key: &str) -> Option<Precondition> {
        let since = Seq(self.if_unchanged_since?);
        Some(Precondition::Unchanged { key: key.to_owned(), since })
    }
}

/// Carries out the command.
pub(crate) fn run(args: &Args, output: &mut Output, command: &Database) -> Result<(), Failure> {
    match command {
        Database::Get { key, name } => {
            show(args, output, &Request::TreeGet { key: key.clone(), name: name.clone() })
        }
        Database::List { key, recursive } => list(args, output, key, *recursive),
        Database::Watch { key, recursive } => watch(args, output, key, *recursive),
        Database::Objects => show(args, output, &Request::ObjectLog),
        Database::Backup { file } => show(args, output, &Request::Backup { file: absolute(file)? }),
        Database::Restore { file, dead, foreign } => {
            let request =
                Request::Restore { file: absolute(file)?, dead: dead.clone(), foreign: *foreign };
            let reply = ask(args, args.timeout(), &request)?;
            output.reply(&reply, || "the cluster begins anew from the backup".to_owned())
        }
        Database::Set { .. } | Database::Create { .. } | Database::Delete { .. } => {
            let (transaction, done) =
                transaction(command).map_err(|e| Failure::new(Exit::Usage, e, ""))?;
            let reply = ask(args, args.timeout(), &Request::TreeApply { transaction })?;
            output.reply(&reply, || done)
        }
    }
}

fn show(args: &Args, output: &mut Output, request: &Request) -> Result<(), Failure> {
    let reply = ask(args, args.timeout(), request)?;
    output.reply(&reply, || render::reply(&reply))
}

/// The service has another working directory.
fn absolute(file: &std::path::Path) -> Result<String, Failure> {
    let path = std::path::absolute(file)
        .map_err(|e| Failure::new(Exit::Usage, format!("'{}': {e}", file.display()), ""))?;
    path.into_os_string().into_string().map_err(|path| {
        let what = format!("'{}' is not UTF-8", path.display());
        Failure::new(Exit::Usage, what, "choose another name for the file")
    })
}

/// The change as a transaction, and what to say when it is done.
fn transaction(command: &Database) -> Result<(Transaction, String), String> {
    let mut preconditions = Vec::new();
    let (op, done) = match command {
        Database::Set { key, name, value, kind, if_value, if_absent, unchanged } => {
            let (key, name) = (key.clone(), name.clone());
            if !if_value.is_empty() {
                let value =
                    TreeValue::parse(kind, if_value).map_err(|e| format!("--if-value: {e}"))?;
                let (key, name) = (key.clone(), name.clone());
                preconditions.push(Precondition::ValueEquals { key, name, value });
            }
            if *if_absent {
                let (key, name) = (key.clone(), name.clone());
                preconditions.push(Precondition::ValueAbsent { key, name });
            }
            preconditions.extend(unchanged.condition(&key));
            let value = TreeValue::parse(kind, value)?;
            let done = format!("{key}: '{name}' is set");
            (TreeOp::SetValue { key, name, value }, done)
        }
        Database::Create { key, if_absent } => {
            let key = key.clone();
            if *if_absent {
                preconditions.push(Precondition::KeyAbsent { key: key.clone() });
            }
            let done = format!("key {key} is there");
            (TreeOp::CreateKey { key }, done)
        }
        Database::Delete { key, name, recursive, unchanged } => {
            preconditions.extend(unchanged.condition(key));
            let key = key.clone();
            match name {
                Some(name) => {
                    let done = format!("{key}: '{name}' is deleted");
                    (TreeOp::DeleteValue { key, name: name.clone() }, done)
                }
                None => {
                    let done = format!("key {key} is deleted");
                    (TreeOp::DeleteKey { key, subkeys: *recursive }, done)
                }
            }
        }
        _ => return Err("this command changes nothing".into()),
    };
    let transaction = Transaction { preconditions, ops: vec![op] };
    transaction.check_bounds()?;
    Ok((transaction, done))
}

/// Asks again after the last key of a reply that was cut short.
fn list(args: &Args, output: &mut Output, key: &str, recursive: bool) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let request = Request::TreeList { key: key.to_owned(), recursive, after: after.take() };
        let reply = ask(args, args.timeout(), &request)?;
        output.reply(&reply, || render::reply(&reply))?;
        match reply {
            Reply::TreeKeys { keys, more: true } => match keys.last() {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(()),
            },
            _ => return Ok(()),
        }
    }
}

fn watch(args: &Args, output: &mut Output, key: &str, recursive: bool) -> Result<(), Failure> {
    let client = Client::connect(&args.socket, args.timeout())?;
    for reply in client.watch(&Request::TreeWatch { key: key.to_owned(), recursive })? {
        let reply = reply?;
        output.reply(&reply, || render::reply(&reply))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Command;

    fn parse(line: &str) -> Result<Database, clap::Error> {
        let args = Args::try_parse_from(std::iter::once("wolfpack").chain(line.split(' ')))?;
        match args.command {
            Command::Database(command) => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    fn change(line: &str) -> Result<Transaction, String> {
        transaction(&parse(line).map_err(|e| e.to_string())?).map(|(t, _)| t)
    }

    #[test]
    fn a_value_is_set_with_its_type_and_conditions() {
        let (key, name) = ("Programs/mail".to_owned(), "limit".to_owned());
        let t = change("database set Programs/mail limit 7 --type dword --if-value 6").unwrap();
        let value = TreeValue::Dword(7);
        assert_eq!(t.ops, [TreeOp::SetValue { key: key.clone(), name: name.clone(), value }]);
        let value = TreeValue::Dword(6);
        let (k, n) = (key.clone(), name.clone());
        assert_eq!(t.preconditions, [Precondition::ValueEquals { key: k, name: n, value }]);

        let t = change("database set Programs/mail limit a b --type multi-sz --if-absent").unwrap();
        assert!(matches!(&t.ops[..], [TreeOp::SetValue { value: TreeValue::MultiSz(v), .. }]
            if v.len() == 2));
        assert_eq!(t.preconditions, [Precondition::ValueAbsent { key: key.clone(), name }]);

        let t = change("database delete Programs/mail -r --if-unchanged-since 41").unwrap();
        assert_eq!(t.ops, [TreeOp::DeleteKey { key: key.clone(), subkeys: true }]);
        assert_eq!(t.preconditions, [Precondition::Unchanged { key, since: Seq(41) }]);
    }

    #[test]
    fn what_cannot_be_is_refused_before_anybody_is_asked() {
        for (line, word) in [
            ("database set a b 70000000000 --type dword", "4294967295"),
            ("database set a b xyz --type binary", "hexadecimal"),
            ("database set a b c d", "one word"),
            ("database set a//b n v", "no key"),
            ("database set a b c --type number", "possible values"),
            ("database set a b c --if-absent --if-value d", "cannot be used with"),
            ("database delete a b -r", "cannot be used with"),
            ("database set a b", "required"),
        ] {
            let why = change(line).unwrap_err();
            assert!(why.contains(word), "{line}: {why}");
        }
    }
}
