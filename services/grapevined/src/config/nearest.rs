//! "Did you mean": the known name that is most like an unknown one.

/// The most similar of `names`, when one is similar enough to be meant. A name whose last segment is the same counts as
/// very similar: the key stands in the wrong section.
pub(super) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let enough = (wrong.len() / 3).clamp(1, 4);
    names
        .into_iter()
        .map(|name| {
            let same_last = last(name) == last(&wrong);
            let distance = distance(&wrong, &name.to_ascii_lowercase());
            (
                if same_last { distance.min(1) } else { distance },
                distance,
                name,
            )
        })
        .min()
        .filter(|(rank, ..)| *rank <= enough)
        .map(|(.., name)| name)
}

/// The Levenshtein distance in bytes: the fewest insertions, deletions and replacements between the two.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_name_is_found_and_nothing_far_fetched() {
        let names = [
            "node.id",
            "store.path",
            "freshness.max_staleness",
            "log.format",
        ];
        let near = |wrong| nearest(wrong, names);
        assert_eq!(near("node.ID"), Some("node.id"));
        assert_eq!(near("store.paht"), Some("store.path"));
        assert_eq!(
            near("limits.max-staleness"),
            Some("freshness.max_staleness")
        );
        assert_eq!(near("colour.of_the_sky"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
