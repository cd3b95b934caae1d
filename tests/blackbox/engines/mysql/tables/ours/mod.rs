//! Tables as this server alone counts in them.

mod counts;
mod times;
