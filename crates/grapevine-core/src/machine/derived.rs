//! What follows from the rest of the state and is kept for speed: it is no part of what is known, so states that know the same look
//! the same with it.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Something derived.
#[derive(Clone, Copy, Default)]
pub(super) struct Derived<T>(pub(super) T);

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("_")
    }
}

impl<T> Deref for Derived<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Derived<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
