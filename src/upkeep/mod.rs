//! The upkeep room.
