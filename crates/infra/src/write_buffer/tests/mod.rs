//! The buffer from inside.
