//! Settings as the administrator writes them, in TOML.
