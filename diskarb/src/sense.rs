//! Status and sense data as outcomes: pure, shared by both transports.

use wolfpack_types::disk::DiskOutcome;

/// Sense key, additional code and qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sense {
    pub key: u8,
    pub asc: u8,
    pub ascq: u8,
}

/// Reads raw sense data, fixed (70h, 71h) or descriptor format (72h, 73h) (SPC-4 section 4.5); what
/// is missing is zero.
pub(crate) fn parse(raw: &[u8]) -> Sense {
    let at = |i: usize| raw.get(i).copied().unwrap_or(0);
    match at(0) & 0x7f {
        0x70 | 0x71 => Sense { key: at(2) & 0x0f, asc: at(12), ascq: at(13) },
        0x72 | 0x73 => Sense { key: at(1) & 0x0f, asc: at(2), ascq: at(3) },
        _ => Sense::default(),
    }
}

/// What a SCSI status (SAM-5 section 5.3), with its sense if it is CHECK CONDITION, means.
pub(crate) fn outcome(status: u8, sense: Sense, data: Vec<u8>) -> DiskOutcome {
    let Sense { key, asc, ascq } = sense;
    match (status, key) {
        // RECOVERED ERROR: carried out, with a remark.
        (0x00, _) | (0x02, 0x01) => DiskOutcome::Good(data),
        (0x02, 0x06) => DiskOutcome::UnitAttention { asc, ascq },
        (0x02, 0x0b) | (0x40, _) => DiskOutcome::Aborted,
        (0x02, _) => DiskOutcome::Sense { key, asc, ascq },
        (0x08 | 0x28, _) => DiskOutcome::Busy,
        (0x18, _) => DiskOutcome::Conflict,
        (other, _) => DiskOutcome::Transport(format!("unexpected SCSI status {other:#04x}")),
    }
}

/// An outcome in words, for people.
pub(crate) fn words(outcome: &DiskOutcome) -> String {
    match outcome {
        DiskOutcome::Good(_) => "GOOD".to_owned(),
        DiskOutcome::Conflict => "RESERVATION CONFLICT".to_owned(),
        DiskOutcome::UnitAttention { asc, ascq } => {
            format!("UNIT ATTENTION {asc:02x}/{ascq:02x} (reset, or reservation lost)")
        }
        DiskOutcome::Aborted => "aborted".to_owned(),
        DiskOutcome::Sense { key, asc, ascq } => format!("sense {key:x}/{asc:02x}/{ascq:02x}"),
        DiskOutcome::Busy => "BUSY".to_owned(),
        DiskOutcome::Transport(why) => why.clone(),
        DiskOutcome::Timeout => "no answer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_and_short_data() {
        let mut fixed = [0; 18];
        (fixed[0], fixed[2], fixed[12], fixed[13]) = (0x70, 0x66, 0x29, 0x01);
        assert_eq!(parse(&fixed), Sense { key: 6, asc: 0x29, ascq: 1 });
        assert_eq!(parse(&[0x72, 5, 0x25, 0]), Sense { key: 5, asc: 0x25, ascq: 0 });
        assert_eq!(parse(&[0x70]), Sense::default());
        assert_eq!(parse(&[]), Sense::default());
    }

    #[test]
    fn every_status_is_its_outcome() {
        let none = Sense::default();
        let key = |key| Sense { key, asc: 0x29, ascq: 0 };
        assert_eq!(outcome(0, none, vec![1]), DiskOutcome::Good(vec![1]));
        assert_eq!(outcome(2, key(1), vec![]), DiskOutcome::Good(vec![]));
        assert_eq!(outcome(2, key(6), vec![]), DiskOutcome::UnitAttention { asc: 0x29, ascq: 0 });
        assert_eq!(outcome(2, key(11), vec![]), DiskOutcome::Aborted);
        assert_eq!(outcome(2, key(5), vec![]), DiskOutcome::Sense { key: 5, asc: 0x29, ascq: 0 });
        assert_eq!(outcome(0x40, none, vec![]), DiskOutcome::Aborted);
        assert_eq!(outcome(0x18, none, vec![]), DiskOutcome::Conflict);
        assert_eq!(outcome(0x08, none, vec![]), DiskOutcome::Busy);
        assert_eq!(outcome(0x28, none, vec![]), DiskOutcome::Busy);
        assert!(matches!(outcome(0x30, none, vec![]), DiskOutcome::Transport(_)));
    }
}
