//! Behaviour with tables that only this server has.

mod counts;
mod times;
