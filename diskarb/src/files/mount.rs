//! Whether a directory may be a witness, by how it is mounted.
//!
//! The register reads what others have written *last*. A client of a network file system that
//! answers from its cache, or gives up on a call that the server still carries out, breaks that
//! quietly; so a mount that allows it is refused, with the options that are needed.

use std::path::Path;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    point: String,
    kind: &'a str,
    /// Options of the mount and of the file system.
    options: Vec<&'a str>,
}

fn parse(line: &str) -> Option<Mount<'_>> {
    // 36 35 98:0 /root /point rw,noatime master:1 - nfs4 server:/x rw,noac
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let point = unescape(left.nth(4)?);
    let own = left.next()?;
    let mut right = right.split(' ');
    let kind = right.next()?;
    let filesystem = right.nth(1)?;
    Some(Mount { point, kind, options: own.split(',').chain(filesystem.split(',')).collect() })
}

/// `\040` and the like.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Checks the mount on which `path` (canonical) lies, by the content of `/proc/self/mountinfo`.
///
/// # Errors
/// What is wrong with it and how to mount it instead.
pub(super) fn check(mountinfo: &str, path: &Path) -> Result<(), String> {
    // The last of the longest: a later mount hides an earlier one at the same place.
    let mount = mountinfo
        .lines()
        .filter_map(parse)
        .filter(|m| path.starts_with(&m.point))
        .max_by_key(|m| Path::new(&m.point).components().count());
    let Some(mount) = mount else { return Ok(()) };
    let has = |option: &str| mount.options.contains(&option);
    let told = |needed: &str| {
        Err(format!(
            "{} is mounted as {} in a way in which this node could read old content: mount it \
             with -o {needed}",
            mount.point, mount.kind
        ))
    };
    match mount.kind {
        "nfs" | "nfs4" => {
            let uncached = has("noac") || (has("acregmax=0") && has("acdirmax=0"));
            let lookups = has("lookupcache=none");
            let gives_up = has("soft") || has("softerr");
            if uncached && lookups && !gives_up {
                return Ok(());
            }
            told("hard,noac,lookupcache=none")
        }
        "cifs" | "smb3" => {
            let attributes = has("actimeo=0") || (has("acregmax=0") && has("acdirmax=0"));
            if has("cache=none") && attributes && !has("soft") {
                return Ok(());
            }
            told("hard,cache=none,actimeo=0")
        }
        fuse if fuse.starts_with("fuse") => Err(format!(
            "{} is mounted as {fuse}, of whose caches nothing is known: use NFS, SMB or a cluster \
             file system",
            mount.point
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: &str, options: &str) -> Result<(), String> {
        let text = format!(
            "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
             garbage\n\
             40 22 0:50 / /mnt/wit\\040ness rw,relatime shared:5 - {kind} server:/x {options}\n"
        );
        check(&text, Path::new("/mnt/wit ness/sub"))
    }

    #[test]
    fn a_share_that_may_show_old_content_is_refused_with_the_options() {
        assert_eq!(with("nfs4", "rw,hard,noac,lookupcache=none,addr=1"), Ok(()));
        assert_eq!(with("nfs", "rw,acregmax=0,acdirmax=0,hard,lookupcache=none"), Ok(()));
        for bad in ["rw,hard", "rw,noac", "rw,soft,noac,lookupcache=none"] {
            let why = with("nfs4", bad).unwrap_err();
            assert!(why.contains("/mnt/wit ness") && why.contains("lookupcache=none"), "{why}");
        }
        assert_eq!(with("cifs", "rw,cache=none,actimeo=0"), Ok(()));
        assert!(with("cifs", "rw,cache=strict,actimeo=0").unwrap_err().contains("cache=none"));
        assert!(with("fuse.sshfs", "rw").unwrap_err().contains("fuse.sshfs"));
        assert_eq!(with("gfs2", "rw"), Ok(()));
    }

    #[test]
    fn the_mount_is_the_one_on_which_the_path_lies() {
        let text = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                    40 22 0:50 / /mnt rw - nfs4 s:/x rw\n\
                    41 22 0:51 / /mnt/w rw - xfs /dev/sdb rw";
        assert_eq!(check(text, Path::new("/mnt/w/a")), Ok(()));
        assert!(check(text, Path::new("/mnt/wa")).is_err());
        assert_eq!(check(text, Path::new("/srv")), Ok(()));
        assert_eq!(check("", Path::new("/srv")), Ok(()));
    }
}
