//! Compiles the wire and storage formats in `proto/` without needing a system `protoc`.

use std::io::Error;

const FILES: [&str; 11] = [
    "proto/backup.proto",
    "proto/dht.proto",
    "proto/exchange.proto",
    "proto/head.proto",
    "proto/lease.proto",
    "proto/like.proto",
    "proto/owner.proto",
    "proto/replica.proto",
    "proto/ring.proto",
    "proto/store.proto",
    "proto/tree.proto",
];

fn main() -> Result<(), Error> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"]).map_err(Error::other)?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)
}
