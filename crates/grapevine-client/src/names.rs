//! The limits on what a call may name, checked before anything is sent.
//!
//! The sidecar checks them too and has the last word. They are checked here as well because concurrent look-ups share
//! one RPC: a malformed one found here fails alone and at once, instead of making the sidecar refuse the whole batch.
//! The limits are those of the wire contract, and the field names are the contract's.

use grapevine_proto::v1;

use crate::error::InvalidRequest;

/// The longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 250;
/// The longest class path, in bytes.
pub const CLASS_BYTES_MAX: usize = 200;
/// The most segments in a class path.
pub const CLASS_SEGMENTS_MAX: usize = 16;
/// The most classes of one address, those found during the fill included.
pub const CLASSES_MAX: usize = 16;
/// The most look-ups in one `Resolve`, and fills in one `CommitFill`.
pub const BATCH_MAX: usize = 1_000;
/// The most classes in one `Invalidate`.
pub const INVALIDATE_CLASSES_MAX: usize = 1_000;
/// The highest offset of a slice.
pub const OFFSET_MAX: u64 = 1 << 40;
/// The largest limit of a slice.
pub const SLICE_LIMIT_MAX: u32 = 10_000;

/// How much of an offending value a message shows.
const SHOWN_CHARS: usize = 80;

pub(crate) fn check_address(field: &str, address: &str) -> Result<(), InvalidRequest> {
    check_text(field, address, ADDRESS_BYTES_MAX)
}

pub(crate) fn check_class(field: &str, class: &str) -> Result<(), InvalidRequest> {
    check_text(field, class, CLASS_BYTES_MAX)?;
    let segments = class.split('/').count();
    if segments > CLASS_SEGMENTS_MAX {
        return Err(InvalidRequest::one(
            field,
            format!(
                "{:?} has {segments} segments; the limit is {CLASS_SEGMENTS_MAX}",
                shorten(class)
            ),
        ));
    }
    if class.split('/').any(str::is_empty) {
        return Err(InvalidRequest::one(
            field,
            format!(
                "{:?} has an empty segment; write segments separated by single slashes",
                shorten(class)
            ),
        ));
    }
    Ok(())
}

pub(crate) fn check_classes<C: AsRef<str>>(
    field: &str,
    classes: &[C],
    max: usize,
) -> Result<(), InvalidRequest> {
    if classes.is_empty() || classes.len() > max {
        return Err(InvalidRequest::one(
            field,
            format!("{} classes are outside 1 to {max}", classes.len()),
        ));
    }
    for (index, class) in classes.iter().enumerate() {
        // Checked first without a name, which costs an allocation: nearly all are well-formed.
        if check_class("", class.as_ref()).is_err() {
            check_class(&format!("{field}[{index}]"), class.as_ref())?;
        }
    }
    Ok(())
}

pub(crate) fn check_page(page: v1::Page) -> Result<(), InvalidRequest> {
    if page.offset > OFFSET_MAX {
        return Err(InvalidRequest::one(
            "page.offset",
            format!("{} is above {OFFSET_MAX}", page.offset),
        ));
    }
    if page.limit == 0 || page.limit > SLICE_LIMIT_MAX {
        return Err(InvalidRequest::one(
            "page.limit",
            format!("{} is outside 1 to {SLICE_LIMIT_MAX}", page.limit),
        ));
    }
    Ok(())
}

fn check_text(field: &str, value: &str, bytes_max: usize) -> Result<(), InvalidRequest> {
    let refuse = |why: String| Err(InvalidRequest::one(field, why));
    if value.is_empty() {
        return refuse("it is empty".to_owned());
    }
    if value.len() > bytes_max {
        return refuse(format!(
            "{:?} has {} bytes; the limit is {bytes_max}",
            shorten(value),
            value.len()
        ));
    }
    match value.bytes().position(|byte| byte <= b' ' || byte == 0x7f) {
        None => Ok(()),
        Some(position) => refuse(format!(
            "{:?} has the byte 0x{:02x} at position {position}; whitespace and control bytes are not allowed",
            shorten(value),
            value.as_bytes()[position],
        )),
    }
}

pub(crate) fn shorten(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARS) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}...", &value[..end]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_at_the_limit_pass_and_one_more_is_told_with_its_field() {
        check_address("address", &"a".repeat(250)).unwrap();
        let error = check_address("address", &"a".repeat(251)).unwrap_err();
        assert!(error.to_string().contains("address: "), "{error}");
        assert!(
            error
                .to_string()
                .contains("has 251 bytes; the limit is 250"),
            "{error}"
        );
        check_class("class", &vec!["s"; 16].join("/")).unwrap();
        check_class("class", &vec!["s"; 17].join("/")).unwrap_err();
        check_class("class", &"c".repeat(201)).unwrap_err();
    }

    #[test]
    fn malformed_paths_and_bytes_are_refused() {
        for class in ["", "/", "a/", "/a", "a//b", "a b", "a\tb", "a\u{7f}"] {
            check_class("class", class).unwrap_err();
        }
        for address in ["", "a b", "a\r\nflush_all", "\0"] {
            check_address("address", address).unwrap_err();
        }
    }

    #[test]
    fn the_offending_class_is_named_by_its_position() {
        let error = check_classes("classes", &["fine", "not fine"], 16).unwrap_err();
        assert_eq!(error.violations[0].field, "classes[1]");
        check_classes::<&str>("classes", &[], 16).unwrap_err();
        check_classes("classes", &["c"; 17], 16).unwrap_err();
    }

    #[test]
    fn slices_outside_the_limits_are_refused() {
        check_page(v1::Page {
            offset: OFFSET_MAX,
            limit: SLICE_LIMIT_MAX,
        })
        .unwrap();
        for (offset, limit) in [(OFFSET_MAX + 1, 1), (0, 0), (0, SLICE_LIMIT_MAX + 1)] {
            check_page(v1::Page { offset, limit }).unwrap_err();
        }
    }
}
