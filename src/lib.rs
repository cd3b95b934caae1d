//! pyzord: the counting end of Pyzor, a collaborative spam filter.

pub mod digest;
