//! How the operations are drawn: small ranges and page borders often, large ones seldom, with every option, store
//! failures and outside changes among them.

use mmap_core::manager::{OnChange, Unsynced};
use proptest::prelude::*;

use crate::ops::{FILES, Op};
use crate::reference::PAGE;
use crate::world::Trouble;

/// Mostly a few pages, sometimes more than two blocks; seldom at a page's border.
fn position() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..5 * PAGE,
        2 => (0..6usize, -2..3isize).prop_map(|(page, by)| (page * PAGE).saturating_add_signed(by)),
        1 => 0..150_000usize,
        1 => (0..3usize, -2..3isize).prop_map(|(block, by)| (block * 65_536).saturating_add_signed(by)),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1..64usize, 2 => 1..3 * PAGE, 1 => Just(PAGE), 1 => 1..140_000usize]
}

/// Any operation.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let on_change = prop_oneof![4 => Just(OnChange::Fail), 1 => Just(OnChange::Force), 1 => Just(OnChange::Invalidate)];
    let how = prop_oneof![
        4 => Just(Unsynced::Sync), 1 => Just(Unsynced::SyncForce),
        1 => Just(Unsynced::Discard), 1 => Just(Unsynced::DiscardForce)
    ];
    prop_oneof![
        4 => (1..4u32, 0..FILES, position(), length(), 0..4u32, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(pid, file, start, len, prot, shared, create, populate)| Op::Map {
                pid, file, start, len, prot: if prot == 0 { 1 } else { 3 }, shared, create, populate
            }),
        6 => (any::<usize>(), position(), length()).prop_map(|(mapping, offset, len)| Op::Read { mapping, offset, len }),
        8 => (any::<usize>(), position(), length(), any::<u8>()).prop_map(
            |(mapping, offset, len, byte)| Op::Write { mapping, offset, len, byte }),
        3 => (any::<usize>(), prop::option::of((position(), length())), on_change).prop_map(
            |(mapping, range, on_change)| Op::Sync { mapping, range, on_change }),
        1 => (any::<usize>(), how).prop_map(|(mapping, how)| Op::Unmap { mapping, how }),
        1 => (1..4u32, any::<bool>()).prop_map(|(pid, discard)| Op::Exit { pid, discard }),
        2 => (0..FILES, position(), any::<bool>()).prop_map(|(file, size, create)| Op::Truncate { file, size, create }),
        1 => (0..FILES).prop_map(|file| Op::Remove { file }),
        1 => (0..FILES, prop::option::weighted(0.9, (position(), any::<u8>()))).prop_map(
            |(file, content)| Op::Outside { file, content }),
    ]
}

/// Mostly none.
pub(crate) fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        20 => Just(Trouble::None), 1 => Just(Trouble::Stat), 1 => Just(Trouble::Read),
        1 => Just(Trouble::WriteBefore), 1 => Just(Trouble::WriteAfter)
    ]
}
