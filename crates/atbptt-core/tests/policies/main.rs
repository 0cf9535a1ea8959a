//! Policies: what each of them does, and what all of them keep.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

mod direct_policy;
mod policies;
mod policy_contract;
mod random_policies;
