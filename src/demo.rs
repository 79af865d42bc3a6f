//! stub
pub mod account;
pub mod binaries;
pub mod kafka;
pub mod ledger;
pub mod load;
pub mod postgres;
pub mod scratch;
pub mod shop;
