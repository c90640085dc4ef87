//! The two text formats in which a node shows its metrics, and which one a request gets.
//!
//! [OpenMetrics 1.0.0](https://prometheus.io/docs/specs/om/open_metrics_spec/) is what a Prometheus
//! server asks for. Whoever does not gets [Prometheus'
//! own](https://prometheus.io/docs/instrumenting/exposition_formats/), version 0.0.4, which every
//! tool reads, `promtool check metrics` among them. Both show the same samples in the same order.

use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Text,
}

const OPEN_METRICS: &str = "application/openmetrics-text";
const VERSION: &str = "1.0.0";

/// One of the types that a request would take, and how gladly, from 0 to 1.
struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    quality: f32,
}

impl<'a> Range<'a> {
    /// None where it is no range that anybody could mean.
    fn of(text: &'a str) -> Option<Range<'a>> {
        let mut words = text.split(';').map(str::trim);
        let kind = words.next().filter(|kind| kind.contains('/'))?;
        let mut range = Range { kind, version: None, quality: 1.0 };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            match name.trim() {
                "q" => range.quality = value.trim().parse().unwrap_or(0.0),
                "version" => range.version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        Some(range)
    }
}

impl Format {
    /// What the headers `Accept` of a request ask for. OpenMetrics has to be asked for by name.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Format {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.into_iter().flat_map(|header| header.split(',')).filter_map(Range::of) {
            if range.kind.eq_ignore_ascii_case(OPEN_METRICS) {
                if range.version.is_none_or(|version| version == VERSION) {
                    open = open.max(range.quality);
                }
            } else if ["text/plain", "text/*", "*/*"]
                .iter()
                .any(|kind| range.kind.eq_ignore_ascii_case(kind))
            {
                text = text.max(range.quality);
            }
        }
        if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// A page in OpenMetrics, in this format.
    pub(super) fn of_open_metrics(self, page: String) -> String {
        match self {
            Format::OpenMetrics => page,
            Format::Text => prometheus(&page),
        }
    }
}

/// In Prometheus' own format the family of a counter has the name of its samples, there are no
/// units, and no end.
fn prometheus(page: &str) -> String {
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: BTreeSet<_> = kinds.filter_map(|kind| kind.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let about = ["# HELP ", "# TYPE "].into_iter().find(|about| line.starts_with(about));
        let family = about.and_then(|about| line[about.len()..].split_once(' '));
        match (about, family) {
            (Some(about), Some((name, rest))) if counters.contains(name) => {
                text.extend([about, name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_comes_to_those_who_ask_for_it_by_name() {
        let accepted = |header: &str| Format::accepted([header]);
        // Prometheus 2.42 and 3.5.
        let old = "application/openmetrics-text;version=1.0.0,\
                   application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                   application/openmetrics-text;version=0.0.1;q=0.4,\
                   text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                   text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let plain = "application/openmetrics-text";
        let spaced = " Application/OpenMetrics-Text ; version=\"1.0.0\" ; q=0.9 , */* ; q=0.9";
        for header in [old, new, plain, spaced] {
            assert_eq!(accepted(header), Format::OpenMetrics, "{header}");
        }
        for header in [
            "*/*",
            "text/plain",
            "",
            "application/openmetrics-text;q=0, text/plain",
            "application/openmetrics-text;q=0.2, text/plain;q=0.3",
            "application/openmetrics-text;q=many",
            "application/openmetrics-text;version=2.0.0",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/vnd.google.protobuf",
            ";;=,,/;q=",
        ] {
            assert_eq!(accepted(header), Format::Text, "{header}");
        }
        assert_eq!(Format::accepted([]), Format::Text);
        assert_eq!(Format::accepted(["text/plain;q=0.1", plain]), Format::OpenMetrics);
    }

    #[test]
    fn the_same_page_in_both_formats() {
        let open = "# HELP devicedb_puts Puts.\n# TYPE devicedb_puts counter\n\
                    devicedb_puts_total{site=\"# TYPE a\"} 3\n# HELP devicedb_took Time.\n\
                    # TYPE devicedb_took histogram\n# UNIT devicedb_took seconds\n\
                    devicedb_took_bucket{le=\"+Inf\"} 0\n# EOF\n";
        assert_eq!(Format::OpenMetrics.of_open_metrics(open.to_owned()), open);
        assert_eq!(
            Format::Text.of_open_metrics(open.to_owned()),
            "# HELP devicedb_puts_total Puts.\n# TYPE devicedb_puts_total counter\n\
             devicedb_puts_total{site=\"# TYPE a\"} 3\n# HELP devicedb_took Time.\n\
             # TYPE devicedb_took histogram\ndevicedb_took_bucket{le=\"+Inf\"} 0\n"
        );
    }
}
