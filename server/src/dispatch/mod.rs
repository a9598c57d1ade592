//! Dispatch.
mod budget;
mod lane;
mod ready;
mod scheduler;
#[cfg(test)]
mod simulation;
