//! Policies from the file: `[[policy]]` in the order in which they are tried, and `[policy_default]` for the rest.
//!
//! A policy's missing fields are those of `[policy_default]`, whose missing fields are
//! [`Policy::fallback`]'s. Fields:
//!
//! * `pattern` (required, not in the default): a class path in which a segment may be `*` and the last one `**`;
//! * `strategy`: `versioned`, `registered`, `bucketed(N)` or `ttl`;
//! * `paging`: items per page, or `"off"` (`{ size = N }` is the same as `N`);
//! * `ttl`: a duration; `jitter`: `"10%"` or `0.1`;
//! * `on_unknown`: `bypass`, or `serve` together with `serve_unknown_for`, a duration;
//! * `long_address`: `refuse` or `hash`;
//! * `fill`: `any` or `one`;
//! * `stale_while_revalidate`: a duration of up to an hour, 0s for never;
//! * `source_lag`: a duration of up to ten minutes, 0s for none; `on_source_lag`: `no_store` or `primary`.

use std::time::Duration;

use grapevine_core::policy::{
    FillRule, LagRule, LongAddress, OnUnknown, POLICIES_MAX, Pattern, Policy, PolicyError,
    PolicySet, Strategy,
};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{ConfigError, Origin, Problem};
use super::file::Source;
use super::nearest::nearest;
use super::print::push;

const FIELDS: [&str; 12] = [
    "pattern",
    "strategy",
    "paging",
    "ttl",
    "jitter",
    "on_unknown",
    "serve_unknown_for",
    "long_address",
    "fill",
    "stale_while_revalidate",
    "source_lag",
    "on_source_lag",
];

