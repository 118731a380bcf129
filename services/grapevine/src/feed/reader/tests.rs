#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::line::tests::HOW;
use super::super::position::Digest;
use super::*;

/// What a feed leads to, written short: a line by its classes and the last id, anything else by its kind.
fn hear(text: &str, resume: &Mark) -> Vec<String> {
    let reading = Reading {
        client: Client::connect("127.0.0.1:1").unwrap(),
        how: HOW,
        resume: resume.clone(),
    };
    // A small buffer: lines span several of them.
    let mut reader = Reader::new(BufReader::with_capacity(7, text.as_bytes()), reading);
    let mut heard = Vec::new();
    while let Some(next) = reader.next().unwrap() {
        heard.push(match next {
            Heard::Line(line) => format!(
                "{}:{}{}",
                line.mark.lines_read,
                line.classes.join("+"),
                line.mark
                    .id
                    .map_or(String::new(), |id| format!("#{}", serde_json::json!(id)))
            ),
            Heard::Nothing(mark) => format!("{}:nothing", mark.lines_read),
            Heard::Resumed { lines } => format!("resumed {lines}"),
            Heard::Bad { mark, problem } => format!("{}:bad {problem}", mark.lines_read),
            Heard::Failed(failure) => {
                heard.push(failure.text());
                break;
            }
        });
    }
    heard
}

fn after(lines: &[&str], id: Option<Id>) -> Mark {
    let mut digest = Digest::default();
    for line in lines {
        digest.add_line(line.as_bytes());
    }
    Mark {
        lines_read: lines.len() as u64,
        digest,
        id,
        ..Mark::default()
    }
}

const A: &str = r#"{"classes":["a"]}"#;
const B: &str = r#"{"classes":["b"]}"#;
const C: &str = r#"{"classes":["c"]}"#;

#[tokio::test]
async fn every_line_is_heard_in_order() {
    let feed = format!("{A}\n\n  \r\nnonsense\n{B}\r\n{C}");
    let heard = hear(&feed, &Mark::default());
    assert_eq!(heard[..3], ["1:a", "2:nothing", "3:nothing"]);
    assert!(
        heard[3].starts_with("4:bad it is not JSON: expected ident"),
        "{heard:?}"
    );
    assert_eq!(heard[4..], ["5:b", "6:c"]);
}

#[tokio::test]
async fn a_line_over_the_limit_is_told_and_passed_over() {
    let feed = format!("{}\n{B}\n", "x".repeat(LINE_BYTES_MAX + 10));
    let heard = hear(&feed, &Mark::default());
    assert_eq!(
        heard,
        [
            format!(
                "1:bad it has {} bytes; the limit is {LINE_BYTES_MAX}",
                LINE_BYTES_MAX + 11
            ),
            "2:b".to_owned()
        ]
    );
}

#[tokio::test]
async fn a_feed_without_ids_goes_on_behind_as_many_lines() {
    let feed = format!("{A}\n{B}\n{C}\n");
    assert_eq!(hear(&feed, &after(&[A, B], None)), ["resumed 2", "3:c"]);
    assert_eq!(hear(&feed, &after(&[A, B, C], None)), ["resumed 3"]);
}

#[tokio::test]
async fn a_feed_that_is_another_one_is_refused() {
    let feed = format!("{B}\n{A}\n{C}\n");
    let heard = hear(&feed, &after(&[A, B], None));
    assert!(
        heard[0].contains("the first 2 lines are not those"),
        "{heard:?}"
    );
    let heard = hear(A, &after(&[A, B], None));
    assert!(
        heard[0].contains("the feed has 1 lines, of which 2"),
        "{heard:?}"
    );
}

#[tokio::test]
async fn g1_a_feed_with_numbers_goes_on_at_the_last_one() {
    let line = |class: &str, id: i64| format!("{{\"classes\":[\"{class}\"],\"id\":{id}}}\n");
    let anew = [line("a", 1), line("b", 2), line("c", 2), line("d", 5)].concat();
    let resume = after(&[A, B, C], Some(Id::Number(2)));
    // Whether all lines of the last number were acknowledged is not known, so they are sent again.
    assert_eq!(
        hear(&anew, &resume),
        ["resumed 1", "2:b#2", "3:c#2", "4:d#5"]
    );
    // A feed that goes on by itself in the middle of a transaction.
    let middle = [line("c", 2), line("d", 5)].concat();
    assert_eq!(hear(&middle, &resume), ["1:c#2", "2:d#5"]);
    // It may also go on by itself, and nothing new is skipped then.
    assert_eq!(hear(&line("e", 6), &resume), ["1:e#6"]);
    // Lines without an id are never skipped; the id noted stays.
    let mixed = format!("{A}\n{}{B}\n{}", line("b", 1), line("d", 5));
    assert_eq!(
        hear(&mixed, &resume),
        ["1:a#2", "3:b#2", "resumed 1", "4:d#5"]
    );
    let only_old = line("a", 1);
    assert_eq!(hear(&only_old, &resume), ["resumed 1"]);
}

#[tokio::test]
async fn numbers_that_decrease_would_lose_lines_and_are_refused() {
    let feed = "{\"classes\":[\"a\"],\"id\":7}\n{\"classes\":[\"b\"],\"id\":6}\n";
    let heard = hear(feed, &Mark::default());
    assert_eq!(heard[0], "1:a#7");
    assert!(
        heard[1].contains("line 2: id 6 comes after id 7"),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_feed_with_strings_goes_on_by_itself() {
    let feed = "{\"classes\":[\"a\"],\"id\":\"0/16B\"}\n";
    let resume = after(&[A, B], Some(Id::Text("0/16A".to_owned())));
    assert_eq!(hear(feed, &resume), ["1:a#\"0/16B\""]);
}
