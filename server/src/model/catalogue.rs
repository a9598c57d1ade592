//! The built-in event types.
