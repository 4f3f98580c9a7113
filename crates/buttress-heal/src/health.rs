use buttress_core::observe::Health;

/// How the checks together make one [`Health`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// The worst severity among the checks that fail. A database that cannot be reached is critical, however well the
    /// memory is.
    #[default]
    Severity,
    /// The share of checks that pass: all are healthy, at least three quarters degraded, at least a half unhealthy, less
    /// critical. One dead check of four is degraded, whichever it is; it opens an incident all the same.
    Fraction,
}

impl Policy {
    /// The health, given each check's severity and whether it fails.
    pub(crate) fn judge(self, checks: impl Iterator<Item = (Health, bool)> + Clone) -> Health {
        match self {
            Self::Severity => {
                let failing = checks.filter_map(|(severity, fails)| fails.then_some(severity));
                failing.max().unwrap_or(Health::Healthy)
            }
            Self::Fraction => {
                let all = checks.clone().count();
                let passing = checks.filter(|(_, fails)| !fails).count();
                match (passing * 4, all) {
                    _ if passing == all => Health::Healthy,
                    (quarters, all) if quarters >= all * 3 => Health::Degraded,
                    (quarters, all) if quarters >= all * 2 => Health::Unhealthy,
                    _ => Health::Critical,
                }
            }
        }
    }
}
