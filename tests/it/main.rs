//! Integration tests, one module a topic.

mod admission;
mod architecture;
mod at_once;
mod attacker;
mod backup;
mod backup_killed;
mod chosen;
mod copies;
mod damaged_files;
mod damaged_store;
mod dht_attacks;
mod due;
mod edges;
mod first_hour;
mod heads;
mod keep;
mod lan;
mod leave;
mod limits;
mod links;
mod listen;
mod machines;
mod mesh;
mod process;
mod readme;
mod rejoin;
mod restores;
mod rings;
mod sample;
mod services;
mod site;
#[path = "../../src/small_disk.rs"]
mod small_disk;
mod story;
mod stranger;
mod terminal;
