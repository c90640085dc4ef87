//! When the repository was last verified, and a restore of it rehearsed, as `/metrics` shows it.

use prometheus_client::metrics::{family::Family, gauge::Gauge};

use super::{Metrics, labels::Ended};

impl Metrics {
    /// Each with the time at which it began, in seconds since 1970, and whether all was well.
    pub fn looked_after(&self, verified: Option<(u64, bool)>, drilled: Option<(u64, bool)>) {
        show(&self.repository_verified, ["sound", "damaged"], verified);
        show(&self.repository_drilled, ["passed", "failed"], drilled);
    }
}

fn show(family: &Family<Ended, Gauge>, [well, ill]: [&'static str; 2], last: Option<(u64, bool)>) {
    let now = last.map(|(_, is_well)| if is_well { well } else { ill });
    if let Some((outcome, (at_s, _))) = now.zip(last) {
        family.get_or_create(&Ended { outcome }).set(at_s as i64);
    }
    for outcome in [well, ill].into_iter().filter(|outcome| now != Some(outcome)) {
        family.remove(&Ended { outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_is_shown_by_what_it_came_to_and_none_is_absent() {
        let metrics = Metrics::default();
        let shown = |what: &str| {
            let name = format!("devicedb_repository_last_{what}_timestamp_seconds{{");
            let page = metrics.text(crate::base::metrics::Format::OpenMetrics);
            let lines = page.lines().filter_map(|line| line.strip_prefix(&name));
            lines.map(str::to_owned).collect::<Vec<String>>()
        };
        assert_eq!((shown("verified"), shown("drill")), (vec![], vec![]));
        metrics.looked_after(Some((5, true)), None);
        assert_eq!(shown("verified"), ["outcome=\"sound\"} 5"]);
        metrics.looked_after(Some((6, false)), Some((7, true)));
        assert_eq!(shown("verified"), ["outcome=\"damaged\"} 6"]);
        assert_eq!(shown("drill"), ["outcome=\"passed\"} 7"]);
        metrics.looked_after(None, Some((8, false)));
        assert_eq!(
            (shown("verified"), shown("drill")),
            (vec![], vec!["outcome=\"failed\"} 8".into()])
        );
    }
}
