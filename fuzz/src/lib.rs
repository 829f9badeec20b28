//! What the fuzz targets share: hostile directories, checks made right again, a bound on memory.

pub mod checks;
pub mod directory;
pub mod memory;
pub mod mutate;
pub mod open;
#[path = "../../tests/bits/store.rs"]
pub mod store;

use store::End;

/// All the ways in which a seed's store was left.
pub const ENDS: [End; 4] = [End::Closed, End::Killed, End::KilledEarly, End::KilledLate];

/// Bit of an input's first byte: its checks are made right before anything reads it.
pub const CHECKED: u8 = 1;
