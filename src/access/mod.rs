//! Who may do what: accounts from the passwd file, rights from the access file.
//!
//! An [`Authorizer`] is an immutable snapshot of both files. Reloading makes a new one, which the
//! server swaps in whole, so that a request sees either both old files or both new ones.

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

/// How far the time of signing may be from now, in microseconds.
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

/// What one user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    ops: u8,
    /// Operations that an access file grants although they do not exist.
    unknown: Vec<Box<[u8]>>,
}

impl Rights {
    fn grant(&mut self, name: &str) {
        match Op::from_name(name.as_bytes()) {
            Some(op) => self.ops |= 1 << op as u8,
            None => self.unknown.push(name.as_bytes().into()),
        }
    }

    /// The operation of this name, if the user may use it and it exists.
    ///
    /// # Errors
    ///
    /// Forbidden, or not implemented for an operation that is granted and does not exist.
    pub fn operation(&self, name: &[u8]) -> Result<Op, Refusal> {
        match Op::from_name(name) {
            Some(op) if self.ops & 1 << op as u8 != 0 => Ok(op),
            None if self.unknown.iter().any(|unknown| **unknown == *name) => Err(Refusal::NotImplemented),
            _ => Err(Refusal::Forbidden),
        }
    }
}

impl Authorizer {
    /// The rights of the request's user, who is authenticated unless anonymous. `signed` is a
    /// buffer to write the signed text into.
    ///
    /// # Errors
    ///
    /// The first check that failed: known user, readable time, time in range, right signature.
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

    /// How many accounts there are, without anonymous.
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
