//! Integration tests, one module a topic.

mod architecture;
mod backup;
mod backup_killed;
mod heads;
mod lan;
mod mesh;
mod process;
mod sample;
mod story;
