//! The depot room.
