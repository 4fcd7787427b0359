//! The `libernet` binary. Everything is in the library.

fn main() -> std::process::ExitCode {
    libernet::cli::main()
}
