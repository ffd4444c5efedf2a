//! finders
