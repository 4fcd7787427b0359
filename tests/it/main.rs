//! Integration tests, one module a topic.

mod architecture;
mod process;
mod sample;
mod story;
