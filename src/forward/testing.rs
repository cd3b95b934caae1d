//! What the unit tests of forwarding share.

use std::sync::Arc;

use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin};

use super::ForwardUnit;
use crate::record::TallyKind;

/// Returns a request for reports with this number and this many digests.
pub(super) fn unit(number: u64, digests: u8) -> Arc<ForwardUnit> {
    Arc::new(ForwardUnit {
        id: ForwardId { origin: ForwardOrigin::from_number(1), number, hops: 1 },
        kind: TallyKind::Report,
        digests: (0..digests).map(|byte| Digest::from_bytes([byte; 20])).collect(),
    })
}