/// Collects the policies of a file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    source: Source<'a>,
    tables: Vec<(Origin, DeTable<'a>)>,
    fallback: Option<(Origin, DeTable<'a>)>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    /// With nothing yet.
    pub(super) fn new(source: Source<'a>) -> Self {
        Self {
            source,
            tables: Vec::new(),
            fallback: None,
            errors: Vec::new(),
        }
    }

    /// Takes `[[policy]]`.
    pub(super) fn list(&mut self, array: &DeArray<'a>) {
        // Before anything that takes longer the more of them there are.
        if array.len() > POLICIES_MAX {
            let value = array.len();
            let problem = Problem::Policy(PolicyError::TooMany { value });
            let origin = self.source.at(0);
            return self.errors.push(problem.at(origin, ""));
        }
        for element in array {
            let origin = self.source.of(element);
            match element.get_ref() {
                DeValue::Table(table) => self.tables.push((origin, table.clone())),
                other => self.errors.push(
                    Problem::WrongType {
                        expected: "table",
                        found: other.type_str(),
                    }
                    .at(origin, "policy"),
                ),
            }
        }
    }

    /// Takes `[policy_default]`.
    pub(super) fn fallback(&mut self, origin: Origin, table: &DeTable<'a>) {
        self.fallback = Some((origin, table.clone()));
    }

    /// The set; with any error, the default one.
    pub(super) fn finish(mut self, errors: &mut Vec<ConfigError>) -> PolicySet {
        let mut fallback = Policy::fallback();
        if let Some((origin, table)) = self.fallback.take() {
            fallback = self.policy("policy_default", &origin, &table, &fallback);
            if !self.errors.is_empty() {
                // Its mistakes are told once, not once more for each policy that would inherit them.
                fallback = Policy::fallback();
            }
        }
        let mut policies: Vec<Policy> = Vec::new();
        // One that has a mistake is not what it was meant to be, and says nothing of those behind it.
        let mut sound: Vec<(usize, Pattern)> = Vec::new();
        for (index, (origin, table)) in std::mem::take(&mut self.tables).into_iter().enumerate() {
            let name = format!("policy[{}]", index + 1);
            let wrong = self.errors.len();
            let policy = self.policy(&name, &origin, &table, &fallback);
            if !table.contains_key("pattern") {
                let reason = "needs a pattern".to_owned();
                self.errors
                    .push(Problem::Conflict { reason }.at(origin, name));
            } else if self.errors.len() == wrong {
                self.reachable(origin, name, &policy, &sound);
                sound.push((index + 1, policy.pattern.clone()));
            }
            policies.push(policy);
        }
        let set = if self.errors.is_empty() {
            PolicySet::new(policies, fallback).map_err(|wrong| {
                let origin = self.source.at(0);
                let wrong = wrong
                    .into_iter()
                    .map(|e| Problem::Policy(e).at(origin.clone(), ""));
                self.errors.extend(wrong);
            })
        } else {
            Err(())
        };
        errors.append(&mut self.errors);
        set.unwrap_or_default()
    }

    /// A policy that can never be used is a mistake: report it.
    fn reachable(
        &mut self,
        origin: Origin,
        name: String,
        policy: &Policy,
        before: &[(usize, Pattern)],
    ) {
        let anything = Pattern::anything();
        let shadow = before
            .iter()
            .find(|(_, earlier)| *earlier == policy.pattern || *earlier == anything);
        if let Some((number, earlier)) = shadow {
            let reason = format!(
                "pattern {:?} is never reached: policy[{number}] with {:?} comes first",
                policy.pattern.to_string(),
                earlier.to_string()
            );
            self.errors
                .push(Problem::Conflict { reason }.at(origin, name));
        }
    }

    fn policy(
        &mut self,
        name: &str,
        origin: &Origin,
        table: &DeTable<'_>,
        base: &Policy,
    ) -> Policy {
        let mut policy = base.clone();
        let mut serve_for = None;
        let mut on_unknown = None;
        for (key, value) in table {
            let field = key.get_ref().as_ref();
            let result = match field {
                "pattern" if name != "policy_default" => {
                    set(&mut policy.pattern, pattern(value.get_ref()))
                }
                "strategy" => set(&mut policy.strategy, strategy(value.get_ref())),
                "paging" => set(&mut policy.page_size, paging(value)),
                "ttl" => set(&mut policy.ttl, duration(value.get_ref())),
                "jitter" => set(&mut policy.jitter_percent, jitter(value.get_ref())),
                "on_unknown" => set(&mut on_unknown, on_unknown_word(value.get_ref()).map(Some)),
                "serve_unknown_for" => set(&mut serve_for, duration(value.get_ref()).map(Some)),
                "long_address" => set(&mut policy.long_address, long_address(value.get_ref())),
                "fill" => set(&mut policy.fill, fill(value.get_ref())),
                "stale_while_revalidate" => set(
                    &mut policy.stale_while_revalidate,
                    duration(value.get_ref()),
                ),
                "source_lag" => set(&mut policy.source_lag, duration(value.get_ref())),
                "on_source_lag" => set(&mut policy.on_source_lag, on_source_lag(value.get_ref())),
                other => Err(Problem::UnknownKey {
                    nearest: nearest(other, FIELDS).map(str::to_owned),
                }),
            };
            if let Err(problem) = result {
                let error = problem.at(self.source.of(value), format!("{name}.{field}"));
                self.errors.push(error);
            }
        }
        match unknown_freshness(base.on_unknown, on_unknown, serve_for) {
            Ok(rule) => policy.on_unknown = rule,
            Err(reason) => {
                let error = Problem::Conflict { reason }.at(origin.clone(), name);
                self.errors.push(error);
            }
        }
        if let Err(broken) = PolicySet::new(vec![policy.clone()], Policy::fallback()) {
            let broken = broken
                .into_iter()
                .map(|error| Problem::Policy(error).at(origin.clone(), name));
            self.errors.extend(broken);
        }
        policy
    }
}

fn set<T>(slot: &mut T, value: Result<T, Problem>) -> Result<(), Problem> {
    *slot = value?;
    Ok(())
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Problem> {
    value.as_str().ok_or(Problem::WrongType {
        expected: "string",
        found: value.type_str(),
    })
}

fn pattern(value: &DeValue<'_>) -> Result<Pattern, Problem> {
    Ok(Pattern::parse(string(value)?)?)
}

fn strategy(value: &DeValue<'_>) -> Result<Strategy, Problem> {
    let text = string(value)?;
    let buckets = text
        .strip_prefix("bucketed(")
        .and_then(|rest| rest.strip_suffix(')'))
        .and_then(|count| count.trim().parse().ok());
    match (text, buckets) {
        ("versioned", _) => Ok(Strategy::Versioned),
        ("registered", _) => Ok(Strategy::Registered),
        ("ttl", _) => Ok(Strategy::Ttl),
        (_, Some(buckets)) => Ok(Strategy::Bucketed(buckets)),
        _ => Err(Problem::invalid(
            text,
            "is not versioned, registered, bucketed(N) with N of 1 to 4096, or ttl",
        )),
    }
}

fn paging(value: &Spanned<DeValue<'_>>) -> Result<Option<u32>, Problem> {
    const EXPECTED: &str = "integer (items per page), or \"off\"";
    match value.get_ref() {
        DeValue::String(text) if text == "off" => Ok(None),
        DeValue::Integer(number) => number.to_string().parse().map(Some).map_err(|_| {
            Problem::invalid(&number.to_string(), "is not a number of items per page")
        }),
        DeValue::Table(table) if table.len() == 1 && table.contains_key("size") => {
            table.get("size").map_or(Ok(None), paging)
        }
        other => Err(Problem::WrongType {
            expected: EXPECTED,
            found: other.type_str(),
        }),
    }
}

fn duration(value: &DeValue<'_>) -> Result<Duration, Problem> {
    let text = match value {
        DeValue::Integer(number) => number.to_string(),
        other => string(other)?.to_owned(),
    };
    humantime::parse_duration(&text).map_err(|error| {
        let reason = format!("is not a duration such as 250ms, 60s or 5m: {error}");
        Problem::invalid(&text, reason)
    })
}

fn jitter(value: &DeValue<'_>) -> Result<u8, Problem> {
    const EXPECTED: &str = "is not a whole percentage of 0 to 90: write \"10%\" or 0.1";
    let (text, percent) = match value {
        DeValue::Float(number) => {
            let text = number.as_str().to_owned();
            let fraction: Option<f64> = text.parse().ok();
            (text, fraction.map(|fraction| fraction * 100.0))
        }
        DeValue::Integer(number) => {
            let text = number.to_string();
            let zero = text == "0";
            (text, zero.then_some(0.0))
        }
        other => {
            let text = string(other)?.to_owned();
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.trim().parse().ok());
            (text, percent)
        }
    };
    // 0.07 * 100 is not 7 in binary, so nearness counts; 0.125 is refused, not rounded.
    percent
        .and_then(|percent| (0..=90_u8).find(|whole| (f64::from(*whole) - percent).abs() < 1e-6))
        .ok_or_else(|| Problem::invalid(&text, EXPECTED))
}

/// What to do while freshness is unknown, before its duration is known.
#[derive(Clone, Copy, Debug)]
enum Unknown {
    Serve,
    Bypass,
}

fn on_unknown_word(value: &DeValue<'_>) -> Result<Unknown, Problem> {
    match string(value)? {
        "serve" => Ok(Unknown::Serve),
        "bypass" => Ok(Unknown::Bypass),
        other => Err(Problem::invalid(other, "is neither bypass nor serve")),
    }
}

fn unknown_freshness(
    base: OnUnknown,
    word: Option<Unknown>,
    serve_for: Option<Duration>,
) -> Result<OnUnknown, String> {
    match (word, serve_for, base) {
        (None, None, base) => Ok(base),
        (Some(Unknown::Bypass), None, _) => Ok(OnUnknown::Bypass),
        (Some(Unknown::Serve), Some(limit), _)
        | (Some(Unknown::Serve), None, OnUnknown::Serve(limit))
        | (None, Some(limit), OnUnknown::Serve(_)) => Ok(OnUnknown::Serve(limit)),
        (Some(Unknown::Serve), None, OnUnknown::Bypass) => {
            Err("on_unknown = \"serve\" needs serve_unknown_for, a duration".to_owned())
        }
        (Some(Unknown::Bypass), Some(_), _) | (None, Some(_), OnUnknown::Bypass) => {
            Err("serve_unknown_for has no effect without on_unknown = \"serve\"".to_owned())
        }
    }
}

fn long_address(value: &DeValue<'_>) -> Result<LongAddress, Problem> {
    match string(value)? {
        "refuse" => Ok(LongAddress::Refuse),
        "hash" => Ok(LongAddress::Hash),
        other => Err(Problem::invalid(other, "is neither refuse nor hash")),
    }
}

fn fill(value: &DeValue<'_>) -> Result<FillRule, Problem> {
    match string(value)? {
        "any" => Ok(FillRule::Any),
        "one" => Ok(FillRule::One),
        other => Err(Problem::invalid(other, "is neither any nor one")),
    }
}

fn on_source_lag(value: &DeValue<'_>) -> Result<LagRule, Problem> {
    match string(value)? {
        "no_store" => Ok(LagRule::NoStore),
        "primary" => Ok(LagRule::Primary),
        other => Err(Problem::invalid(other, "is neither no_store nor primary")),
    }
}

/// A set as TOML that reads back as the same set.
pub(super) fn toml(set: &PolicySet) -> String {
    let all: Vec<&Policy> = set.iter().collect();
    let (fallback, policies) = all
        .split_last()
        .expect("invariant: the default is always there");
    let mut text = format!("[policy_default]\n{}", fields(fallback));
    for policy in policies {
        let pattern = toml::Value::String(policy.pattern.to_string());
        push(
            &mut text,
            format_args!("\n[[policy]]\npattern = {pattern}\n{}", fields(policy)),
        );
    }
    text
}

fn fields(policy: &Policy) -> String {
    let strategy = match policy.strategy {
        Strategy::Versioned => "versioned".to_owned(),
        Strategy::Registered => "registered".to_owned(),
        Strategy::Bucketed(buckets) => format!("bucketed({buckets})"),
        Strategy::Ttl => "ttl".to_owned(),
    };
    let paging = policy
        .page_size
        .map_or_else(|| "\"off\"".to_owned(), |size| size.to_string());
    let written = |duration: Duration| humantime::format_duration(duration).to_string();
    let on_unknown = match policy.on_unknown {
        OnUnknown::Bypass => "\"bypass\"".to_owned(),
        OnUnknown::Serve(limit) => format!("\"serve\"\nserve_unknown_for = \"{}\"", written(limit)),
    };
    let long_address = match policy.long_address {
        LongAddress::Refuse => "refuse",
        LongAddress::Hash => "hash",
    };
    let fill = match policy.fill {
        FillRule::Any => "any",
        FillRule::One => "one",
    };
    format!(
        "strategy = \"{strategy}\"\npaging = {paging}\nttl = \"{}\"\njitter = \"{}%\"\non_unknown = {on_unknown}\nlong_address = \"{long_address}\"\nfill = \"{fill}\"\nstale_while_revalidate = \"{}\"\nsource_lag = \"{}\"\non_source_lag = \"{}\"\n",
        written(policy.ttl),
        policy.jitter_percent,
        written(policy.stale_while_revalidate),
        written(policy.source_lag),
        match policy.on_source_lag {
            LagRule::NoStore => "no_store",
            LagRule::Primary => "primary",
        }
    )
}
