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

#[cfg(test)]
mod tests {
    use super::*;
    use Health::{Critical, Degraded, Healthy, Unhealthy};

    const SEVERITIES: [Health; 4] = [Critical, Unhealthy, Degraded, Unhealthy];

    fn judge(policy: Policy, failing: &[usize]) -> Health {
        policy.judge(SEVERITIES.iter().enumerate().map(|(at, severity)| (*severity, failing.contains(&at))))
    }

    /// HD-16.
    #[test]
    fn connectivity_alone_is_critical_by_severity_and_degraded_by_fraction() {
        assert_eq!(judge(Policy::Severity, &[0]), Critical);
        assert_eq!(judge(Policy::Fraction, &[0]), Degraded);
    }

    #[test]
    fn the_worst_of_what_fails_counts() {
        assert_eq!(judge(Policy::Severity, &[]), Healthy);
        assert_eq!(judge(Policy::Severity, &[2]), Degraded);
        assert_eq!(judge(Policy::Severity, &[1, 2, 3]), Unhealthy);
    }

    #[test]
    fn fractions_have_their_edges_at_three_quarters_and_a_half() {
        let fractions = [&[][..], &[1], &[0, 1], &[0, 1, 2], &[0, 1, 2, 3]]
            .map(|failing| judge(Policy::Fraction, failing));
        assert_eq!(fractions, [Healthy, Degraded, Unhealthy, Critical, Critical]);
        assert_eq!(Policy::Fraction.judge(std::iter::empty()), Healthy);
    }
}
