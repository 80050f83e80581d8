//! The layout: regions do not overlap, and no bytes of a disk make a decoder panic or believe.

use proptest::prelude::*;
use wolfpack_types::register::Slot;
use wolfpack_types::{Ballot, ClusterId, Guid, Incarnation, Members, NodeId, Seq};

use super::{
    CHECKPOINT_BYTES_MAX, CHECKPOINT_BYTES_MIN, Layout, LogReader, ReadStep, SlotBlock, Station,
    SuperblockError, required_bytes,
};

const CLUSTER: ClusterId = ClusterId(Guid(42));

fn slot(inc: u64) -> Slot {
    Slot {
        cluster: CLUSTER,
        node: NodeId::new(3).unwrap(),
        inc: Incarnation(inc),
        wseq: 9,
        mbal: Ballot::ZERO,
        members: Members::new(),
        bal: Ballot::ZERO,
        view: None,
        last_seq: Seq(0),
        renew: 1,
    }
}

#[test]
fn the_superblock_says_what_was_written() {
    for block_size in [512, 4096] {
        let layout = Layout::new(CLUSTER, block_size, 16);
        let block = layout.superblock();
        assert_eq!(block.len(), block_size as usize);
        assert_eq!(Layout::parse(&block), Ok(layout));
        assert_eq!(Layout::parse(&vec![0; 512]), Err(SuperblockError::Missing));
        assert_eq!(Layout::parse(&block[..40]), Err(SuperblockError::Missing));
        let mut torn = block.clone();
        torn[20] ^= 1;
        assert_eq!(Layout::parse(&torn), Err(SuperblockError::Damaged));
        assert!(layout.blocks() * u64::from(block_size) <= required_bytes(16));
    }
}

#[test]
fn checkpoints_are_as_large_as_the_disk_has_room_for() {
    for block_size in [512, 4096] {
        let block = u64::from(block_size);
        let smallest = Layout::new(CLUSTER, block_size, 16);
        let on = |blocks| Layout::fitting(CLUSTER, block_size, 16, blocks);
        assert_eq!(on(smallest.blocks() - 1), None);
        assert_eq!(on(smallest.blocks()), Some(smallest));
        assert_eq!(smallest.checkpoint_capacity() as u64, CHECKPOINT_BYTES_MIN);
        for mib in [100, 128, 1024, 5000, 8192, 8300, 20_000] {
            let blocks = (mib << 20) / block;
            let layout = on(blocks).unwrap();
            assert!(layout.blocks() <= blocks, "{mib} MiB");
            let bytes = layout.checkpoint_capacity() as u64;
            assert!((CHECKPOINT_BYTES_MIN..=CHECKPOINT_BYTES_MAX).contains(&bytes));
            // The next step would not fit, or is beyond the bound.
            let step = (64 << 10) / block * 64;
            assert!(bytes == CHECKPOINT_BYTES_MAX || layout.blocks() + step > blocks, "{mib} MiB");
            assert_eq!(Layout::parse(&layout.superblock()), Ok(layout));
        }
        assert_eq!(on(u64::MAX / 4).unwrap().checkpoint_capacity() as u64, CHECKPOINT_BYTES_MAX);
    }
}

#[test]
fn a_superblock_with_checkpoints_out_of_bounds_is_refused() {
    let good = Layout::fitting(CLUSTER, 512, 16, 1 << 20).unwrap();
    for blocks in [1, 2048, (128 << 11) + 2, u32::MAX] {
        let odd = Layout { checkpoint: blocks, ..good };
        let refused = Layout::parse(&odd.superblock());
        assert!(matches!(refused, Err(SuperblockError::Impossible { .. })), "{blocks}");
        assert!(refused.unwrap_err().to_string().contains("checkpoint blocks"));
    }
}

#[test]
fn regions_follow_each_other_without_overlap() {
    let smallest = Layout::new(CLUSTER, 512, 64);
    check_regions(smallest);
    check_regions(Layout::fitting(CLUSTER, 512, 64, smallest.blocks() * 7).unwrap());
}

