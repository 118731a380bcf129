//! A state in 64 bits, by way of its `Debug` text.
//!
//! Core has no hash of itself, and needs none for its own work. Its text is read as a tree of brackets: what stands between
//! round or square ones counts in order, what stands between braces (fields, maps, sets) counts in any order, for some
//! maps of core are hash maps. Counters, and the configuration, which never changes, are left out: no decision rests on
//! the ones, and nothing differs in the other.

use std::fmt::{Debug, Write};

use crate::rng::mix;

/// Fields that are no part of a state.
const LEFT_OUT: [&[u8]; 2] = [b"counters: ", b"config: "];
/// As long as the longest of them.
const HEAD: usize = 10;

/// The digest of anything with a text.
pub(super) fn digest(value: &impl Debug) -> u64 {
    let mut reader = Reader {
        levels: vec![Level::new(b'(')],
        quoted: false,
        escaped: false,
    };
    write!(reader, "{value:?}").expect("invariant: a reader takes everything");
    reader.levels.pop().map_or(0, Level::finish)
}

/// What stands between two brackets.
struct Level {
    ordered: bool,
    sum: u64,
    element: u64,
    head: [u8; HEAD],
    length: usize,
}

impl Level {
    fn new(bracket: u8) -> Self {
        Self {
            ordered: bracket != b'{',
            sum: u64::from(bracket),
            element: 0,
            head: [0; HEAD],
            length: 0,
        }
    }

    fn take(&mut self, byte: u8) {
        if self.length == 0 && byte == b' ' {
            return;
        }
        if let Some(head) = self.head.get_mut(self.length) {
            *head = byte;
        }
        self.length += 1;
        self.element = (self.element ^ u64::from(byte))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    fn end_element(&mut self) {
        let left_out = LEFT_OUT.iter().any(|name| self.head.starts_with(name));
        if self.length > 0 && !left_out {
            let element = mix(self.element);
            self.sum = if self.ordered {
                mix(self.sum.rotate_left(7) ^ element)
            } else {
                self.sum.wrapping_add(element)
            };
        }
        (self.element, self.head, self.length) = (0, [0; HEAD], 0);
    }

    fn finish(mut self) -> u64 {
        self.end_element();
        mix(self.sum)
    }
}

struct Reader {
    levels: Vec<Level>,
    quoted: bool,
    escaped: bool,
}

impl Reader {
    fn read(&mut self, byte: u8) {
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        if self.quoted {
            level.take(byte);
            (self.quoted, self.escaped) =
                (byte != b'"' || self.escaped, byte == b'\\' && !self.escaped);
            return;
        }
        match byte {
            b'{' | b'[' | b'(' => self.levels.push(Level::new(byte)),
            b'}' | b']' | b')' => {
                let inner = self.levels.pop().map_or(0, Level::finish);
                if let Some(level) = self.levels.last_mut() {
                    level.length += 1;
                    level.element = mix(level.element.rotate_left(11) ^ inner);
                }
            }
            b',' => level.end_element(),
            _ => {
                self.quoted = byte == b'"';
                level.take(byte);
            }
        }
    }
}

impl Write for Reader {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        text.bytes().for_each(|byte| self.read(byte));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(dead_code, reason = "only their text is looked at")]

    use std::collections::{BTreeMap, HashMap};

    use super::*;

    #[derive(Debug)]
    struct Made<C> {
        counters: C,
        list: Vec<u8>,
        map: HashMap<&'static str, (u8, u8)>,
    }

    fn made(counters: u8, list: &[u8], map: &[(&'static str, (u8, u8))]) -> u64 {
        digest(&Made {
            counters: Some(vec![counters]),
            list: list.to_vec(),
            map: map.iter().copied().collect(),
        })
    }

    #[test]
    fn order_counts_in_lists_and_not_in_maps_and_counters_do_not() {
        let one = made(1, &[1, 2], &[("a", (1, 2)), ("b,}", (3, 4)), ("c", (5, 6))]);
        for _ in 0..50 {
            // Another hash map is in another order.
            let again = made(2, &[1, 2], &[("c", (5, 6)), ("b,}", (3, 4)), ("a", (1, 2))]);
            assert_eq!(one, again);
        }
        let others = [
            made(1, &[2, 1], &[("a", (1, 2)), ("b,}", (3, 4)), ("c", (5, 6))]),
            made(1, &[1, 2], &[("a", (2, 1)), ("b,}", (3, 4)), ("c", (5, 6))]),
            made(1, &[1, 2], &[("b", (1, 2)), ("a,}", (3, 4)), ("c", (5, 6))]),
            made(1, &[1, 2], &[("a", (1, 4)), ("b,}", (3, 2)), ("c", (5, 6))]),
            made(1, &[1], &[("a", (1, 2)), ("b,}", (3, 4)), ("c", (5, 6))]),
        ];
        assert!(others.iter().all(|other| *other != one));
        let nested: BTreeMap<u8, Vec<u8>> = [(1, vec![2, 3]), (4, vec![])].into();
        let moved: BTreeMap<u8, Vec<u8>> = [(1, vec![2]), (4, vec![3])].into();
        assert_ne!(digest(&nested), digest(&moved));
    }
}
