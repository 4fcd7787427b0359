//! Integration tests, one module a topic.

mod architecture;
mod backup;
mod heads;
mod lan;
mod mesh;
mod process;
mod sample;
mod story;