fn check_regions(layout: Layout) {
    let mut spans = vec![(0, 1)];
    for at in layout.all_stations() {
        spans.push((layout.slot_lba(at), 1));
        for which in 0..2 {
            spans.push((layout.body_lba(at, which), u64::from(layout.body)));
            spans.push((layout.checkpoint_lba(at, which), u64::from(layout.checkpoint)));
        }
        spans.push((layout.ring_lba(at), u64::from(layout.ring)));
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        assert_eq!(pair[0].0 + pair[0].1, pair[1].0);
    }
    let last = spans[spans.len() - 1];
    assert_eq!(last.0 + last.1, layout.blocks());
}

#[test]
fn a_slot_at_the_wrong_station_or_of_another_cluster_is_refused() {
    let layout = Layout::new(CLUSTER, 512, 16);
    let image = layout.slot_image(&slot(4), 0).unwrap();
    let wolfpack_types::disk::DiskOp::Write { lba, data } = image.block else { panic!("a write") };
    let at = Station { node: NodeId::new(3).unwrap(), parity: 0 };
    assert_eq!(lba, layout.slot_lba(at));
    assert_eq!(layout.parse_slot(at, &data), Ok(SlotBlock::Here(slot(4))));
    assert!(layout.parse_slot(at.other(), &data).is_err());
    assert!(Layout::new(ClusterId(Guid(1)), 512, 16).parse_slot(at, &data).is_err());
    assert_eq!(layout.parse_slot(at, &[0; 512]), Ok(SlotBlock::Empty));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_superblock_is_refused_or_usable(
        bytes in prop::collection::vec(any::<u8>(), 512),
        words in prop::collection::vec(any::<u32>(), 12),
        honest in any::<bool>(),
    ) {
        let mut block = bytes;
        block[..8].copy_from_slice(&super::MAGIC);
        for (i, word) in words.iter().enumerate().skip(2).take(10) {
            let small = if honest { word % 2048 } else { *word };
            block[i * 4..i * 4 + 4].copy_from_slice(&small.to_le_bytes());
        }
        block[8..12].copy_from_slice(&1u32.to_le_bytes());
        block[28..32].copy_from_slice(&512u32.to_le_bytes());
        let crc = super::checksum(&[&block[..48]]);
        block[48..52].copy_from_slice(&crc.to_le_bytes());
        if let Ok(layout) = Layout::parse(&block) {
            prop_assert!(layout.blocks() < 1 << 40);
            prop_assert!(layout.max_nodes >= 1 && layout.max_nodes <= 64);
        }
    }

    #[test]
    fn a_flipped_bit_never_yields_another_slot(at in 0usize..4096, inc in 1u64..9) {
        let layout = Layout::new(CLUSTER, 512, 16);
        let image = layout.slot_image(&slot(inc), 0).unwrap();
        let wolfpack_types::disk::DiskOp::Write { mut data, .. } = image.block else {
            panic!("a write")
        };
        data[at / 8] ^= 1 << (at % 8);
        let station = Station::of(NodeId::new(3).unwrap(), Incarnation(inc));
        // Behind the frame is padding, which means nothing.
        let read = layout.parse_slot(station, &data);
        prop_assert!(read.is_err() || read == Ok(SlotBlock::Here(slot(inc))));
    }

    #[test]
    fn arbitrary_log_regions_end_in_a_verdict(
        noise in prop::collection::vec(any::<u8>(), 0..4096),
        magic in 0usize..3,
    ) {
        let layout = Layout::new(CLUSTER, 512, 2);
        let at = Station { node: NodeId::new(1).unwrap(), parity: 0 };
        let mut reader = LogReader::new(layout, at, Ballot::ZERO, Seq(3));
        let mut op = reader.start();
        for _ in 0..10_000 {
            let wolfpack_types::disk::DiskOp::Read { lba, blocks } = op else { panic!("a read") };
            prop_assert!(blocks >= 1 && lba + u64::from(blocks) <= layout.blocks());
            let mut data: Vec<u8> =
                noise.iter().copied().cycle().take(blocks as usize * 512).collect();
            data.resize(blocks as usize * 512, 0);
            data[..4].copy_from_slice([b"WCKP", b"WREC", b"WSLT"][magic]);
            match reader.feed(&data) {
                ReadStep::Read(next) => op = next,
                ReadStep::Done(_) => return Err(TestCaseError::fail("noise is no log")),
                ReadStep::Corrupt(_) => return Ok(()),
            }
        }
        Err(TestCaseError::fail("the reader does not end"))?;
    }
}
