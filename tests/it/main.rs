//! Integration tests, one module a topic.

mod architecture;
mod heads;
mod lan;
mod mesh;
mod process;
mod sample;
mod story;
