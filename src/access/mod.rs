//! Authentication and authorization: accounts from the passwd file, rights from the access file.
//!
//! An [`Authorizer`] is an immutable snapshot of both files. A reload replaces it as a whole, so that every request sees
//! either both old files or both new ones.

mod changes;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod load;
mod rules;

use std::collections::HashMap;

pub use load::{AccessLoadError, AccessSources, LoadedAccess, PresentFiles, load};
pub use rules::AccessOrder;

use crate::record::Timestamp;
use pyzor_wire::op::Op;
use pyzor_wire::reply::Refusal;
use pyzor_wire::request::Request;
use pyzor_wire::signature::{KeyHash, equal};

/// The largest difference between the time of a signature and now, in microseconds.
pub const TIME_TOLERANCE: i64 = 300 * 1_000_000;

/// All accounts with their keys and rights.
#[derive(Debug, Default)]
pub struct Authorizer {
    accounts: HashMap<Box<[u8]>, Account>,
    anonymous: Rights,
}

#[derive(Debug)]
struct Account {
    key: KeyHash,
    rights: Rights,
}

/// The operations that one user may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    ops: u8,
    /// Granted operations that do not exist.
    unknown: Vec<Box<[u8]>>,
}

impl Rights {
    fn grant(&mut self, name: &str) {
        match Op::from_name(name.as_bytes()) {
            Some(op) => self.ops |= 1 << op as u8,
            None => self.unknown.push(name.as_bytes().into()),
        }
    }

    /// Returns the operation of this name.
    ///
    /// # Errors
    ///
    /// `Forbidden` if the operation is not granted, and `NotImplemented` if it is granted but does not exist.
    pub fn operation(&self, name: &[u8]) -> Result<Op, Refusal> {
        match Op::from_name(name) {
            Some(op) if self.ops & 1 << op as u8 != 0 => Ok(op),
            None if self.unknown.iter().any(|unknown| **unknown == *name) => Err(Refusal::NotImplemented),
            _ => Err(Refusal::Forbidden),
        }
    }
}

impl Authorizer {
    /// Authenticates the user of a request, unless anonymous, and returns the user's rights. `signed` is a buffer for the
    /// signed text.
    ///
    /// # Errors
    ///
    /// The first check that failed, in this order: known user, readable time, time in range, correct signature.
    pub fn authenticate(
        &self,
        request: &Request<'_>,
        now: Timestamp,
        signed: &mut Vec<u8>,
    ) -> Result<&Rights, Refusal> {
        if request.is_anonymous() {
            return Ok(&self.anonymous);
        }
        let account = self.accounts.get(request.user).ok_or(Refusal::UnknownUser)?;
        let time = request.time.and_then(pyzor_wire::number::integer).ok_or(Refusal::InvalidTime)?;
        if now.micros().abs_diff(Timestamp::from_seconds(time).micros()) > TIME_TOLERANCE.unsigned_abs() {
            return Err(Refusal::TimeOutOfRange);
        }
        request.message().write_signed_text(signed);
        let expected = account.key.sign(signed, time);
        match request.signature {
            Some(signature) if equal(signature, &expected) => Ok(&account.rights),
            _ => Err(Refusal::InvalidSignature),
        }
    }

    /// The number of accounts, without anonymous.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there is no account besides anonymous.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

#[cfg(test)]
mod tests;
